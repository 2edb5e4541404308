"""MQTT 5 on the wire: every packet, every property and every reason code, and what is refused."""

import gc

import mqtt_wire
from mqtt_wire import says

from mqtt.v5 import V5

LIMIT = 200
CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 2, 3, 4, 5, 6, 7
SUBACK, UNSUBACK, PINGRESP, DISCONNECT = 9, 11, 13, 14
NAMES = {
    CONNACK: "connack", PUBLISH: "publish", PUBACK: "puback", PUBREC: "pubrec", PUBREL: "pubrel",
    PUBCOMP: "pubcomp", SUBACK: "suback", UNSUBACK: "unsuback", DISCONNECT: "disconnect",
}  # fmt: skip
ACKS = (PUBACK, PUBREC, PUBREL, PUBCOMP)


class Will:
    def __init__(self, properties):
        self.topic, self.payload, self.qos, self.retain = "w", b"x", 2, True
        self.properties = properties


# Table 2-4: identifier, a value and its bytes, and who may send it: C (CONNECT), W (the will),
# P (PUBLISH by a client), S (SUBSCRIBE), and packet types for a server.
EVERYWHERE = (CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, DISCONNECT)
REASON_IN = (CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, DISCONNECT)
PROPERTIES = {
    "payload_format_indicator": (0x01, 1, b"\x01", "WP", (PUBLISH,)),
    "message_expiry_interval": (0x02, 0x12345678, b"\x12\x34\x56\x78", "WP", (PUBLISH,)),
    "content_type": (0x03, "t/é", b"\x00\x04t/\xc3\xa9", "WP", (PUBLISH,)),
    "response_topic": (0x08, "r", b"\x00\x01r", "WP", (PUBLISH,)),
    "correlation_data": (0x09, b"\x00\xff", b"\x00\x02\x00\xff", "WP", (PUBLISH,)),
    "subscription_identifier": (0x0B, 300, b"\xac\x02", "S", (PUBLISH,)),
    "session_expiry_interval": (0x11, 0xFFFFFFFF, b"\xff\xff\xff\xff", "C", (CONNACK,)),
    "assigned_client_identifier": (0x12, "c", b"\x00\x01c", "", (CONNACK,)),
    "server_keep_alive": (0x13, 60, b"\x00\x3c", "", (CONNACK,)),
    "request_problem_information": (0x17, 0, b"\x00", "C", ()),
    "will_delay_interval": (0x18, 5, b"\x00\x00\x00\x05", "W", ()),
    "request_response_information": (0x19, 1, b"\x01", "C", ()),
    "response_information": (0x1A, "i", b"\x00\x01i", "", (CONNACK,)),
    "server_reference": (0x1C, "s", b"\x00\x01s", "", (CONNACK, DISCONNECT)),
    "reason_string": (0x1F, "", b"\x00\x00", "", REASON_IN),
    "receive_maximum": (0x21, 1, b"\x00\x01", "C", (CONNACK,)),
    "topic_alias_maximum": (0x22, 65535, b"\xff\xff", "C", (CONNACK,)),
    "topic_alias": (0x23, 1, b"\x00\x01", "", (PUBLISH,)),
    "maximum_qos": (0x24, 0, b"\x00", "", (CONNACK,)),
    "retain_available": (0x25, 0, b"\x00", "", (CONNACK,)),
    "user_property": (0x26, [("k", "")], b"\x00\x01k\x00\x00", "CWPS", EVERYWHERE),
    "maximum_packet_size": (0x27, 1, b"\x00\x00\x00\x01", "", (CONNACK,)),
    "wildcard_subscription_available": (0x28, 0, b"\x00", "", (CONNACK,)),
    "subscription_identifier_available": (0x29, 1, b"\x01", "", (CONNACK,)),
    "shared_subscription_available": (0x2A, 0, b"\x00", "", (CONNACK,)),
}

# Table 2-6, and 0x95 for a PUBLISH, which mosquitto answers.
FAILURES = {
    CONNACK: "80 81 82 83 84 85 86 87 88 89 8a 8c 90 95 97 99 9a 9b 9c 9d 9f",
    PUBACK: "10 80 83 87 90 91 95 97 99",
    PUBREC: "10 80 83 87 90 91 95 97 99",
    PUBREL: "92",
    PUBCOMP: "92",
    SUBACK: "01 02 80 83 87 8f 91 97 9e a1 a2",
    UNSUBACK: "11 80 83 87 8f 91",
    DISCONNECT: "80 81 82 83 87 89 8b 8c 8d 8e 8f 90 93 94 95 96 97 98 99 9a 9b 9c 9d 9e 9f a0 a1"
    " a2",
}


