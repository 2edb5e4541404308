"""The other side of a case: paho's client over mutual TLS, with blocking calls."""

import queue
import threading
from typing import Any, NamedTuple, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

TIMEOUT_S = 15


class Seen(NamedTuple):
    """A message. properties: {} in MQTT 3.1.1, else by paho's names."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: dict[str, Any]


class RefusedError(Exception):
    """A SUBACK or CONNACK with a failure."""


class Peer:
    """A context manager that is connected inside of it.

    features: properties of the CONNACK (MQTT 5), by paho's names.
    """

    def __init__(
        self,
        where: dict[str, Any],
        version: int,
        client_id: str,
        *,
        clean: bool = True,
        expiry_s: int = 0,
    ):
        self._where = where
        self._version = version
        self._clean = clean
        self._expiry_s = expiry_s
        self._lock = threading.Lock()
        self._messages: queue.Queue[Seen] = queue.Queue()
        self._connected = threading.Event()
        self._refused: str | None = None
        self._granted: queue.Queue[list[int]] = queue.Queue()
        self._unsubscribed = threading.Event()
        self.features: dict[str, Any] = {}
        self.unanswered = 0  # of what was posted
        keywords: dict[str, Any] = {} if version == 5 else {"clean_session": clean}
        protocol = MQTTProtocolVersion(version)
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id, protocol=protocol, **keywords
        )
        self._client.tls_set(where["ca"], where["certificate"], where["key"])
        self._client.reconnect_delay_set(1, 1)
        self._client.max_inflight_messages_set(20)
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        self._client.on_subscribe = lambda _c, _d, _mid, codes, _p: self._granted.put(
            [code.value for code in codes]
        )
        self._client.on_publish = self._on_publish
        self._client.on_unsubscribe = lambda *_: self._unsubscribed.set()

    def _on_connect(self, _c: Any, _d: Any, _f: Any, code: Any, properties: Any) -> None:
        self._refused = str(code) if code.is_failure else None
        self.features = properties.json() if properties else {}
        self._connected.set()

    def _on_publish(self, *_: object) -> None:
        with self._lock:
            self.unanswered -= 1

    def _on_message(self, _c: Any, _d: Any, message: paho.MQTTMessage) -> None:
        properties = message.properties.json() if message.properties else {}
        self._messages.put(
            Seen(
                message.topic,
                bytes(message.payload),
                message.qos,
                bool(message.retain),
                properties,
            )
        )

    def __enter__(self) -> Self:
        keywords: dict[str, Any] = {}
        if self._version == 5:
            keywords["clean_start"] = self._clean
            keywords["properties"] = _properties(
                PacketTypes.CONNECT, {"SessionExpiryInterval": self._expiry_s}
            )
        self._client.connect(self._where["host"], self._where["port"], 60, **keywords)
        self._client.loop_start()
        if not self._connected.wait(TIMEOUT_S):
            raise TimeoutError("no CONNACK for paho")
        if self._refused:
            raise RefusedError(self._refused)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def subscribe(self, topic_filter: str, qos: int = 2) -> int:
        """Returns the QoS granted."""
        if self._version == 5:
            self._client.subscribe(topic_filter, options=SubscribeOptions(qos))
        else:
            self._client.subscribe(topic_filter, qos)
        try:
            granted = self._granted.get(timeout=TIMEOUT_S)[0]
        except queue.Empty:
            raise TimeoutError("no SUBACK for paho") from None
        if granted >= 0x80:
            raise RefusedError(f"SUBACK 0x{granted:02x}")
        return granted

    def unsubscribe(self, topic_filter: str) -> None:
        self._unsubscribed.clear()
        self._client.unsubscribe(topic_filter)
        if not self._unsubscribed.wait(TIMEOUT_S):
            raise TimeoutError("no UNSUBACK for paho")

    def post(
        self, topic: str, payload: str | bytes, qos: int = 1, retain: bool = False, **values: object
    ) -> paho.MQTTMessageInfo:
        """Publish without waiting. values: properties."""
        properties = _properties(PacketTypes.PUBLISH, values) if values else None
        with self._lock:
            self.unanswered += 1
        return self._client.publish(topic, payload, qos, retain, properties)

    def publish(
        self, topic: str, payload: str | bytes, qos: int = 1, retain: bool = False, **values: object
    ) -> None:
        sent = self.post(topic, payload, qos, retain, **values)
        sent.wait_for_publish(TIMEOUT_S)
        if not sent.is_published():
            raise TimeoutError("paho: not acknowledged")

    def message(self, timeout_s: float = TIMEOUT_S) -> Seen:
        try:
            return self._messages.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError(f"paho: no message within {timeout_s} s") from None

    def payloads(self, count: int) -> list[bytes]:
        return [self.message().payload for _ in range(count)]

    def waiting(self) -> list[Seen]:
        """What is here already."""
        return [self._messages.get() for _ in range(self._messages.qsize())]

    def rest(self, timeout_s: float = 0.3) -> list[Seen]:
        """What comes until there is silence for so long."""
        found = []
        while True:
            try:
                found.append(self._messages.get(timeout=timeout_s))
            except queue.Empty:
                return found


def _properties(kind: int, values: dict[str, Any]) -> Properties:
    properties = Properties(kind)
    for name, value in values.items():
        setattr(properties, name, value)
    return properties
