"""What tests that talk to a fleet's servers share, beside the fixtures in fleet_fixtures.py."""

import http.client
import shutil
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from signet.fleet.serving import LOOPBACK, Fleet
from signet.fleet.session import OperatorSession

WAIT_S = 60  # for anything that a test waits for; reached by what hangs alone


def put_credentials(folder: Path, keys: Path, chain: bytes, key: bytes) -> None:
    """Make a folder from which OperatorSession and `client_context` connect as someone else."""
    folder.mkdir()
    shutil.copy(keys / "root-ca.pem", folder)
    (folder / "operator.pem").write_bytes(chain)
    (folder / "operator.key").write_bytes(key)


def open_session(folder: Path, fleet: Fleet, subscribe: str | None = None) -> OperatorSession:
    """An MQTT session with the credentials in a folder."""
    return OperatorSession(folder, fleet.addresses["broker"], subscribe, WAIT_S)


def client_context(keys: Path, certificate: Path | None, key: Path | None = None) -> ssl.SSLContext:
    """TLS to the servers; the key is beside the certificate unless it is given."""
    context = ssl.create_default_context(cafile=keys / "root-ca.pem")
    if certificate is not None:
        context.load_cert_chain(certificate, key or certificate.with_suffix(".key"))
    return context


def exchange(port: int, context: ssl.SSLContext | None, request: bytes) -> bytes:
    """The start of a server's answer; empty if it closes without one, or the handshake fails."""
    try:
        with socket.create_connection((LOOPBACK, port), WAIT_S) as raw:
            if context is None:
                raw.sendall(request)
                return raw.recv(8)
            with context.wrap_socket(raw, server_hostname=LOOPBACK) as sock:
                sock.sendall(request)
                return sock.recv(8)
    except TimeoutError:
        raise
    except OSError:  # a reset may come before `connect` returns, or later
        return b""


class ImageClient:
    """One connection to the image server, as dev-0001."""

    def __init__(self, devices: Path, port: int):
        context = client_context(devices / "dev-0001", devices / "dev-0001/operator.pem")
        self.connection = http.client.HTTPSConnection(
            LOOPBACK, port, context=context, timeout=WAIT_S
        )

    def get(
        self, path: str, method: str = "GET", **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """(status, headers, body); `If_Range=…` is the header If-Range."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, headers=named)
        response = self.connection.getresponse()
        return response.status, response.headers, response.read()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"it did not happen within {WAIT_S} s")
        time.sleep(0.02)
