"""MQTT 3.1.1 packets: arguments to bytes, and received bytes to tuples.  No I/O.

Section numbers are those of the OASIS standard of 29 October 2014.  An encoder returns one
whole packet.  `decode` takes what a server may send to a client that asks for QoS 0 and 1,
checks every bit of it, and raises MQTTProtocolError for all else.
"""

import struct

try:
    from micropython import const
except ImportError:  # CPython

    def const(value):
        return value


# Section 2.2.1.  What else there is, a server must not send, or not to this client (QoS 2).
CONNACK = const(2)
PUBLISH = const(3)
PUBACK = const(4)
SUBACK = const(9)
UNSUBACK = const(11)
PINGRESP = const(13)

PINGREQ_PACKET = b"\xc0\x00"
DISCONNECT_PACKET = b"\xe0\x00"

REFUSED = const(0x80)  # the return code of a SUBACK, section 3.9.3
DUP = const(0x08)  # in the first byte of a PUBLISH

_MAX_FIELD = const(0xFFFF)  # of a text or a will, section 1.5.3
_MAX_REMAINING = const(268_435_455)  # section 2.2.3
# Remaining length of the packets that have only one; this client subscribes to one filter at a
# time, so a SUBACK has one return code.
_REMAINING = {CONNACK: 2, PUBACK: 2, SUBACK: 3, UNSUBACK: 2, PINGRESP: 0}
_QUOTED_LEN = const(40)  # of what a peer sent, in a message


class MQTTError(Exception):
    """Whatever goes wrong with MQTT."""


class MQTTProtocolError(MQTTError):
    """The server sent what section 3 forbids, or what was not asked for."""


def encode_connect(client_id, keepalive_s, clean, will=None):
    """CONNECT, section 3.1.  will: (topic, payload, qos, retain).

    Raises ValueError for a topic, an id or a QoS that MQTT or this client does not allow.
    """
    flags = 0x02 if clean else 0
    rest = _text(client_id)
    if will:
        topic, payload, qos, retain = will
        flags |= 0x04 | _qos(qos) << 3 | (0x20 if retain else 0)
        rest += _topic(topic) + _sized(payload)
    return _packet(0x10, struct.pack(">H4sBBH", 4, b"MQTT", 4, flags, keepalive_s), rest)


def encode_publish(topic, payload, qos=0, retain=False, packet_id=0):
    """PUBLISH, section 3.3, as a bytearray: DUP can be set in its first byte.

    Raises ValueError for a topic that MQTT does not allow.
    """
    head = _topic(topic)
    if qos:
        head += struct.pack(">H", packet_id)
    return _packet(PUBLISH << 4 | _qos(qos) << 1 | (1 if retain else 0), head, payload)


def encode_puback(packet_id):
    """PUBACK, section 3.4."""
    return struct.pack(">BBH", 0x40, 2, packet_id)


def encode_subscribe(packet_id, topic_filter, qos):
    """SUBSCRIBE to one filter, section 3.8.  Raises ValueError for a malformed filter."""
    return _packet(0x82, struct.pack(">H", packet_id), _filter(topic_filter) + bytes((_qos(qos),)))


def encode_unsubscribe(packet_id, topic_filter):
    """UNSUBSCRIBE from one filter, section 3.10.  Raises ValueError for a malformed filter."""
    return _packet(0xA2, struct.pack(">H", packet_id), _filter(topic_filter))


def decode(buf, start, end, limit):
    """Decode the packet that begins at buf[start]; what is received so far ends at buf[end].

    Returns None while the packet is not complete, else (where the next one starts, kind, …):
      CONNACK   session_present, return code (0 to 5)
      PUBLISH   topic, payload (buf's own bytes if buf is a memoryview), qos, retain,
                packet id (0 at QoS 0)
      PUBACK    packet id
      SUBACK    packet id, granted QoS or REFUSED
      UNSUBACK  packet id
      PINGRESP  nothing
    Raises MQTTProtocolError as soon as enough is received to see that the packet is wrong, or
    that it will have more than `limit` bytes.
    """
    if start == end:
        return None
    span = _measure(buf, start, end, limit)
    if not span or span[1] > end:
        return None
    body, stop = span
    kind = buf[start] >> 4
    if kind == PUBLISH:
        return _decode_publish(buf, body, stop, buf[start] & 15)
    if kind == PINGRESP:
        return stop, kind
    if kind == CONNACK:
        return _decode_connack(buf[body], buf[body + 1], stop)
    packet_id = _packet_id(buf, body)
    if kind != SUBACK:
        return stop, kind, packet_id
    code = buf[body + 2]
    if code > 1 and code != REFUSED:  # MQTT-3.9.3-2, and QoS 2 is never asked for
        raise MQTTProtocolError("SUBACK: return code %d, expected 0, 1 or 128" % code)
    return stop, kind, packet_id, code


