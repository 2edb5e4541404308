"""A scripted, hostile MQTT broker.  It makes and takes apart packets by hand, byte by byte."""

import fcntl
import select
import socket
import ssl
import struct
import termios
import time
from typing import Any, NamedTuple, Self

from host_tests.mqtt.broker import LOOPBACK, TIMEOUT_S, tls_address
from host_tests.mqtt.certificates import Authority
from host_tests.mqtt.puppet import Puppet

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE, SUBACK = range(1, 10)
UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT, AUTH = range(10, 16)


def varint(number: int) -> bytes:
    """A variable byte integer, section 1.5.5 of MQTT 5."""
    digits = []
    while True:
        number, digit = divmod(number, 128)
        digits.append(digit | (0x80 if number else 0))
        if not number:
            return bytes(digits)


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(data)) + data


def packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + varint(len(body)) + body


class Wire:
    """Packets of a server, for one version of MQTT (4 or 5).  properties: bytes, as encoded."""

    def __init__(self, version: int):
        self.version = version

    def _properties(self, properties: bytes) -> bytes:
        return varint(len(properties)) + properties if self.version == 5 else b""

    def connack(self, present: bool = False, code: int = 0, properties: bytes = b"") -> bytes:
        return packet(0x20, bytes((present, code)) + self._properties(properties))

    def publish(
        self,
        topic: str | bytes,
        payload: bytes = b"",
        qos: int = 0,
        packet_id: int = 0,
        *,
        retain: bool = False,
        dup: bool = False,
        properties: bytes = b"",
    ) -> bytes:
        head = text(topic) + (struct.pack(">H", packet_id) if qos else b"")
        first = 0x30 | dup << 3 | qos << 1 | retain
        return packet(first, head + self._properties(properties) + payload)

    def ack(self, kind: int, packet_id: int, code: int | None = None) -> bytes:
        """PUBACK, PUBREC, PUBREL or PUBCOMP; code: None to leave it out."""
        first = kind << 4 | (2 if kind == PUBREL else 0)
        return packet(
            first, struct.pack(">H", packet_id) + (b"" if code is None else bytes((code,)))
        )

    def suback(self, packet_id: int, code: int = 0, *codes: int) -> bytes:
        body = struct.pack(">H", packet_id) + self._properties(b"")
        return packet(0x90, body + bytes((code, *codes)))

    def unsuback(self, packet_id: int, code: int = 0, *codes: int) -> bytes:
        body = struct.pack(">H", packet_id) + self._properties(b"")
        return packet(0xB0, body + (bytes((code, *codes)) if self.version == 5 else b""))

    def pingresp(self) -> bytes:
        return b"\xd0\x00"

    def disconnect(self, code: int, properties: bytes = b"") -> bytes:
        return packet(0xE0, bytes((code,)) + self._properties(properties))


class Packet(NamedTuple):
    """One that a client sent.  text: topic, filter, or client id."""

    kind: int
    flags: int
    packet_id: int = 0
    text: str = ""
    payload: bytes = b""  # of a SUBSCRIBE: the options; of an acknowledgement: the code, if any
    properties: bytes = b""
    raw: bytes = b""

    @property
    def qos(self) -> int:
        return self.flags >> 1 & 3

    @property
    def dup(self) -> bool:
        return bool(self.flags & 8)


class FalseBroker:
    """The server's end of connections, and it does what the test says."""

    def __init__(self, authority: Authority | None = None, version: int = 4) -> None:
        """authority: for TLS instead of TCP, with certificates that it issues."""
        self.wire = Wire(version)
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

    def listen_again(self, port: int) -> None:
        """Listen at this port instead."""
        self._listener.close()
        self._listener = socket.create_server((LOOPBACK, port))
        self._listener.settimeout(TIMEOUT_S)

    def shrink(self) -> None:
        """Let clients from now on have no more than some kilobytes on their way."""
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.where["send_buffer"] = 4096

    def accept(self, handshake: bool = True) -> "FalseLink":
        """The next connection; over TLS, after the handshake or without one."""
        connection = self._listener.accept()[0]
        if self._context and handshake:
            connection = self._context.wrap_socket(connection, server_side=True)
        self._links.append(FalseLink(connection, self.wire))
        return self._links[-1]

    def is_left_alone(self, client: Puppet) -> bool:
        """Whether nobody connects, now that the client's next pause would be over."""
        client.call("pass_time", 1)
        return not self.has_waiting()

    def has_waiting(self, timeout_s: float = 0) -> bool:
        """Whether somebody connects, or has connected."""
        return bool(select.select([self._listener], [], [], timeout_s)[0])

    def drop_waiting(self) -> None:
        """Close the connections that nobody has accepted: their clients may be gone already."""
        while self.has_waiting():
            self.accept(handshake=False)
            self._links.pop().close()

    def welcome(self, session_present: bool = False, properties: bytes = b"") -> "FalseLink":
        """Accept a client as MQTT has it: CONNECT, CONNACK with these properties.

        Connections of clients that are gone already are passed over.
        """
        raw = b""
        while not raw:
            link = self.accept()
            raw = link.packet()
        link.connect = parse(raw, self.wire.version)
        if link.connect.kind != CONNECT:
            raise RuntimeError(f"expected CONNECT, got {link.connect}")
        link.send(self.wire.connack(session_present, 0, properties))
        return link


