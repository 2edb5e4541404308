"""A correct server's end of a session, for clients that lose power."""

import contextlib
from collections.abc import Callable

from host_tests.mqtt.false_broker import (
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    FalseBroker,
    FalseLink,
    parse,
)
from host_tests.mqtt.puppet import Puppet


class ServerSession:
    """What a correct server keeps of a session: the messages it took, and its own handshakes."""

    def __init__(self, broker: FalseBroker):
        self._broker = broker
        self.exists = False
        self.taken: list[bytes] = []
        self._known: set[int] = set()  # ids at QoS 2 that are not released
        self.to_send: list[tuple[int, bytes]] = []  # (id, payload) at QoS 2 without a PUBREC
        self.to_release: list[int] = []  # ids with a PUBREC and without a PUBCOMP
        self._sent: set[int] = set()

    def serve(self, client: Puppet, until: Callable[[], bool]) -> None:
        """Let the client connect and serve it, until that is so or its process has ended."""
        link = self._broker.welcome(self.exists)
        self.exists = True
        for packet_id, payload in self.to_send:
            self._send(link, packet_id, payload)
        for packet_id in self.to_release:
            link.send(self._broker.wire.ack(PUBREL, packet_id))
        while not until():
            raw = link.packet()
            if raw:
                with contextlib.suppress(OSError):  # its power is off
                    self._handle(link, raw)
            else:  # that was a connection of the process before, or the last one of this one
                while not self._broker.has_waiting(0.02):
                    if client.is_over():
                        return
                link = self._broker.welcome(self.exists)

    def serve_until_idle(self, client: Puppet, *payloads: bytes) -> None:
        """Serve it until these are taken, and all is acknowledged."""
        self.serve(client, lambda: self.is_idle and set(payloads) <= set(self.taken))

    def _send(self, link: FalseLink, packet_id: int, payload: bytes) -> None:
        dup = packet_id in self._sent
        self._sent.add(packet_id)
        link.send(self._broker.wire.publish("down", payload, 2, packet_id, dup=dup))

    def _handle(self, link: FalseLink, raw: bytes) -> None:
        wire = self._broker.wire
        packet = parse(raw, wire.version)
        if packet.kind == PUBLISH:
            if packet.qos == 1:
                self.taken.append(packet.payload)
                link.send(wire.ack(PUBACK, packet.packet_id))
            else:
                if packet.packet_id not in self._known:
                    self.taken.append(packet.payload)
                self._known.add(packet.packet_id)
                link.send(wire.ack(PUBREC, packet.packet_id))
        elif packet.kind == PUBREL:
            self._known.discard(packet.packet_id)
            link.send(wire.ack(PUBCOMP, packet.packet_id))
        elif packet.kind == PUBREC:
            self.to_send = [each for each in self.to_send if each[0] != packet.packet_id]
            if packet.packet_id not in self.to_release:
                self.to_release.append(packet.packet_id)
            link.send(wire.ack(PUBREL, packet.packet_id))
        elif packet.kind == PUBCOMP:
            self.to_release.remove(packet.packet_id)

    @property
    def is_idle(self) -> bool:
        return not (self.to_send or self.to_release or self._known)
