"""What the tests of lib/mqtt share: a broker, its other clients, a puppet, a false broker.

Nothing here imports the code under test or Signet's own tools: the broker is mosquitto, the other
clients are paho's, and the false broker takes packets apart by hand.
"""

import contextlib
import json
import queue
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from host_tests.mqtt_certificates import Authority

REPO = Path(__file__).resolve().parent.parent
LOOPBACK = "127.0.0.1"
HEAP = "64wK"  # as many words as an ESP32's first heap segment has
TIMEOUT_S = 15  # for anything that a test waits for

_CONFIGURATION = """
persistence true
persistence_location {folder}/
user root
allow_anonymous {anonymous}

listener {port} 127.0.0.1

listener {tls_port} 127.0.0.1
cafile {ca}
certfile {certificate}
keyfile {key}
require_certificate true
use_identity_as_username true
"""


class Broker:
    """A mosquitto that keeps its sessions over a restart.

    where: for a puppet, over mutual TLS. port: plain TCP, without any credentials.
    """

    def __init__(self, mosquitto: Path, folder: Path, *, anonymous: bool = True):
        """anonymous: whether those who come without credentials are served."""
        self.port, self._tls_port = _free_ports(2)
        authority = Authority(folder, "ca")
        server = authority.issue("server", "localhost", "localhost", LOOPBACK)
        self.where = tls_address(self._tls_port, authority)
        configuration = folder / "mosquitto.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                folder=folder,
                anonymous="true" if anonymous else "false",
                port=self.port,
                tls_port=self._tls_port,
                ca=authority.path,
                certificate=server,
                key=server.with_suffix(".key"),
            )
        )
        self._command = [str(mosquitto), "-c", str(configuration)]
        self._log = folder / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        for port in (self.port, self._tls_port):
            _wait_for_port(port)

    def stop(self) -> None:
        """In good order: sessions and retained messages are written down."""
        if self._process:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            self._process.wait(TIMEOUT_S)
            self._process = None

    def kill(self) -> None:
        """As a power cut would."""
        self.signal(signal.SIGKILL)
        if self._process:
            self._process.wait(TIMEOUT_S)
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise RuntimeError("the broker is not running")
        self._process.send_signal(number)


def tls_address(port: int, authority: Authority) -> dict[str, Any]:
    """What a puppet needs to connect over mutual TLS."""
    certificate = authority.issue("device", "dev-0001")
    key = certificate.with_suffix(".key")
    return {
        "host": "localhost",
        "port": port,
        "certificate": str(certificate),
        "key": str(key),
        "ca": str(authority.path),
    }


def _free_ports(count: int) -> list[int]:
    listeners = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def _wait_for_port(port: int) -> None:
    end = time.monotonic() + TIMEOUT_S
    while True:
        try:
            socket.create_connection((LOOPBACK, port), 1).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
        else:
            return


class Observer:
    """Another client of the broker, paho's; `with Observer(port) as observer: …`."""

    def __init__(self, port: int, *, client_id: str = "", persistent: bool = False):
        self._port = port
        self._messages: queue.Queue[tuple[str, str, int, bool]] = queue.Queue()
        self._granted = threading.Event()
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=not persistent,
            protocol=paho.MQTTv311,
        )
        self._client.reconnect_delay_set(1, 1)
        self._client.on_message = self._on_message
        self._client.on_subscribe = lambda *_: self._granted.set()

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        self._messages.put(
            (message.topic, message.payload.decode(), message.qos, bool(message.retain))
        )

    def __enter__(self) -> Self:
        self._client.connect(LOOPBACK, self._port)
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def subscribe(self, topic_filter: str) -> None:
        self._client.subscribe(topic_filter, 1)
        if not self._granted.wait(TIMEOUT_S):
            raise TimeoutError("no SUBACK for paho")

    def publish(self, topic: str, payload: str, qos: int = 1, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos, retain).wait_for_publish(TIMEOUT_S)

    def message(self, timeout_s: float = TIMEOUT_S) -> tuple[str, str, int, bool]:
        """(topic, payload, qos, retained)."""
        return self._messages.get(timeout=timeout_s)

    def is_quiet(self) -> bool:
        """Whether no message comes for a moment."""
        time.sleep(0.2)
        return self._messages.empty()


class RemoteError(Exception):
    """What a puppet's method raised; name: its class."""

    def __init__(self, name: str, text: str):
        super().__init__(f"{name}: {text}")
        self.name = name


