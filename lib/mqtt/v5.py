"""MQTT 5, for one client: `Client(brokers, client_id, protocol=v5.V5(receive_maximum=8))`.

Section numbers are those of the OASIS standard of 7 March 2019.  Everything that a server may send
is checked: which properties a packet has, how often, their values, its reason code.  Properties are
dicts; a key is the name in table 2-4 in lower case with underscores, and values are int (flags: 0
or 1), str, bytes for correlation_data, a list of (key, value) for user_property, and for
subscription_identifier an int when sent, a list when received.

Not handled: enhanced authentication (section 4.12), so its properties and AUTH are refused.
"""

import struct

from micropython import const

from . import codec
from .codec import malformed, read_text, read_varint, refusal, sized, text, varint

# Subscription options, section 3.8.3.1; to be or-ed.
NO_LOCAL = const(0x04)
RETAIN_AS_PUBLISHED = const(0x08)
RETAIN_NEW = const(0x10)  # retained messages only for a subscription that is new
RETAIN_NEVER = const(0x20)

_OPTIONS = const(0x3C)

_CONNECT = const(1)
_CONNACK = const(2)
_PUBLISH = const(3)
_SUBACK = const(9)
_UNSUBACK = const(11)
_DISCONNECT = const(14)

# Who may have a property, by packet type; 0 is the will, and a PUBLISH is the server's.
_OWNERS = const(b"\x02\x01\x10\x20\x40\x40\x40\x40\x08\x40\x00\x40\x00\x00\x80")
_OUR_PUBLISH = const(0x04)

# Table 2-4: identifier, form and owners, in one string, as names of their own would cost heap.  The
# form is the number of bytes of an integer, v (variable), b (binary), s (string), t (topic name) or
# p (pair of strings).  V5._properties adds the maximum_packet_size of a CONNECT.
_PROPERTIES = (
    " 01126 payload_format_indicator 02426 message_expiry_interval 03s26 content_type"
    " 08t26 response_topic 09b26 correlation_data 0bv28 subscription_identifier"
    " 11411 session_expiry_interval 12s10 assigned_client_identifier 13210 server_keep_alive"
    " 17101 request_problem_information 18402 will_delay_interval"
    " 19101 request_response_information 1as10 response_information 1cs90 server_reference"
    " 1fsd0 reason_string 21211 receive_maximum 22211 topic_alias_maximum 23220 topic_alias"
    " 24110 maximum_qos 25110 retain_available 26pff user_property 27410 maximum_packet_size"
    " 28110 wildcard_subscription_available 29110 subscription_identifier_available"
    " 2a110 shared_subscription_available "
)
_NOT_ZERO = const(b"\x0b\x21\x23\x27")
_REPEATED = const(b"\x0b\x26")
_KEPT = const(16)  # of a repeated property; the rest is checked and left out

# The reason codes that a server may send, section 2.4, by packet type.
_ACK_CODES = b"\x00\x10\x80\x83\x87\x90\x91\x95\x97\x99"  # mosquitto refuses with 0x95, too
_RELEASE_CODES = b"\x00\x92"
_CODES = (
    b"\x00\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8c\x90\x95\x97\x99\x9a\x9b\x9c\x9d\x9f",
    None,
    _ACK_CODES,
    _ACK_CODES,
    _RELEASE_CODES,
    _RELEASE_CODES,
    None,
    b"\x00\x01\x02\x80\x83\x87\x8f\x91\x97\x9e\xa1\xa2",
    None,
    b"\x00\x11\x80\x83\x87\x8f\x91",
    None,
    None,
    b"\x00\x80\x81\x82\x83\x87\x89\x8b\x8c\x8d\x8e\x8f\x90\x93\x94\x95\x96\x97\x98\x99\x9a\x9b\x9c"
    b"\x9d\x9e\x9f\xa0\xa1\xa2",
)
_MOST = {"1": 1, "2": 0xFFFF, "4": 0xFFFFFFFF, "v": 0xFFFFFFF}  # values of integers, by form

_OLD_CODES = const(b"\x84\x85\x88\x86\x87")  # what 3.1.1's return codes 1 to 5 mean
_MAX_ALIASES = const(16)  # of ours
_ACK_LEN = const(4)  # bytes of the shortest packet without which nothing goes
_TOO_LARGE = const(0x95)


