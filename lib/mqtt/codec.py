"""MQTT 3.1.1 packets: arguments to bytes, and received bytes to tuples.  No I/O.

Section numbers are those of the OASIS standard of 29 October 2014.  `V311.decode` takes what a
server may send to a client, checks every bit of it, and raises MQTTProtocolError for all else.
`mqtt.v5` is the same for MQTT 5, by way of the methods at the end of the class.
"""

import struct

from micropython import const

# Packet types, section 2.2.1.  Private in each module that needs them: names cost memory.
_CONNECT = const(1)
_CONNACK = const(2)
_PUBLISH = const(3)
_PUBREL = const(6)
_SUBACK = const(9)
_PINGRESP = const(13)

_DUP = const(0x08)  # in the first byte of a PUBLISH
_MAX_FIELD = const(0xFFFF)  # of a text or a will, section 1.5.3
_MAX_REMAINING = const(268_435_455)  # section 2.2.3
_TOO_LARGE = const(0x95)  # the reason code of MQTT 5
_OR_MORE = const(0x80)
_NEVER = const(0xFF)  # a server does not send it


class MQTTError(Exception):
    """Whatever goes wrong with MQTT."""


class MQTTProtocolError(MQTTError):
    """The server sent what the standard forbids, or what was not asked for."""


class MQTTRefusedError(MQTTError):
    """The server said no.  code: its reason code (MQTT 5, section 2.4), or 3.1.1's return code."""

    def __init__(self, text, code):
        super().__init__(text)
        self.code = code


def refusal(topic, code, value=0):
    """MQTTRefusedError of what is in `topic`; value: the MQTT 5 code to name it by, if another."""
    try:
        from .reasons import name

        text = name(value or code)
    except (ImportError, MemoryError):
        text = "code"
    return MQTTRefusedError("%s refused: %s (0x%02x)" % (topic, text, code), code)


def malformed(kind, text, value):
    """An MQTTProtocolError for a packet of this type."""
    return MQTTProtocolError("packet type %d: %s %r" % (kind, text, value))