class Puppet:
    """A lib/mqtt client under MicroPython; see mqtt_puppet.py, whose methods `call` names."""

    def __init__(self, micropython: Path, where: dict[str, Any], **keywords: object):
        script = str(REPO / "host_tests/mqtt_puppet.py")
        self._process = subprocess.Popen(
            [str(micropython), "-X", f"heapsize={HEAP}", script],
            env={"MICROPYPATH": f"{REPO / 'lib'}:.frozen"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._last = 0
        self._news: queue.Queue[list[Any]] = queue.Queue()
        self._aside: list[list[Any]] = []  # news that nobody asked for yet
        threading.Thread(target=self._listen, daemon=True).start()
        self._tell([where, keywords])

    def _listen(self) -> None:
        for line in self._process.stdout or ():
            try:
                self._news.put(json.loads(line))
            except ValueError:
                self._news.put(["printed", line.rstrip()])
        self._news.put(["ended"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._process.wait(TIMEOUT_S)
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    def kill(self) -> None:
        self._process.kill()

    def start(self, method: str, *arguments: object) -> int:
        """Give a command; returns its number, for `result`."""
        self._last += 1
        self._tell([self._last, method, *arguments])
        return self._last

    def _tell(self, line: list[Any]) -> None:
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError):  # it ended: `_wait_for` will say so
                self._process.stdin.write(json.dumps(line) + "\n")
                self._process.stdin.flush()

    def result(self, number: int) -> Any:
        """What a command returned; RemoteError if it raised."""
        _, kind, *values = self._wait_for(number)
        if kind == "raised":
            raise RemoteError(*values)
        return values[0]

    def call(self, method: str, *arguments: object) -> Any:
        return self.result(self.start(method, *arguments))

    def message(self) -> tuple[str, str, bool]:
        """The next message: (topic, payload, retained)."""
        _, topic, payload, retained = self._wait_for("message")
        return topic, payload, retained

    def event(self) -> list[Any]:
        """The next message or loss, as mqtt_puppet.py reports it."""
        return self._wait_for("message", "lost")

    def wait_until_lost(self) -> str:
        """Wait for on_lost; returns what `check` raises from then on."""
        self._wait_for("lost")
        return self.reason()

    def reason(self) -> str:
        """What `check` raises."""
        try:
            self.call("check")
        except RemoteError as error:
            return str(error)
        return "not lost"

    def heard(self, kind: str) -> int:
        """How many "message" or "lost" came, within a moment, that nobody asked for."""
        time.sleep(0.2)
        self.call("counts")  # all news before its answer is in
        return sum(news[0] == kind for news in self._aside)

    def _wait_for(self, *keys: int | str) -> list[Any]:
        """The next line that begins with one of these."""
        for news in self._aside:
            if news[0] in keys:
                self._aside.remove(news)
                return news
        end = time.monotonic() + TIMEOUT_S
        while True:
            try:
                news = self._news.get(timeout=max(0, end - time.monotonic()))
            except queue.Empty:
                raise TimeoutError(f"waited for {keys}, got {self._aside}") from None
            if news[0] in keys:
                return news
            self._aside.append(news)
            if news[0] == "ended":
                raise RuntimeError(f"waited for {keys}, but it ended: {self._aside}")


class FalseBroker:
    """The server's end of connections, and it does what the test says."""

    def __init__(self, authority: Authority | None = None) -> None:
        """authority: for TLS instead of TCP, with certificates that it issues."""
        self._context = None
        self._listener = socket.create_server((LOOPBACK, 0))
        self._listener.settimeout(TIMEOUT_S)
        self.where: dict[str, Any] = {"port": int(self._listener.getsockname()[1])}
        if authority:
            certificate = authority.issue("server", "localhost", "localhost")
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificate, certificate.with_suffix(".key"))
            self.where = tls_address(self.where["port"], authority)
        self._links: list[FalseLink] = []  # kept, or they would be closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for link in self._links:
            link.close()

    def shrink(self) -> None:
        """Let clients from now on have no more than some kilobytes on their way."""
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.where["send_buffer"] = 4096

    def accept(self, handshake: bool = True) -> "FalseLink":
        """The next connection; over TLS, after the handshake or without one."""
        connection = self._listener.accept()[0]
        if self._context and handshake:
            connection = self._context.wrap_socket(connection, server_side=True)
        self._links.append(FalseLink(connection))
        return self._links[-1]

    def welcome(self, session_present: bool = False) -> "FalseLink":
        """Accept a client as MQTT has it: CONNECT, CONNACK."""
        link = self.accept()
        if link.packet()[0] != 0x10:
            raise RuntimeError("expected CONNECT")
        link.send(b"\x20\x02" + bytes((session_present, 0)))
        return link


class FalseLink:
    """One connection of a FalseBroker."""

    def __init__(self, connection: socket.socket):
        self.socket = connection
        connection.settimeout(TIMEOUT_S)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def packet(self) -> bytes:
        """The next packet, whole; b"" at the end."""
        packet = self.socket.recv(1)
        if not packet:
            return b""
        remaining, shift = 0, 0
        while True:
            digit = self._read(1)
            packet += digit
            remaining |= (digit[0] & 0x7F) << shift
            shift += 7
            if digit[0] < 0x80:
                return packet + self._read(remaining)

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            data += self.socket.recv(length - len(data)) or _raise_end()
        return data

    def is_silent(self, seconds: float) -> bool:
        """Whether nothing comes for so long."""
        self.socket.settimeout(seconds)
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(TIMEOUT_S)
        return False

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Close as a link that broke shows itself."""
        linger_for_0_s = struct.pack("ii", 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_for_0_s)
        self.close()


def _raise_end() -> bytes:
    raise EOFError("the client closed in the middle of a packet")