class V5(codec.V311):
    """MQTT 5.  What the server has said in its CONNACK:

    properties: of the CONNACK, a refusal's too.
    keepalive_s: None, or what it wants instead of the client's (0: no keep-alive).
    receive_maximum: PUBLISHes at QoS 1 and 2 that it takes at once.
    """

    level = 5
    sizes = b"\xff\xff\x82\x83\x82\x82\x82\x82\xff\x84\xff\x84\xff\x00\x80\xff"

    def __init__(self, **properties):
        """properties: of the CONNECT; ValueError for what it cannot have.

        With topic_alias_maximum=n the client keeps n topics, each as long as a packet may be.
        """
        self._of_connect = properties
        self._properties(_CONNECT, 1)
        self.window = properties.get("receive_maximum", self.window)

    def _learn(self, properties):
        self.properties = properties
        get = properties.get
        self.receive_maximum = get("receive_maximum", 0xFFFF)
        self.keepalive_s = get("server_keep_alive")
        self.limit = get("maximum_packet_size", codec.V311.limit)
        self._most_aliases = min(get("topic_alias_maximum", 0), _MAX_ALIASES)
        self._alias = 0  # of the PUBLISH that is being encoded

    def check_connack(self, packet):
        self._learn(packet[4] or {})
        if packet[3]:
            raise refusal("connection", packet[3])
        if self.limit < _ACK_LEN:
            raise refusal("connection", _TOO_LARGE)
        return packet[2]

    def encode_publish(self, topic, payload, qos=0, retain=False, packet_id=0, properties=None):
        """PUBLISH, section 3.3, of bytes or a string.

        One at QoS 0 has to be sent before anything else, for it may bring up a topic alias,
        section 3.3.2.3.4, which from then on stands for the topic.
        """
        new = 0
        if not qos and self._most_aliases:
            self._alias = self._aliases.get(topic, 0)
            if self._alias:
                self._topic, self._head = topic, b"\0\0"
            elif len(self._aliases) < self._most_aliases:
                self._alias = new = len(self._aliases) + 1
        try:
            packet = super().encode_publish(topic, payload, qos, retain, packet_id, properties)
        finally:
            if self._alias:
                self._alias = 0
                self._topic = None  # the bytes kept for it may be the alias's
        if new and not self._obstacle(packet):
            self._aliases[topic] = new
        return packet

    def check(self, packet):
        code = self._obstacle(packet)
        if code:
            raise refusal("publish", code)

    def _obstacle(self, packet):
        """The reason code for which the server would not take a packet, section 3.2.2.3; or 0."""
        size, at = read_varint(packet, 1, 5)
        get = self.properties.get
        if packet[0] >> 4 == _PUBLISH:
            if packet[0] >> 1 & 3 > get("maximum_qos", 2):
                return 0x9B
            if packet[0] & 1 > get("retain_available", 1):
                return 0x9A
        return _TOO_LARGE if size + at > self.limit else 0  # MQTT-3.2.2-15

    def encode_subscribe(self, packet_id, topic_filter, qos, options=0, properties=None):
        """SUBSCRIBE to a filter, or several, section 3.8; options: the constants of this module."""
        if options & ~_OPTIONS or options >= 0x30:
            raise ValueError("subscription options 0x%x" % options)
        packet = super().encode_subscribe(packet_id, topic_filter, qos, options, properties)
        for each in (topic_filter,) if isinstance(topic_filter, str) else topic_filter:
            share = each.split("/", 2)
            if share[0] == "$share" and (  # section 4.8.2
                len(share) < 3 or share[1] in "+#" or not share[2] or options & NO_LOCAL
            ):
                raise ValueError("%r: expected $share/name/filter" % each)
        return packet

    def _properties(self, kind, properties):
        body = b""
        if kind == _CONNECT:
            self._learn({})
            self._aliases = {}  # ours: topic -> alias
            self._topics = {}  # the server's: alias -> topic
            body = struct.pack(">BI", 0x27, properties)  # maximum_packet_size
            properties = self._of_connect
        if properties:
            if not isinstance(properties, dict):
                raise TypeError("properties %r, expected a dict" % (properties,))
            body += _encode(properties, _OUR_PUBLISH if kind == _PUBLISH else _OWNERS[kind])
        if kind == _PUBLISH and self._alias:
            body += struct.pack(">BH", 0x23, self._alias)
        return varint(len(body)) + body

    def _resolve(self, topic, buf, at, end):
        properties, at = _decode(_PUBLISH, buf, at, end)
        alias = properties and properties.pop("topic_alias", 0)
        if alias:
            if alias > self._of_connect.get("topic_alias_maximum", 0):
                raise malformed(_PUBLISH, "topic alias", alias)
            if topic:
                self._topics[alias] = topic
            else:
                topic = self._topics.get(alias)
        if not topic:
            raise malformed(_PUBLISH, "topic alias", alias)
        return topic, properties or None, at

    def decode(self, buf, start, end, limit):
        if end - start > 1 and buf[start + 1] > 0x7F:  # else it has one byte
            _read_varint(buf, start + 1, end)
        return super().decode(buf, start, end, limit)

    def _decode_rest(self, kind, buf, at, stop):
        first = code = 0
        properties = None
        end = stop
        if kind == _CONNACK:
            if stop - at == 2:  # without properties: from a server of MQTT 3.1.1
                return _decode_old_connack(*super()._decode_rest(kind, buf, at, stop))
            first = buf[at]
            at += 1
        elif kind != _DISCONNECT:
            first = codec._packet_id(buf, at)
            at += 2
        if kind in (_SUBACK, _UNSUBACK):
            _, at = _decode(kind, buf, at, end)
            codes = buf[at:end]
            if not codes:
                raise malformed(kind, "length", stop)
            for code in codes:
                if code not in _CODES[kind - 2]:
                    raise malformed(kind, "code", code)
            return stop, kind, first, code if len(codes) == 1 else bytes(codes)
        if at < end:
            code = buf[at]
            at += 1
        if code not in _CODES[kind - 2]:
            raise malformed(kind, "code", code)
        if at < end:
            properties, at = _decode(kind, buf, at, end)
        if at < end:
            raise malformed(kind, "length", stop)
        if kind == _DISCONNECT:
            return stop, kind, code, properties
        if kind != _CONNACK:
            return stop, kind, first, code
        if first > 1 or (first and code):  # MQTT-3.2.2-6: no session where there is no connection
            raise malformed(kind, "code", (first, code))
        return stop, kind, bool(first), code, properties