def _measure(buf, start, end, limit):
    """(where the body begins, where it stops), section 2.2; None while that is not received."""
    kind = buf[start] >> 4
    flags = buf[start] & 15
    if kind != PUBLISH and kind not in _REMAINING:
        raise MQTTProtocolError("packet type %d, expected one for this client" % kind)
    if kind != PUBLISH and flags:  # MQTT-2.2.2-1
        raise MQTTProtocolError("packet type %d: flags %d, expected 0" % (kind, flags))
    remaining = 0
    for i in range(4):
        at = start + 1 + i
        if at == end:
            return None
        remaining |= (buf[at] & 0x7F) << 7 * i
        if buf[at] < 0x80:
            break
    else:
        raise MQTTProtocolError("remaining length: more than 4 bytes")
    expected = _REMAINING.get(kind, remaining)
    if remaining != expected:
        raise MQTTProtocolError(
            "packet type %d: remaining length %d, expected %d" % (kind, remaining, expected)
        )
    stop = at + 1 + remaining
    if stop - start > limit:
        raise MQTTProtocolError("packet of %d bytes, expected up to %d" % (stop - start, limit))
    return at + 1, stop


def _decode_connack(flags, code, stop):
    """Section 3.2."""
    if flags > 1:
        raise MQTTProtocolError("CONNACK: flags %d, expected 0 or 1" % flags)
    if code > 5:
        raise MQTTProtocolError("CONNACK: return code %d, expected 0 to 5" % code)
    if flags and code:  # MQTT-3.2.2-4
        raise MQTTProtocolError("CONNACK: refused with %d, yet a session is present" % code)
    return stop, CONNACK, bool(flags), code


def _decode_publish(buf, start, stop, flags):
    """Section 3.3."""
    qos = flags >> 1 & 3
    if qos > 1:
        raise MQTTProtocolError("PUBLISH: QoS %d, expected 0 or 1" % qos)
    if flags & DUP and not qos:  # MQTT-3.3.1-2
        raise MQTTProtocolError("PUBLISH: DUP at QoS 0")
    topic_end = start + 2
    if topic_end <= stop:
        topic_end += buf[start] << 8 | buf[start + 1]
    payload = topic_end + 2 if qos else topic_end
    if payload > stop:
        raise MQTTProtocolError(
            "PUBLISH: remaining length %d, expected %d or more" % (stop - start, payload - start)
        )
    topic = _decode_topic(buf[start + 2 : topic_end])
    packet_id = _packet_id(buf, topic_end) if qos else 0
    return stop, PUBLISH, topic, buf[payload:stop], qos, bool(flags & 1), packet_id


def _packet_id(buf, at):
    packet_id = buf[at] << 8 | buf[at + 1]
    if not packet_id:  # MQTT-2.3.1-1
        raise MQTTProtocolError("packet id 0, expected 1 to 65535")
    return packet_id


def _decode_topic(raw):
    """A topic name, sections 1.5.3 and 4.7."""
    try:
        topic = str(raw, "utf-8")
    except UnicodeError:
        raise MQTTProtocolError("topic is not UTF-8: %r" % bytes(raw[:_QUOTED_LEN]))
    if len(topic) != len(raw):
        _check_utf8(topic, len(raw))
    if not topic or "\0" in topic or "+" in topic or "#" in topic:
        raise MQTTProtocolError(
            "topic %r, expected a name without NUL, + or #" % topic[:_QUOTED_LEN]
        )
    return topic


def _check_utf8(text, encoded_len):
    """Refuse what MicroPython's decoder lets through: surrogates, overlong and out of range."""
    for char in text:
        code = ord(char)
        if 0xD800 <= code <= 0xDFFF or code > 0x10FFFF:
            raise MQTTProtocolError("topic is not UTF-8: character 0x%x" % code)
        encoded_len -= 1 + (code > 0x7F) + (code > 0x7FF) + (code > 0xFFFF)
    if encoded_len:
        raise MQTTProtocolError("topic is not UTF-8: %d bytes too long" % encoded_len)


def _packet(first, head, body):
    """A packet of these parts, in one buffer and one allocation."""
    if isinstance(body, str):
        body = body.encode()
    remaining = len(head) + len(body)
    if remaining > _MAX_REMAINING:
        raise ValueError("packet of %d bytes, expected up to %d" % (remaining, _MAX_REMAINING))
    at = 2 + (remaining > 0x7F) + (remaining > 0x3FFF) + (remaining > 0x1FFFFF)
    packet = bytearray(at + remaining)
    packet[0] = first
    for i in range(1, at):
        packet[i] = remaining & 0x7F | (0x80 if i + 1 < at else 0)
        remaining >>= 7
    packet[at : at + len(head)] = head
    packet[at + len(head) :] = body
    return packet


def _qos(qos):
    if qos not in (0, 1):
        raise ValueError("QoS %r, expected 0 or 1" % qos)
    return qos


def _sized(data):
    if isinstance(data, str):
        data = data.encode()
    if len(data) > _MAX_FIELD:
        raise ValueError("%d bytes, expected up to %d" % (len(data), _MAX_FIELD))
    return struct.pack(">H", len(data)) + data


def _text(text):
    if "\0" in text:  # MQTT-1.5.3-2
        raise ValueError("%r: NUL is not allowed" % text)
    return _sized(text)


def _topic(name):
    if not name or "+" in name or "#" in name:  # MQTT-3.3.2-2
        raise ValueError("topic %r, expected a name without + or #" % name)
    return _text(name)


def _filter(topic_filter):
    """Section 4.7.1: a wildcard is a whole level, and # the last one."""
    levels = topic_filter.split("/")
    for level in levels:
        if len(level) > 1 and ("+" in level or "#" in level):
            raise ValueError("topic filter %r: a wildcard is a whole level" % topic_filter)
    if not topic_filter or "#" in levels[:-1]:
        raise ValueError("topic filter %r: expected # only at the end" % topic_filter)
    return _text(topic_filter)