def packet(kind, properties=b"", code=0, flags=0):
    """A packet as a server sends it; properties: their bytes, without the length."""
    properties = bytes((len(properties),)) + properties
    if kind == CONNACK:
        body = bytes((0, code)) + properties
    elif kind == PUBLISH:
        body = b"\x00\x01t" + properties + b"x"
    elif kind in ACKS:
        body = b"\x00\x07" + bytes((code,)) + properties
    elif kind == DISCONNECT:
        body = bytes((code,)) + properties
    else:
        body = b"\x00\x07" + properties + bytes((code,))
    flags = flags or (2 if kind == PUBREL else 0)
    return bytes((kind << 4 | flags, len(body))) + body


def new(**properties):
    protocol = V5(**properties)
    protocol.encode_connect("a", 1, True, None, None, None, LIMIT)
    return protocol


def connected(connack=b"", **properties):
    """A V5 that has had a CONNACK with these properties, as bytes."""
    protocol = new(**properties)
    protocol.check_connack(decode(packet(CONNACK, connack), protocol))
    return protocol


def decode(received, protocol=None):
    return mqtt_wire.decode(received, protocol or new(), LIMIT)


def refusal(received, protocol=None):
    return mqtt_wire.refusal(received, protocol or new(), LIMIT)


def expected(kind, code=0, properties=None):
    """What `packet` is decoded to."""
    if kind == CONNACK:
        return kind, False, code, properties
    if kind == PUBLISH:
        return kind, "t", b"x", 0, False, 0, properties
    if kind == DISCONNECT:
        return kind, code, properties
    return kind, 7, code


def test_packets_without_properties():
    for kind in NAMES:
        assert decode(packet(kind))[1:] == expected(kind), NAMES[kind]


def test_properties_in_every_packet():
    for name, (number, value, raw, _, kinds) in PROPERTIES.items():
        if name == "topic_alias":
            continue  # test_topic_alias…
        found = [value] if name == "subscription_identifier" else value
        for kind in NAMES:
            received = packet(kind, bytes((number,)) + raw)
            if kind in kinds:
                assert decode(received)[1:] == expected(kind, 0, {name: found}), (name, kind)
            else:
                reason = "type %d: property %d" % (kind, number)
                assert reason in refusal(received), (name, kind)


def test_numbers_that_are_no_property_for_us():
    known = [row[0] for row in PROPERTIES.values()]
    for number in range(256):  # 21 and 22: enhanced authentication
        if number not in known:
            for kind in NAMES:
                received = packet(kind, bytes((number,)) + bytes(5))
                assert "property %d" % number in refusal(received), (number, kind)


def test_properties_twice():
    for name, (number, _, raw, _, kinds) in PROPERTIES.items():
        for kind in kinds:
            received = packet(kind, 2 * (bytes((number,)) + raw))
            if name in ("user_property", "subscription_identifier"):
                decode(received)
            else:
                assert name in refusal(received), (name, kind)


def test_properties_that_repeat():
    protocol = new()
    found = decode(packet(PUBLISH, b"\x0b\x01\x26\0\x01a\0\x01b\x0b\x80\x01\x26\0\0\0\0"), protocol)
    assert found[-1] == {
        "subscription_identifier": [1, 128],
        "user_property": [("a", "b"), ("", "")],
    }
    found = decode(packet(PUBLISH, 20 * b"\x26\0\0\0\0" + 10 * b"\x0b\x01"), protocol)
    assert found[-1] == {"subscription_identifier": 10 * [1], "user_property": 16 * [("", "")]}
    assert "not UTF-8" in refusal(packet(PUBLISH, 20 * b"\x26\0\0\0\0" + b"\x26\0\0\0\x01\xff"))


def test_properties_cut_short():
    for name, (number, _, raw, _, kinds) in PROPERTIES.items():
        for cut in range(len(raw)):
            for kind in kinds:
                received = packet(kind, bytes((number,)) + raw[:cut])
                assert "type %d: " % kind in refusal(received), (name, cut, kind)


def test_packets_in_pieces():
    for kind in NAMES:
        received = packet(kind, b"\x26\x00\x01k\x00\x01v")
        for length in range(len(received)):
            assert decode(received[:length]) is None, (kind, length)


