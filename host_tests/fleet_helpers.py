"""What tests that talk to a fleet's servers share, beside the fixtures in fleet_fixtures.py."""

import http.client
import ipaddress
import shutil
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from signet.fleet.serving import LOOPBACK, Fleet
from signet.fleet.session import OperatorSession

CONNECT = b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04test"
CONNACK = b"\x20\x02\0\0"
WAIT_S = 60  # for anything that a test waits for; reached by what hangs alone


def put_credentials(folder: Path, keys: Path, chain: bytes, key: bytes) -> None:
    """Make a folder from which OperatorSession and `client_context` connect as someone else."""
    folder.mkdir()
    shutil.copy(keys / "server-ca.pem", folder)
    (folder / "operator.pem").write_bytes(chain)
    (folder / "operator.key").write_bytes(key)


def open_session(folder: Path, fleet: Fleet, subscribe: str | None = None) -> OperatorSession:
    """An operator's MQTT session with the credentials in a folder."""
    return OperatorSession(folder, fleet.addresses["operators"], subscribe, WAIT_S)


def open_device(folder: Path, fleet: Fleet, subscribe: str | None = None) -> OperatorSession:
    """The same where devices connect."""
    return OperatorSession(folder, fleet.addresses["broker"], subscribe, WAIT_S)


def forge(
    keys: Path,
    path: Path,
    issuer: str,
    subject: str,
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
    dns: str | None = None,
) -> Path:
    """A certificate as only the thief of a CA's key can make it; `path` and `path`'s .key.

    issuer: "device-ca", …. subject: its CN, or parts such as "O=x,CN=y", in this order. It is for
    this machine, too; dns: and for another one.
    """
    ca = x509.load_pem_x509_certificate((keys / f"{issuer}.pem").read_bytes())
    ca_key = serialization.load_pem_private_key((keys / f"{issuer}.key").read_bytes(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    parts = [part.rpartition("=") for part in subject.split(",")]
    oids = {"O": NameOID.ORGANIZATION_NAME}
    name = [x509.NameAttribute(oids.get(kind, NameOID.COMMON_NAME), value)
            for kind, _, value in parts]  # fmt: skip
    hosts: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address(LOOPBACK))]
    hosts += [x509.DNSName(dns)] if dns else []
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(name))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ca.not_valid_before_utc)
        .not_valid_after(ca.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    path.with_suffix(".key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


def client_context(keys: Path, certificate: Path | None, key: Path | None = None) -> ssl.SSLContext:
    """TLS to the servers; the key is beside the certificate unless it is given."""
    context = ssl.create_default_context(cafile=keys / "server-ca.pem")
    if certificate is not None:
        context.load_cert_chain(certificate, key or certificate.with_suffix(".key"))
    return context


def exchange(port: int, context: ssl.SSLContext | None, request: bytes, length: int = 8) -> bytes:
    """The start of a server's answer; empty if it closes without one, or the handshake fails."""
    try:
        with socket.create_connection((LOOPBACK, port), WAIT_S) as raw:
            if context is None:
                raw.sendall(request)
                return raw.recv(length)
            with context.wrap_socket(raw, server_hostname=LOOPBACK) as sock:
                sock.sendall(request)
                return sock.recv(length)
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
