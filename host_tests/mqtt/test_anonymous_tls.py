"""mtls.connect.anonymous_context: no certificate of ours, and the server's is checked as ever."""

import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from host_tests.mqtt.certificates import Authority
from host_tests.tool_helpers import REPO

LIMIT_S = 60
ANSWER = b"Welcome\n"
CODE = """
import asyncio, sys
import mtls, mtls.connect
async def ask(host, port, ca, timeout_s):
    with open(ca, "rb") as file:
        context = mtls.connect.anonymous_context(file.read())
    reader, writer = await mtls.open_stream(host, int(port), context, int(timeout_s))
    answer, buf = b"", bytearray(8)
    while answer[-1:] != b"\\n":
        answer += buf[: await reader.readinto(buf)]
    print(answer)
    await writer.wait_closed()
try:
    asyncio.run(ask(*sys.argv[1:]))
except mtls.TLSError as error:
    print("TLSError", error)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("anonymous")


@pytest.fixture(scope="module")
def ca(folder: Path) -> Authority:
    return Authority(folder, "ca")


def serve(listener: socket.socket, context: ssl.SSLContext) -> None:
    connection, _ = listener.accept()
    with connection:
        try:
            with context.wrap_socket(connection, server_side=True) as secure:
                secure.sendall(ANSWER)
        except OSError:  # refused, which the client says
            pass


def ask(
    micropython: Path, folder: Path, certificate: Path, ca: Path, *, is_silent: bool = False
) -> str:
    """What a client says that trusts `ca` and asks a server with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    timeout_s = 1 if is_silent else LIMIT_S
    script = folder / "ask.py"
    script.write_text(CODE)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener, context))
        if not is_silent:
            thread.start()
        done = subprocess.run(
            [micropython, script, "localhost", str(listener.getsockname()[1]), ca,
             str(timeout_s)],
            env={"MICROPYPATH": f"{REPO / 'lib'}:.frozen"},
            capture_output=True, text=True, timeout=LIMIT_S, check=True,
        )  # fmt: skip
        if not is_silent:
            thread.join(LIMIT_S)
    return done.stdout


def test_a_server_that_wants_no_certificate(micropython: Path, folder: Path, ca: Authority) -> None:
    certificate = ca.issue("server", "server", "localhost")
    assert ask(micropython, folder, certificate, ca.path) == "b'Welcome\\n'\n"


@pytest.mark.parametrize("wrong", ["CA", "host", "dates"])
def test_its_certificate_is_checked_all_the_same(
    micropython: Path, folder: Path, ca: Authority, wrong: str
) -> None:
    anchor = Authority(folder, "other").path if wrong == "CA" else ca.path
    host = "example.org" if wrong == "host" else "localhost"
    days = (-2, -1) if wrong == "dates" else (-1, 1)
    certificate = ca.issue("server", "server", host, days=days)
    assert ask(micropython, folder, certificate, anchor).startswith("TLSError localhost: ")


def test_a_server_that_never_answers_is_given_up(
    micropython: Path, folder: Path, ca: Authority
) -> None:
    certificate = ca.issue("server", "server", "localhost")
    said = ask(micropython, folder, certificate, ca.path, is_silent=True)
    assert said.startswith("TLSError no TLS connection to localhost:")
    assert said.endswith(" within 1 s\n")
