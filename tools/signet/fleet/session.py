"""The operator's MQTT session: mutual TLS, MQTT 5, a client id of its own each time.

MQTT 5, because a PUBACK of MQTT 3.1.1 reports success for a message that the broker's access list
denied, too, and for one that nobody will get; with 5 both have a reason code.
"""

import secrets
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from signet.errors import RefusedError, SignetError
from signet.formats.documents import load_object
from signet.pki import authority, names

EVERYTHING_DEVICES_SAY = "signet/+/up/#"

_KEEP_ALIVE_S = 30
_MAX_MESSAGES = 100_000
_NO_MATCHING_SUBSCRIBERS = 0x10  # MQTT 5 section 3.4.2.1


class Message(NamedTuple):
    """A message as it came in. time: Unix seconds of its arrival."""

    topic: str
    payload: bytes
    retained: bool
    time: float

    def json(self) -> dict[str, Any]:
        """The payload's JSON object; {} if it is none: devices may send anything."""
        try:
            return load_object(self.payload)
        except ValueError:
            return {}


def split_address(address: str) -> tuple[str, int]:
    """("host", port) of "host:port" or "[v6 address]:port"; SignetError for anything else."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise SignetError(f"address {address!r}, expected host:port")
    return host, int(port)


class OperatorSession:
    """A connection to the broker, for publishing and for following what devices say.

    Use it in a `with` statement. It reconnects by itself, with its subscriptions; what devices say
    while it is away is lost to it, apart from retained states.
    """

    def __init__(
        self, pki: Path, address: str, subscribe: str | None = None, timeout_s: float = 10
    ):
        """pki: folder with server-ca.pem and operator.pem/.key. address: where operators connect.
        subscribe: a topic filter."""
        self.messages: list[Message] = []  # in order of arrival, the first 100,000
        self._address = address
        self._subscribe = subscribe
        self._timeout_s = timeout_s
        self._changed = threading.Condition()
        self._ready = False
        self._trouble: str | None = None  # why the session could not be opened
        self._acknowledged: dict[int, ReasonCode] = {}
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"operator-{secrets.token_hex(8)}",
            protocol=mqtt.MQTTv5,
        )
        self._client.tls_set_context(_client_context(pki))
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_publish = self._on_publish
        self._client.on_message = self._on_message

    def __enter__(self) -> "OperatorSession":
        """Connect and subscribe; SignetError if that does not succeed in time."""
        host, port = split_address(self._address)
        try:
            self._client.connect(host, port, _KEEP_ALIVE_S)
        except OSError as error:  # ssl.SSLError is one
            raise SignetError(f"broker {self._address}: {error}") from error
        self._client.loop_start()
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._trouble, self._timeout_s)
            ready, trouble = self._ready, self._trouble or "did not answer"
        if not ready:
            self._stop()
            raise SignetError(f"broker {self._address}: {trouble}")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish with QoS 1 and wait until the broker has it for at least one session.

        Raises RefusedError if the broker denies it or nobody has ever subscribed to the topic, and
        SignetError if it does not answer.
        """
        message_id = self._client.publish(topic, payload, qos=1).mid
        with self._changed:
            if not self._changed.wait_for(
                lambda: message_id in self._acknowledged, self._timeout_s
            ):
                raise SignetError(f"broker {self._address}: did not acknowledge {topic}")
            reason = self._acknowledged.pop(message_id)
        if reason.value == _NO_MATCHING_SUBSCRIBERS:
            raise RefusedError(
                f"{topic}: nobody has subscribed to it, the broker dropped the message",
                "the device has to connect to this broker once before it can be sent anything",
            )
        if reason.is_failure:
            raise RefusedError(f"{topic}: broker {self._address} says {str(reason).lower()}")

    def wait_for(
        self, wanted: Callable[[Message], bool], timeout_s: float, after: int = 0
    ) -> Message:
        """The first message that is wanted, past or future; TimeoutError if none comes in time.

        after: number of messages at the start of `messages` to pass over.
        """
        end = time.monotonic() + timeout_s
        with self._changed:
            while True:
                for message in self.messages[after:]:
                    if wanted(message):
                        return message
                after = len(self.messages)
                left = end - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"no such message within {timeout_s:g} s")
                self._changed.wait(left)

    def _on_connect(
        self, client: mqtt.Client, _data: object, _flags: object, reason: ReasonCode, *_: object
    ) -> None:
        with self._changed:
            if reason.is_failure:
                self._trouble = f"refused the connection: {reason}"
            elif self._subscribe is not None:
                client.subscribe(self._subscribe, qos=1)
            else:
                self._ready = True
            self._changed.notify_all()

    def _on_disconnect(
        self, _client: mqtt.Client, _data: object, _flags: object, reason: ReasonCode, *_: object
    ) -> None:
        with self._changed:
            self._trouble = f"closed the connection: {reason}"
            self._changed.notify_all()

    def _on_subscribe(
        self, _client: mqtt.Client, _data: object, _mid: int, reasons: list[ReasonCode], *_: object
    ) -> None:
        with self._changed:
            if any(reason.is_failure for reason in reasons):
                self._trouble = f"refused the subscription to {self._subscribe}"
            else:
                self._ready = True
            self._changed.notify_all()

    def _on_publish(
        self, _client: mqtt.Client, _data: object, mid: int, reason: ReasonCode, _: Properties
    ) -> None:
        with self._changed:
            self._acknowledged[mid] = reason
            self._changed.notify_all()

    def _on_message(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        # mosquitto lets the device CA name one as it likes; what is no device's name is none here.
        _, name, *_ = (*message.topic.split("/"), "")
        with self._changed:
            if len(self.messages) == _MAX_MESSAGES or not names.DEVICE_ID.fullmatch(name):
                return
            self.messages.append(
                Message(message.topic, bytes(message.payload), message.retain, time.time())
            )
            self._changed.notify_all()


def _client_context(pki: Path) -> ssl.SSLContext:
    """TLS 1.2 or later, server verified against the fleet's server CA, operator's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # CERT_REQUIRED, host name checked
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(authority.anchor(pki, "server"))
        context.load_cert_chain(pki / "operator.pem", pki / "operator.key")
    except OSError as error:
        raise SignetError(
            f"{pki}: cannot use operator.pem and operator.key: {error}",
            "signet pki init makes them",
        ) from error
    return context