# Property bytes that are not what their type, or section 3, allows: of a PUBLISH, or as said.
BAD_PROPERTIES = {
    "flag of 2": b"\x01\x02",
    "subscription identifier 0": b"\x0b\x00",
    "subscription identifier of five bytes": b"\x0b\x80\x80\x80\x80\x01",
    "topic alias 0": b"\x23\x00\x00",
    "topic alias without a maximum": b"\x23\x00\x01",
    "response topic, empty": b"\x08\x00\x00",
    "response topic, +": b"\x08\x00\x01+",
    "response topic, #": b"\x08\x00\x03a/#",
    "content type, NUL": b"\x03\x00\x01\x00",
    "content type, not UTF-8": b"\x03\x00\x01\x80",
    "content type, surrogate": b"\x03\x00\x03\xed\xa0\x80",
    "content type, overlong": b"\x03\x00\x02\xc0\x80",
    "user property, key": b"\x26\x00\x01\xff\x00\x00",
    "user property, value": b"\x26\x00\x00\x00\x01\xff",
    "user property, no value": b"\x26\x00\x01a",
    "identifier in two bytes": b"\x81\x00\x01",
}
BAD_CONNACKS = {
    "receive maximum 0": b"\x21\x00\x00",
    "maximum packet size 0": b"\x27\x00\x00\x00\x00",
    "maximum QoS 2": b"\x24\x02",
    "retain available 2": b"\x25\x02",
    "wildcards 255": b"\x28\xff",
    "authentication method": b"\x15\x00\x01a",
    "authentication data": b"\x16\x00\x01a",
}


def test_bad_properties():
    for name, raw in BAD_PROPERTIES.items():
        assert "accepted" not in refusal(packet(PUBLISH, raw)), name
    for name, raw in BAD_CONNACKS.items():
        assert "accepted" not in refusal(packet(CONNACK, raw)), name


REFUSED = {
    "type 0": (b"\x00\x00", "type 0: …"),
    "connect": (b"\x10\x00", "type 1: …"),
    "subscribe": (b"\x80\x00", "type 8: …"),
    "unsubscribe": (b"\xa0\x00", "type 10: …"),
    "pingreq": (b"\xc0\x00", "type 12: …"),
    "auth": (b"\xf0\x02\x18\x00", "type 15: …"),
    "disconnect, flags": (b"\xe2\x00", "flags 2"),
    "pubrel, flags": (b"\x60\x02\x00\x01", "flags 0"),
    "puback, flags": (b"\x44\x02\x00\x01", "flags 4"),
    "connack, of MQTT 3.1.1": (b"\x20\x02\x00\x00", "of MQTT 3.1.1, expected one of MQTT 5, …"),
    "connack, of no version": (b"\x20\x02\x00\x06", "code (0, 6)"),
    "length of a packet in too many bytes": (b"\x30\x85\0\0\x01t\0x", "length 5 in 2 bytes"),
    "length of properties in too many bytes": (
        b"\x30\x08\0\x01t\x80\x80\x80\0x",
        "length 0 in 4 bytes",
    ),
    "identifier in too many bytes": (
        b"\x30\x08\0\x01t\x03\x0b\x81\0x",
        "length 1 in 2 bytes",
    ),
    "connack, flags": (b"\x20\x03\x02\x00\x00", "code (2, 0)"),
    "connack, refused with a session": (b"\x20\x03\x01\x80\x00", "code (1, 128)"),
    "connack, trailing byte": (b"\x20\x04\x00\x00\x00\x00", ": "),
    "connack, properties past the end": (b"\x20\x03\x00\x00\x01", "properties of 1"),
    "puback, short": (b"\x40\x01\x00", ": … 1"),
    "puback, id 0": (b"\x40\x02\x00\x00", "packet id 0"),
    "puback, trailing byte": (b"\x40\x05\x00\x01\x00\x00\x00", ": "),
    "puback, properties past the end": (b"\x40\x04\x00\x01\x00\x02", "properties of 2"),
    "suback, no code": (b"\x90\x03\x00\x01\x00", ": … 3"),
    "suback, the second code": (b"\x90\x05\x00\x01\x00\x00\x03", "code 3"),
    "unsuback, the second code": (b"\xb0\x05\x00\x01\x00\x00\x01", "code 1"),
    "suback, id 0": (b"\x90\x04\x00\x00\x00\x00", "packet id 0"),
    "suback, code in the properties": (b"\x90\x04\x00\x01\x01\x00", "property 0"),
    "unsuback, as in 3.1.1": (b"\xb0\x02\x00\x01", ": … 2"),
    "pingresp, length": (b"\xd0\x01\x00", ": … 1"),
    "disconnect, trailing byte": (b"\xe0\x03\x00\x00\x00", ": "),
    "disconnect, session expiry": (b"\xe0\x07\x00\x05\x11\0\0\0\0", "property 17"),
    "publish, no properties": (b"\x30\x03\x00\x01t", ": "),
    "publish, no topic": (b"\x30\x03\x00\x00\x00", "topic alias"),
    "publish, properties past the end": (b"\x30\x04\x00\x01t\x01", "properties of 1"),
    "publish, length of properties cut": (b"\x30\x04\x00\x01t\x80", ": "),
    "publish, length of properties": (b"\x30\x09\x00\x01t\x80\x80\x80\x80\x01\x00", "4 bytes"),
    "publish, QoS 3": (b"\x36\x06\x00\x01t\x00\x01\x00", "flags 6"),
    "publish, DUP at QoS 0": (b"\x38\x04\x00\x01t\x00", "flags 8"),
    "publish, id 0": (b"\x34\x06\x00\x01t\x00\x00\x00", "packet id 0"),
    "over the limit": (b"\x30\xc7\x01", "packet of 202 bytes, expected up to 200"),
}
SHORT = {
    "puback, two bytes": (b"\x40\x02\x12\x34", (PUBACK, 0x1234, 0)),
    "pubrec, three bytes": (b"\x50\x03\x00\x01\x80", (PUBREC, 1, 0x80)),
    "pubrel, two bytes": (b"\x62\x02\x00\x01", (PUBREL, 1, 0)),
    "suback, of two filters": (b"\x90\x05\x00\x01\x00\x01\x87", (SUBACK, 1, b"\1\x87")),
    "unsuback, of two filters": (b"\xb0\x05\x00\x01\x00\x11\0", (UNSUBACK, 1, b"\x11\0")),
    "pubcomp, three bytes": (b"\x70\x03\x00\x01\x92", (PUBCOMP, 1, 0x92)),
    "disconnect, empty": (b"\xe0\x00", (DISCONNECT, 0, None)),
    "disconnect, one byte": (b"\xe0\x01\x8b", (DISCONNECT, 0x8B, None)),
    "pingresp": (b"\xd0\x00", (PINGRESP,)),
    "connack, session": (b"\x20\x03\x01\x00\x00", (CONNACK, True, 0, None)),
    "publish, QoS 2": (
        b"\x3d\x06\x00\x01t\x00\x01\x00",
        (PUBLISH, "t", b"", 2, True, 1, None),
    ),
}


