"""What a conformance case plays with: one broker, one version of MQTT, our client and paho's."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from host_tests.brokers.peer import Peer
from host_tests.brokers.servers import Broker
from host_tests.mqtt.puppet import Puppet
from signet.fleet.proxy import Proxy

_numbers = itertools.count(1)


class UnsupportedError(Exception):
    """The broker says itself that it does not do this: a flag, a reason code, a lower QoS."""


class UntestedError(Exception):
    """What the case needs is not set up in this broker."""


class Bench:
    """A context manager. topic, client_id: no other case has them.

    properties: of each CONNECT of the device in MQTT 5, so that a session outlives a connection.
    """

    def __init__(self, micropython: Path, broker: Broker, version: int):
        self._micropython = micropython
        self.broker = broker
        self.version = version
        number = next(_numbers)
        self.topic = f"t{number}"
        self.client_id = f"c{number}"
        self._exits = contextlib.ExitStack()
        self._proxy = self._exits.enter_context(Proxy({"broker": broker.port}))

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def device(self, properties: dict[str, Any] | None = None, **options: Any) -> Puppet:
        """Our client; its connection goes by way of the proxy. properties: of the CONNECT."""
        where = {**self.broker.device, "port": self._proxy.routes["broker"].port}
        if self.version == 5:
            options["protocol"] = {"session_expiry_interval": 600} | (properties or {})
        keywords: dict[str, Any] = {"client_id": self.client_id, "backoff_cap_s": 1} | options
        return self._exits.enter_context(Puppet(self._micropython, where, **keywords))

    def connected(self, properties: dict[str, Any] | None = None, **options: Any) -> Puppet:
        device = self.device(properties, **options)
        device.call("connect")
        return device

    def peer(self, **options: Any) -> Peer:
        keywords: dict[str, Any] = {"client_id": f"{self.client_id}p"} | options
        return self._exits.enter_context(Peer(self.broker.peer, self.version, **keywords))

    @contextlib.contextmanager
    def late_peer(self, **options: Any) -> Iterator[Peer]:
        """One that does not stay to the end."""
        number = next(_numbers)
        with Peer(self.broker.peer, self.version, f"p{number}", **options) as peer:
            yield peer

    def cut(self) -> None:
        """Reset the device's connection."""
        self._proxy.drop()

    def hold(self, is_held: bool) -> None:
        """Whether new connections of the device are reset at once."""
        self._proxy.routes["broker"].refuse = is_held

    def feature(self, name: str, default: int) -> int:
        """A property of the CONNACK, as paho has it."""
        with self.late_peer() as peer:
            return int(peer.features.get(name, default))


def expect_qos(granted: int, wanted: int) -> None:
    if granted < wanted:
        raise UnsupportedError(f"grants QoS {granted}")
