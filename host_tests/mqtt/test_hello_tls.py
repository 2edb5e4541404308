"""docs/examples/hello_tls.py under MicroPython, on a virtual ESP32's flash, and a real TLS server
that requires client certificates: it works, and says why when it does not.
"""

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509

from host_tests.mqtt.certificates import Authority
from signet.device.identity import build_identity
from signet.formats import flash
from signet.image import slot_image

REPO = Path(__file__).resolve().parents[2]
HELLO = b"Hello Secure IoT Server\n"
WELCOME = b"Welcome IoT Device\n"
TIMEOUT_S = 30
VERSIONS = {"TLS 1.2": ssl.TLSVersion.TLSv1_2, "TLS 1.3": ssl.TLSVersion.TLSv1_3}

# What start.py does of the virtual board, as far as the example needs it.
BOARD = """
import sys
import chip
chip.flash = open(sys.argv.pop(1), "rb")
{}
import hello_tls
"""
# lib has no way to leave the certificate out.
NO_CERTIFICATE = """
import mtls
import tls
def client_context(certificate, key, ca):
    context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ca)
    return context
mtls.client_context = client_context
"""


class Server:
    """Answers the example's greeting to clients whose certificate `authority` issued."""

    def __init__(
        self, version: ssl.TLSVersion, certificate: Path, authority: Path, answer: bytes
    ) -> None:
        self._answer = answer
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = self._context.maximum_version = version
        self._context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        self._context.load_verify_locations(authority)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(TIMEOUT_S)
        self.port = int(self._listener.getsockname()[1])
        self.heard: list[tuple[bytes, str | None, str]] = []  # line, TLS version, client's name
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        try:
            connection = self._listener.accept()[0]
            connection.settimeout(TIMEOUT_S)
            with self._context.wrap_socket(connection, server_side=True) as secure:
                line = secure.makefile("rb").readline()
                certificate = secure.getpeercert(binary_form=True) or b""
                name = x509.load_der_x509_certificate(certificate).subject.rfc4514_string()
                self.heard.append((line, secure.version(), name))
                secure.sendall(self._answer)
        except OSError:  # refused, one way or the other: the client says which
            pass

    def close(self) -> None:
        self._listener.close()
        self._thread.join(TIMEOUT_S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hello")


@pytest.fixture(scope="module")
def fleet_ca(folder: Path) -> Authority:
    return Authority(folder, "fleet-ca")


@pytest.fixture(scope="module")
def other_ca(folder: Path) -> Authority:
    return Authority(folder, "other-ca")


def make_flash(certificate: Path, ca: Path) -> Path:
    """A flash file of the real layout with this identity; its path."""
    layout = flash.load_layout(REPO / slot_image.LAYOUT)
    content = bytearray(b"\xff" * flash.FLASH_LENS[0])
    table = flash.build_table(layout)
    content[flash.TABLE_OFFSET : flash.TABLE_OFFSET + len(table)] = table
    place = next(row for row in layout if row.label == "esp_secure_cert")
    key = certificate.with_suffix(".key")
    record = {"v": 1, "id": "dev-0001", "model": "m", "broker": "", "images": "", "ntp": ""}
    record |= {"release": ["00" * 32], "fleet": ["00" * 32], "watchdog_s": 30, "profile": "dev"}
    content[place.offset : place.offset + place.size] = build_identity(
        certificate.read_bytes(), key.read_bytes(), ca.read_bytes(), record, place.size
    )
    path = certificate.with_suffix(f".{ca.stem}.bin")
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def board(folder: Path, fleet_ca: Authority) -> Path:
    """The flash of a device as provisioning makes it."""
    return make_flash(fleet_ca.issue("device", "dev-0001"), fleet_ca.path)


@pytest.fixture(params=VERSIONS)
def serve(request: pytest.FixtureRequest, fleet_ca: Authority) -> Iterator[Callable[..., Server]]:
    servers = []

    def start(certificate: Path, answer: bytes = WELCOME) -> Server:
        servers.append(Server(VERSIONS[request.param], certificate, fleet_ca.path, answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def run(
    micropython: Path, board: Path, host: str, port: int, prelude: str = ""
) -> subprocess.CompletedProcess[str]:
    script = board.with_suffix(".py")
    script.write_text(BOARD.format(prelude))
    folders = [REPO / name for name in ("lib", "docs/examples", "tools/virtual_board")]
    return subprocess.run(
        [str(micropython), "-X", "heapsize=64wK", str(script), str(board), host, str(port)],
        env={"MICROPYPATH": ":".join([".frozen", *map(str, folders)])},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


@contextlib.contextmanager
def listening(speak: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a server that does this with its one connection."""

    def serve() -> None:
        with listener.accept()[0] as connection:
            speak(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(TIMEOUT_S)


def refuse(done: subprocess.CompletedProcess[str], server: Server, reason: str) -> None:
    assert reason in done.stdout
    assert done.stdout.startswith("hello_tls: error: localhost")
    assert done.stdout.count("\n") == 1
    assert (done.returncode, done.stderr) == (1, "")
    server.close()
    assert server.heard == []


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_hello(micropython, board, serve, fleet_ca, host, request):
    server = serve(fleet_ca.issue("server", "server", host))
    done = run(micropython, board, host, server.port)
    assert (done.stdout, done.stderr, done.returncode) == ("Welcome IoT Device\n", "", 0)
    version = request.node.callspec.params["serve"].replace("TLS ", "TLSv")
    assert server.heard == [(HELLO, version, "CN=dev-0001")]


def test_server_that_speaks_first(micropython, board, fleet_ca):
    """Its first data in one piece with the end of the handshake: nothing of it is lost."""
    certificate = fleet_ca.issue("server", "server", "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # with 1.3, the client's part is the last
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secure = context.wrap_bio(incoming, outgoing, server_side=True)

    def speak(connection: socket.socket) -> None:
        while True:
            try:
                secure.do_handshake()
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                incoming.write(connection.recv(4096))
            else:
                break
        secure.write(WELCOME)
        connection.sendall(outgoing.read())
        connection.recv(4096)

    with listening(speak) as port:
        done = run(micropython, board, "localhost", port)
    assert (done.stdout, done.stderr, done.returncode) == ("Welcome IoT Device\n", "", 0)


def test_server_that_says_nothing(micropython, board, serve, fleet_ca):
    server = serve(fleet_ca.issue("server", "server", "localhost"), answer=b"")
    done = run(micropython, board, "localhost", server.port)
    assert done.stdout == "hello_tls: error: localhost closed the connection without an answer\n"
    assert done.returncode == 1


def test_no_client_certificate(micropython, board, serve, fleet_ca):
    server = serve(fleet_ca.issue("server", "server", "localhost"))
    done = run(micropython, board, "localhost", server.port, NO_CERTIFICATE)
    refuse(done, server, "it does not accept our certificate")


def test_client_certificate_of_another_ca(micropython, serve, fleet_ca, other_ca):
    board = make_flash(other_ca.issue("clone", "dev-0001"), fleet_ca.path)
    server = serve(fleet_ca.issue("server", "server", "localhost"))
    done = run(micropython, board, "localhost", server.port)
    refuse(done, server, "it does not accept our certificate")


def test_expired_client_certificate(micropython, serve, fleet_ca):
    board = make_flash(fleet_ca.issue("old", "dev-0001", days=(-2, -1)), fleet_ca.path)
    server = serve(fleet_ca.issue("server", "server", "localhost"))
    done = run(micropython, board, "localhost", server.port)
    refuse(done, server, "it does not accept our certificate")


def test_server_of_another_ca(micropython, board, serve, other_ca):
    server = serve(other_ca.issue("impostor", "server", "localhost"))
    done = run(micropython, board, "localhost", server.port)
    refuse(done, server, "not correctly signed by the trusted CA")


@pytest.mark.parametrize("name", ["elsewhere", "localhost.example.org", "10.0.0.1"])
def test_server_of_another_name(micropython, board, serve, fleet_ca, name):
    server = serve(fleet_ca.issue("elsewhere", name, name))
    done = run(micropython, board, "localhost", server.port)
    refuse(done, server, "does not match")


@pytest.mark.parametrize(
    ("days", "reason"), [((-2, -1), "has expired"), ((1, 2), "starts in the future")]
)
def test_server_certificate_dates(micropython, board, serve, fleet_ca, days, reason):
    server = serve(fleet_ca.issue("outdated", "server", "localhost", days=days))
    done = run(micropython, board, "localhost", server.port)
    refuse(done, server, reason)


def test_no_server(micropython, board):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    done = run(micropython, board, "localhost", port)
    assert done.stdout == "hello_tls: error: [Errno 111] ECONNREFUSED\n"
    assert done.returncode == 1


def test_server_without_tls(micropython, board):
    def answer(connection: socket.socket) -> None:
        connection.sendall(b"220 example.org ESMTP\r\n")
        connection.recv(1000)

    with listening(answer) as port:
        done = run(micropython, board, "localhost", port)
    assert done.stdout == "hello_tls: error: localhost does not answer in TLS\n"
    assert done.returncode == 1