def _decode_old_connack(stop, kind, _, code, __):
    """In the form of `V5.decode`, if it is a refusal."""
    if not code:
        raise malformed(kind, "of MQTT 3.1.1, expected one of MQTT 5, code", code)
    return stop, kind, False, _OLD_CODES[code - 1], None


def _read_varint(buf, at, end):
    """As codec's, in no more bytes than it takes, MQTT-1.5.5-1."""
    value, stop = read_varint(buf, at, end)
    if value is not None and stop - at > 1 and not buf[stop - 1]:
        raise codec.MQTTProtocolError("length %d in %d bytes" % (value, stop - at))
    return value, stop


def _decode(kind, buf, at, end):
    """(properties or None, where they end), section 2.2.2."""
    length, at = _decode_value(kind, buf, at, end, "v")
    if at + length > end:
        raise malformed(kind, "properties of", length)
    end = at + length
    properties = {}
    while at < end:
        identifier = buf[at]
        row = _PROPERTIES.find(" %02x" % identifier)
        if row < 0 or not int(_PROPERTIES[row + 4 : row + 6], 16) & _OWNERS[kind]:
            raise malformed(kind, "property", identifier)
        name = _PROPERTIES[row + 7 : _PROPERTIES.find(" ", row + 7)]
        form = _PROPERTIES[row + 3]
        value, at = _decode_value(kind, buf, at + 1, end, form)
        repeated = identifier in _REPEATED
        if (
            (form == "1" and value > 1)
            or (not value and identifier in _NOT_ZERO)
            or (name in properties and not repeated)
        ):
            raise malformed(kind, name, value)
        if repeated:
            values = properties.setdefault(name, [])
            if len(values) < _KEPT:
                values.append(value)
        else:
            properties[name] = value
    return properties or None, at


def _decode_value(kind, buf, at, end, form):
    """(value, where it ends)."""
    if form == "v":
        value, stop = _read_varint(buf, at, end)
        if value is None:
            stop = end + 1
    else:
        stop = at + (int(form) if form in _MOST else 2)
        value = int.from_bytes(buf[at:stop], "big")
        if form not in _MOST:
            at, stop = stop, stop + value
    if stop > end:
        raise malformed(kind, "length", end)
    if form in _MOST:
        return value, stop
    value = buf[at:stop]
    if form == "b":
        return bytes(value), stop
    value = read_text(value)
    if form == "t" and (not value or "+" in value or "#" in value):  # MQTT-3.3.2-14
        raise malformed(kind, "response topic", value[:40])
    if form == "p":
        other, stop = _decode_value(kind, buf, stop, end, "s")
        value = value, other
    return value, stop


def _encode(properties, owner):
    """The bytes of properties, without their length; ValueError for a wrong name or value."""
    body = b""
    for name, value in properties.items():
        row = _PROPERTIES.find(" %s " % name) - 6
        if row < 0 or not int(_PROPERTIES[row + 4 : row + 6], 16) & owner:
            raise ValueError("property %r, expected one for this packet" % name)
        identifier = int(_PROPERTIES[row + 1 : row + 3], 16)
        form = _PROPERTIES[row + 3]
        try:
            for each in value + [] if form == "p" else (value,):
                least = identifier in _NOT_ZERO
                body += bytes((identifier,)) + _encode_value(name, each, form, least)
        except (TypeError, AttributeError):
            raise ValueError("property %s: wrong type in %r" % (name, value))
    return body


def _encode_value(name, value, form, least):
    if form in _MOST:
        if not least <= value <= _MOST[form]:
            raise ValueError("%s %d, expected %d to %d" % (name, value, least, _MOST[form]))
        return varint(value) if form == "v" else value.to_bytes(int(form), "big")
    if form == "p":
        key, value = value + ()  # a tuple
        return _encode_value(name, key, "s", 0) + _encode_value(name, value, "s", 0)
    if isinstance(value, str) == (form == "b"):
        raise TypeError
    if form == "b":
        return sized(value)
    return codec._topic(value) if form == "t" else text(value)