def test_refused():
    for name, (received, reason) in REFUSED.items():
        assert says(refusal(received), reason), (name, refusal(received))


def test_short_forms():
    for name, (received, found) in SHORT.items():
        assert decode(received)[1:] == found, name


def test_refusal_of_a_server_of_3_1_1():
    for code, name in enumerate((0x84, 0x85, 0x88, 0x86, 0x87), 1):
        found = decode(bytes((0x20, 2, 0, code)))
        assert found[1:] == (CONNACK, False, name, None), code


def test_reason_codes():
    for kind, codes in FAILURES.items():
        codes = [0] + [int(code, 16) for code in codes.split()]
        for code in range(256):
            found = refusal(packet(kind, b"", code))
            if code in codes:
                assert decode(packet(kind, b"", code))[1:] == expected(kind, code), (kind, code)
            else:
                assert "type %d: code %d" % (kind, code) in found, (kind, code)


# What is costly to keep: many small properties, and long ones.
COSTLY = (
    400 * b"\x26\0\0\0\0",
    250 * b"\x26\0\x01k\0\x01v",
    1000 * b"\x0b\x01",
    b"\x03\x07\xd0" + 2000 * b"x",
    b"\x03\x07\xd0" + 500 * "\U0001f600".encode(),
    b"\x09\x07\xd0" + bytes(2000),
)


def test_memory_is_bounded_by_the_packet():
    """MicroPython's; mqtt/test_codec_bytes.py does the same for CPython."""
    if not hasattr(gc, "mem_alloc"):
        return
    for properties in COSTLY:
        length = len(properties)
        body = b"\x00\x01t" + bytes((length & 127 | 128, length >> 7)) + properties
        received = b"\x30" + bytes((len(body) & 127 | 128, len(body) >> 7)) + body
        protocol, view = V5(), memoryview(received)
        gc.collect()
        before = gc.mem_alloc()
        found = protocol.decode(view, 0, len(received), len(received))
        gc.collect()
        assert found[0] == len(received)
        assert gc.mem_alloc() - before < len(received) + 1500, properties[:3]