class V311:
    """MQTT 3.1.1, for one client: encoders give whole packets.

    What an application hands over is checked, too: ValueError for a topic, a filter, an id or a
    QoS that MQTT does not allow.
    """

    level = 4
    keepalive_s = None  # what the server wants instead of the client's
    receive_maximum = _MAX_FIELD  # PUBLISHes at QoS 1 and 2 that the server takes at once
    window = _MAX_FIELD  # and that it may send at once
    limit = _MAX_REMAINING + 5  # bytes of a packet that the server takes: 3.1.1's does not say it

    # The remaining length by packet type; a SUBACK has one return code for each filter.
    sizes = b"\xff\xff\x02\x80\x02\x02\x02\x02\xff\x83\xff\x02\xff\x00\xff\xff"
    _topic = None  # the last one published to
    _head = b""  # its bytes, with their length before them

    def encode_connect(self, *values):
        """CONNECT, section 3.1; begins a connection.

        values: client_id, keepalive_s, clean, will (a Message or None), user, password, max_packet.
        """
        from .setup import encode_connect

        return encode_connect(self, *values)

    def check_connack(self, packet):
        """Whether the session is present, of a decoded CONNACK; MQTTRefusedError if refused."""
        from .setup import check_connack

        return check_connack(packet)

    def encode_publish(self, topic, payload, qos=0, retain=False, packet_id=0, properties=None):
        """PUBLISH, section 3.3, of bytes or a string."""
        payload = encode(payload)
        head = self.encode_publish_head(topic, len(payload), qos, retain, packet_id, properties)
        return head + payload

    def encode_publish_head(self, topic, size, qos, retain, packet_id, properties):
        """A PUBLISH as far as its payload, which is `size` bytes."""
        if topic != self._topic or not topic:
            self._head = _topic(topic)
            self._topic = topic
        head = self._head
        if qos:
            head += struct.pack(">H", packet_id)
        head += self._properties(_PUBLISH, properties)
        return _packet(0x30 | _qos(qos) << 1 | (1 if retain else 0), head, size)

    def check(self, packet):
        """Raise MQTTRefusedError for a packet, or its head, that the server does not take."""
        size, at = read_varint(packet, 1, 5)
        if size + at > self.limit:
            raise refusal("publish", _TOO_LARGE)

    def encode_ack(self, kind, packet_id):
        """PUBACK, PUBREC, PUBREL or PUBCOMP, sections 3.4 to 3.7."""
        return struct.pack(">BBH", kind << 4 | (2 if kind == _PUBREL else 0), 2, packet_id)

    def encode_subscribe(self, *values):
        """SUBSCRIBE to a filter, or several, section 3.8.

        values: packet_id, topic_filter, qos, options=0, properties=None.
        """
        from .setup import encode_subscribe

        return encode_subscribe(self, *values)

    def encode_unsubscribe(self, packet_id, topic_filter):
        """UNSUBSCRIBE from a filter, or several, section 3.10."""
        from .setup import encode_unsubscribe

        return encode_unsubscribe(self, packet_id, topic_filter)

    def decode(self, buf, start, end, limit):
        """Decode the packet that begins at buf[start]; what is received so far ends at buf[end].

        Returns None while the packet is not complete, else (where the next one starts, kind, …):
          CONNACK   session_present, code, properties
          PUBLISH   topic, payload (buf's own bytes if buf is a memoryview), qos, retain,
                    packet id (0 at QoS 0), properties
          PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK   packet id, code (of several, bytes)
          PINGRESP  nothing
        properties: None, or in MQTT 5 a dict.  A PUBLISH that is larger than buf comes when buf is
        full, with what is there of its payload; the next packet then starts behind `end`.
        Raises MQTTProtocolError as soon as enough is received to see that the packet is wrong, or
        that it will have more than `limit` bytes.
        """
        if start == end:
            return None
        kind = buf[start] >> 4
        flags = buf[start] & 15
        if kind != _PUBLISH and flags != (2 if kind == _PUBREL else 0):  # MQTT-2.2.2-1
            raise malformed(kind, "flags", flags)
        size = self.sizes[kind]
        if size == _NEVER:
            raise malformed(kind, "first byte", kind << 4)
        remaining, at = read_varint(buf, start + 1, end)
        if remaining is None:
            return None
        if remaining != size and (size < _OR_MORE or remaining < size - _OR_MORE):
            raise malformed(kind, "size", remaining)
        stop = at + remaining
        if kind != _PUBLISH:
            limit = min(limit, len(buf))
        if stop - start > limit:
            raise MQTTProtocolError("packet of %d bytes, expected up to %d" % (stop - start, limit))
        if stop > end and (stop - start <= len(buf) or end - start < len(buf)):
            return None
        if kind == _PUBLISH:
            return self._decode_publish(buf, at, stop, min(stop, end), flags)
        if kind == _PINGRESP:
            return stop, kind
        return self._decode_rest(kind, buf, at, stop)

    def _decode_publish(self, buf, body, stop, end, flags):
        """Section 3.3.  end: of what is there."""
        qos = flags >> 1 & 3
        if qos > 2 or (flags & _DUP and not qos):  # MQTT-3.3.1-4, MQTT-3.3.1-2
            raise malformed(_PUBLISH, "flags", flags)
        topic_end = body + 2
        if topic_end <= end:
            topic_end += buf[body] << 8 | buf[body + 1]
        at = topic_end + 2 if qos else topic_end
        if at > end:
            raise malformed(_PUBLISH, "size", end - body)
        topic = read_text(buf[body + 2 : topic_end])
        if "+" in topic or "#" in topic:  # MQTT-3.3.2-2
            raise malformed(_PUBLISH, "topic", topic[:40])
        packet_id = _packet_id(buf, topic_end) if qos else 0
        topic, properties, at = self._resolve(topic, buf, at, end)
        return stop, _PUBLISH, topic, buf[at:end], qos, bool(flags & 1), packet_id, properties

    # What MQTT 5 does otherwise.

    def _properties(self, kind, properties):
        """The bytes of a packet's properties.

        kind 0: of the will; for a CONNECT, `properties` is the size of the largest packet to take.
        """
        if properties and kind != _CONNECT:
            raise ValueError("properties need MQTT 5")
        return b""

    def _resolve(self, topic, buf, at, end):
        """(topic, properties, where the payload begins) of a PUBLISH."""
        if not topic:
            raise malformed(_PUBLISH, "topic", topic)
        return topic, None, at

    def _decode_rest(self, kind, buf, at, stop):
        if kind == _CONNACK:
            from .setup import decode_connack

            return decode_connack(buf[at], buf[at + 1], stop)
        if kind == _SUBACK:
            from .setup import decode_suback

            return decode_suback(buf, at, stop)
        return stop, kind, _packet_id(buf, at), 0