class FalseLink:
    """One connection of a FalseBroker.  connect: its CONNECT packet, once there was one."""

    def __init__(self, connection: socket.socket, wire: Wire):
        self.socket = connection
        self.wire = wire
        self.connect: Packet | None = None
        connection.settimeout(TIMEOUT_S)

    def send(self, *packets: bytes) -> None:
        """All in one write."""
        self.socket.sendall(b"".join(packets))

    def packet(self) -> bytes:
        """The next packet, whole; b"" at the end."""
        try:
            packet = self.socket.recv(1)
        except ConnectionResetError:
            return b""  # closed with something unread
        if not packet:
            return b""
        remaining, shift = 0, 0
        while True:
            digit = self.read(1)
            packet += digit
            remaining |= (digit[0] & 0x7F) << shift
            shift += 7
            if digit[0] < 0x80:
                return packet + self.read(remaining)

    def next(self) -> Packet:
        """The next packet, taken apart."""
        return parse(self.packet(), self.wire.version)

    def expect(self, kind: int) -> Packet:
        """The next packet, which must be of this kind."""
        found = self.next()
        if found.kind != kind:
            raise RuntimeError(f"expected packet type {kind}, got {found}")
        return found

    def is_ended(self) -> bool:
        """Wait for the client's end of the connection: whether it comes with nothing before it."""
        return self.packet() == b""

    def read(self, length: int) -> bytes:
        """So many bytes; EOFError if the connection ends before."""
        data = b""
        while len(data) < length:
            data += self.socket.recv(length - len(data)) or _raise_end()
        return data

    def is_silent(self, client: Puppet) -> bool:
        """Whether nothing has come, now that the client has done all that it can.

        What it is sent, it has read: TCP says that it arrived, and `settle` reads. What it sends
        comes before the mark that it is told to send.
        """
        end = time.monotonic() + TIMEOUT_S
        while _unacknowledged(self.socket) and time.monotonic() < end:
            time.sleep(0.001)
        client.call("settle")
        if client.call("post", "mark", "") is not True:
            raise RuntimeError("the client is not connected, or its network is full")
        found = self.next()
        return (found.kind, found.payload) == (PUBLISH, b"") and found.text in ("mark", "")

    def has_data(self) -> bool:
        """Whether something is there to be read, without TLS."""
        return bool(select.select([self.socket], [], [], 0)[0])

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Close as a link that broke shows itself."""
        linger_for_0_s = struct.pack("ii", 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_for_0_s)
        self.close()


def _unacknowledged(connection: socket.socket) -> int:
    """How many bytes are on their way to the other end's TCP."""
    return int(struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))[0])


def _raise_end() -> bytes:
    raise EOFError("the client closed in the middle of a packet")


def parse(raw: bytes, version: int) -> Packet:
    """Take a client's packet apart; RuntimeError if it is none."""
    if not raw:
        raise RuntimeError("expected a packet, the client has closed")
    kind, flags = raw[0] >> 4, raw[0] & 15
    body = _Cursor(raw)
    body.varint()
    if kind == CONNECT:
        body.take(10)
        properties = body.take(body.varint()) if version == 5 else b""
        name = body.text()
        return Packet(kind, flags, 0, name, body.rest(), properties, raw)
    if kind == PUBLISH:
        topic = body.text()
        packet_id = body.number() if flags & 6 else 0
        properties = body.take(body.varint()) if version == 5 else b""
        return Packet(kind, flags, packet_id, topic, body.rest(), properties, raw)
    if kind in (SUBSCRIBE, UNSUBSCRIBE):
        packet_id = body.number()
        properties = body.take(body.varint()) if version == 5 else b""
        topic_filter = body.text()
        return Packet(kind, flags, packet_id, topic_filter, body.rest(), properties, raw)
    if kind in (PUBACK, PUBREC, PUBREL, PUBCOMP):
        return Packet(kind, flags, body.number(), "", body.rest(), b"", raw)
    if kind == PINGREQ:
        return Packet(kind, flags, raw=raw)
    if kind == DISCONNECT:
        return Packet(kind, flags, payload=body.rest(), raw=raw)
    raise RuntimeError(f"no packet of a client: {raw!r}")


class _Cursor:
    def __init__(self, raw: bytes):
        self._raw = raw
        self._at = 1

    def take(self, length: int) -> bytes:
        self._at += length
        return self._raw[self._at - length : self._at]

    def rest(self) -> bytes:
        return self._raw[self._at :]

    def number(self) -> int:
        return int(struct.unpack(">H", self.take(2))[0])

    def text(self) -> str:
        return self.take(self.number()).decode()

    def varint(self) -> int:
        value, shift = 0, 0
        while True:
            digit = self.take(1)[0]
            value |= (digit & 0x7F) << shift
            shift += 7
            if digit < 0x80:
                return value


def connected(
    client: Puppet,
    false_broker: FalseBroker,
    session_present: bool = False,
    properties: bytes = b"",
) -> FalseLink:
    """Have a puppet connect to a false broker."""
    false_broker.drop_waiting()
    number = client.start("connect")
    link = false_broker.welcome(session_present, properties)
    if client.result(number) is not session_present:
        raise RuntimeError(f"expected session present {session_present}")
    client.wait_until_up()
    return link
