"""mosquitto as the tests of lib/mqtt need it, and paho's client beside ours.

Nothing here imports the code under test or Signet's own tools.
"""

import base64
import contextlib
import hashlib
import os
import queue
import random
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from host_tests.mqtt.certificates import Authority

LOOPBACK = "127.0.0.1"
_CLAIMS: list[socket.socket] = []
TIMEOUT_S = 60  # for anything that a test waits for; reached by what hangs alone

# paho's names of properties, and the client's.
_NAMES_5 = {
    "ContentType": "content_type",
    "CorrelationData": "correlation_data",
    "MessageExpiryInterval": "message_expiry_interval",
    "PayloadFormatIndicator": "payload_format_indicator",
    "ResponseTopic": "response_topic",
    "UserProperty": "user_property",
}

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

    def __init__(
        self,
        mosquitto: Path,
        folder: Path,
        *,
        users: dict[str, str] | None = None,
        more: str = "",
    ):
        """users: name to password; without them, everybody is served.

        more: lines of the configuration.
        """
        self.port, self._tls_port = free_ports(2)
        authority = Authority(folder, "ca")
        server = authority.issue("server", "localhost", "localhost", LOOPBACK)
        self.where = tls_address(self._tls_port, authority)
        configuration = folder / "mosquitto.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                folder=folder,
                anonymous="false" if users else "true",
                port=self.port,
                tls_port=self._tls_port,
                ca=authority.path,
                certificate=server,
                key=server.with_suffix(".key"),
            )
        )
        if users:
            passwords = folder / "passwords"
            passwords.write_text("".join(_password_line(*each) for each in users.items()))
            more += f"\npassword_file {passwords}\n"
        with configuration.open("a") as file:
            file.write(more)
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


def _password_line(name: str, password: str) -> str:
    """As mosquitto_passwd writes it."""
    salt, rounds = os.urandom(12), 101
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, rounds)
    fields = (base64.b64encode(data).decode() for data in (salt, digest))
    return f"{name}:$7${rounds}${'$'.join(fields)}\n"


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


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at, below those that a system gives to connections.

    One of these could be another's by the time that a broker listens, or while it restarts.  Other
    workers and runs do not get them before this process ends: each holds a name for its own.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(10_000, 20_000)
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0signet-test-port-{port}")
            socket.create_server((LOOPBACK, port)).close()
        except OSError:
            claim.close()
        else:
            _CLAIMS.append(claim)
            ports.append(port)
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


class Received(NamedTuple):
    """A message, as an Observer or a Puppet has it.

    payload: bytes that are no text, and large ones: a dict, see puppet_device.py.
    """

    topic: str
    payload: Any
    qos: int
    retain: bool
    properties: dict[str, Any] | None = None


class Observer:
    """Another client of the broker, paho's; `with Observer(port) as observer: …`."""

    def __init__(
        self, port: int, *, client_id: str = "", persistent: bool = False, version: int = 4
    ):
        self._port = port
        self._messages: queue.Queue[Received] = queue.Queue()
        self._granted = threading.Event()
        self._version = version
        keywords: dict[str, Any] = {} if version == 5 else {"clean_session": not persistent}
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            protocol=MQTTProtocolVersion(version),
            **keywords,
        )
        self._client.reconnect_delay_set(1, 1)
        self._client.on_message = self._on_message
        self._client.on_subscribe = lambda *_: self._granted.set()

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        properties = None
        if self._version == 5:
            found = message.properties.json() if message.properties else {}
            properties = {_NAMES_5.get(name, name): value for name, value in found.items()}
        payload: Any = bytes(message.payload)
        with contextlib.suppress(UnicodeDecodeError):
            payload = payload.decode()
        self._messages.put(
            Received(message.topic, payload, message.qos, bool(message.retain), properties)
        )

    def __enter__(self) -> Self:
        self._client.connect(LOOPBACK, self._port)
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def subscribe(self, topic_filter: str, qos: int = 2) -> None:
        self._granted.clear()
        self._client.subscribe(topic_filter, qos)
        if not self._granted.wait(TIMEOUT_S):
            raise TimeoutError("no SUBACK for paho")

    def publish(
        self,
        topic: str,
        payload: str | bytes,
        qos: int = 1,
        retain: bool = False,
        properties: dict[str, Any] | None = None,
    ) -> None:
        """properties: by paho's names, such as MessageExpiryInterval."""
        encoded = None
        if properties is not None:
            encoded = Properties(PacketTypes.PUBLISH)
            for name, value in properties.items():
                setattr(encoded, name, value)
        sent = self._client.publish(topic, payload, qos, retain, encoded)
        sent.wait_for_publish(TIMEOUT_S)

    def publish_later(self, topic: str, payload: str, qos: int) -> None:
        """Without waiting: as soon as there is a connection."""
        self._client.publish(topic, payload, qos)

    def message(self, timeout_s: float = TIMEOUT_S) -> Received:
        return self._messages.get(timeout=timeout_s)

    def payloads(self, count: int) -> list[Any]:
        return [self.message().payload for _ in range(count)]

    def is_quiet(self) -> bool:
        """Whether there is no message, now that the broker is done with all that it was sent.

        It has looked at every connection between two messages of ours.
        """
        mark = f"mark/{id(self)}"
        self.subscribe(mark)
        self.publish(mark, "")
        self.publish(mark, "")
        return [self.message().topic for _ in range(2)] == [mark, mark]