def read_varint(buf, at, end):
    """(value, where it ends) of up to 4 bytes, section 2.2.3; (None, …) if it is not complete."""
    value = shift = 0
    while at < end:
        byte = buf[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift == 28:
            raise MQTTProtocolError("length of more than 4 bytes")
    return None, at


def read_text(data):
    """The string, section 1.5.3."""
    length = len(data)
    try:
        text = str(data, "utf-8")
        if len(text) != length:  # MicroPython takes surrogates, overlong forms, out of range
            for char in text:
                code = ord(char)
                length -= 1 + (code > 0x7F) + (code > 0x7FF) + (code > 0xFFFF)
                if code >> 11 == 0x1B or code > 0x10FFFF:
                    length = -1
                    break
        else:
            length = 0
    except UnicodeError:
        length = -1
    if length or "\0" in text:  # MQTT-1.5.3-2
        raise MQTTProtocolError("text is not UTF-8, or has NUL in it")
    return text


def varint(value):
    """The bytes of a variable byte integer, section 2.2.3."""
    if value > _MAX_REMAINING:
        raise ValueError("packet of %d bytes, expected up to %d" % (value, _MAX_REMAINING))
    if value < 0x80:
        return bytes((value,))
    return bytes((value & 0x7F | 0x80,)) + varint(value >> 7)


def text(value):
    """A string, with its length before it.  TypeError, or ValueError for one that is no text.

    MicroPython writes surrogates as UTF-8 has it for other characters, and a server that gets them
    closes the connection: MQTT-1.5.3-1, -2.
    """
    if not isinstance(value, str):
        raise TypeError("expected a string, found %r" % (value,))
    data = value.encode()
    try:
        read_text(data)
    except MQTTProtocolError:
        raise ValueError("expected UTF-8 without NUL, found %r" % value[:40])
    return sized(data)


def encode(data):
    """Bytes; a string as UTF-8.  TypeError for what is neither."""
    if isinstance(data, str):
        return data.encode()
    memoryview(data)  # a number is no payload of so many zeros
    return bytes(data)


def sized(data):
    """Bytes, or a string as UTF-8, with the length before them."""
    data = encode(data)
    if len(data) > _MAX_FIELD:
        raise ValueError("%d bytes, expected up to %d" % (len(data), _MAX_FIELD))
    return struct.pack(">H", len(data)) + data


def _packet(first, rest, size=0):
    """A packet of these parts; `size` more bytes are to follow."""
    return bytes((first,)) + varint(len(rest) + size) + rest


def _packet_id(buf, at):
    packet_id = buf[at] << 8 | buf[at + 1]
    if not packet_id:  # MQTT-2.3.1-1
        raise MQTTProtocolError("packet id 0")
    return packet_id


def _qos(qos):
    if qos not in (0, 1, 2):
        raise ValueError("QoS %r, expected 0, 1 or 2" % qos)
    return qos


def _topic(name):
    data = text(name)
    if not name or "+" in name or "#" in name:  # MQTT-3.3.2-2
        raise ValueError("topic %r, expected a name without + or #" % name)
    return data
