"""MQTT 5, what a client sends: properties, options, topic aliases, the limits of the server."""

import sys

from test_mqtt_v5 import LIMIT, PROPERTIES, Will, connected, decode, new, packet, refusal

from mqtt import codec, reasons
from mqtt.codec import MQTTRefusedError
from mqtt.v5 import NO_LOCAL, RETAIN_AS_PUBLISHED, RETAIN_NEVER, RETAIN_NEW, V5

CONNECT_HEAD = b"\x00\x04MQTT\x05"


def raises(error_class, call, *arguments):
    try:
        call(*arguments)
    except error_class as error:
        return error
    raise AssertionError("accepted")


def encode(kind, properties):
    """A packet of this kind with these properties: a letter of PROPERTIES' fourth column."""
    if kind == "C":
        return V5(**properties).encode_connect("a", 1, True, None, None, None, 9)
    if kind == "W":
        return new().encode_connect("a", 1, True, Will(properties), None, None, 9)
    if kind == "P":
        return new().encode_publish("t", b"x", 0, False, 0, properties)
    return new().encode_subscribe(1, "t", 0, 0, properties)


SIZE = b"\x27\x00\x00\x00\x09"  # the maximum_packet_size that is put in
SENT = {
    "C": b"\x10%s" + CONNECT_HEAD + b"\x02\x00\x01%s\x00\x01a",
    "W": b"\x10%s" + CONNECT_HEAD + b"\x36\x00\x01\x05" + SIZE + b"\x00\x01a%s\x00\x01w\x00\x01x",
    "P": b"\x30%s\x00\x01t%sx",
    "S": b"\x82%s\x00\x01%s\x00\x01t\x00",
}


def sent(kind, raw):
    if kind == "C":
        raw = SIZE + raw
    first, head, tail = SENT[kind].split(b"%s")
    body = head + bytes((len(raw),)) + raw + tail
    return first + bytes((len(body),)) + body


def test_properties_in_every_packet():
    for name, (number, value, raw, kinds, _) in PROPERTIES.items():
        for kind in "CWPS":
            if kind in kinds:
                found = bytes(encode(kind, {name: value}))
                assert found == sent(kind, bytes((number,)) + raw), (name, kind)
            else:
                raises(ValueError, encode, kind, {name: value})
            assert bytes(encode(kind, {})) == sent(kind, b""), kind


def test_properties_with_wrong_values():
    for name, (_, value, _, kinds, _) in PROPERTIES.items():
        wrong = [None, 1.0, [], (), {}, -1, 0x100000000]
        wrong += [] if isinstance(value, str) else ["1"]
        wrong += [] if isinstance(value, bytes) else [b"1"]
        if isinstance(value, list):
            wrong += [["kv"], ["k", "v"], [("k",)], [("k", 1)], [(b"k", "v")], [("\0", "v")]]
            wrong += [[("k", "v", "w")], [["k", "v"]]]
            wrong.remove([])
        elif isinstance(value, str):
            wrong += ["a\0", 65536 * "a"] if sys.implementation.name == "cpython" else ["a\0"]
        elif isinstance(value, bytes):
            wrong += ["text", 65536 * b"a"] if sys.implementation.name == "cpython" else ["text"]
        for kind in kinds:
            for bad in wrong:
                raises(ValueError, encode, kind, {name: bad})


# name: kind, least, greatest
RANGES = {
    "payload_format_indicator": ("P", 0, 1),
    "message_expiry_interval": ("P", 0, 0xFFFFFFFF),
    "subscription_identifier": ("S", 1, 268_435_455),
    "session_expiry_interval": ("C", 0, 0xFFFFFFFF),
    "request_problem_information": ("C", 0, 1),
    "will_delay_interval": ("W", 0, 0xFFFFFFFF),
    "receive_maximum": ("C", 1, 65535),
    "topic_alias_maximum": ("C", 0, 65535),
}


def test_ranges():
    for name, (kind, least, greatest) in RANGES.items():
        for value in (least, greatest):
            encode(kind, {name: value})
        for value in (least - 1, greatest + 1):
            error = raises(ValueError, encode, kind, {name: value})
            assert str(error) == "%s %d, expected %d to %d" % (name, value, least, greatest)


def test_subscription_identifiers():
    for value, raw in {
        1: b"\x01",
        127: b"\x7f",
        128: b"\x80\x01",
        268_435_455: b"\xff\xff\xff\x7f",
    }.items():
        assert bytes(encode("S", {"subscription_identifier": value})) == sent("S", b"\x0b" + raw)


def test_names_of_no_property():
    for name in ("", " ", "topic", "qos", "01126", "Content Type", "authentication_method", 3):
        for kind in "WPS":
            raises(ValueError, encode, kind, {name: 1})
    error = raises(ValueError, lambda: V5(clean=True))
    assert "'clean', expected one for this packet" in str(error)


def test_response_topic_is_a_name():
    for topic in ("", "+", "a/#"):
        raises(ValueError, encode, "P", {"response_topic": topic})


def test_user_properties():
    pairs = [("a", "1"), ("a", "1"), ("", "é")]
    raw = b"\x26\x00\x01a\x00\x011" * 2 + b"\x26\x00\x00\x00\x02\xc3\xa9"
    assert bytes(encode("P", {"user_property": pairs})) == sent("P", raw)
    assert bytes(encode("P", {"user_property": []})) == sent("P", b"")


def test_connect():
    protocol = V5(receive_maximum=8)
    assert (protocol.level, protocol.window, V5().window) == (5, 8, 65535)
    will = Will({"will_delay_interval": 1})
    found = protocol.encode_connect("é", 60, False, will, "u", b"p", 2048)
    body = CONNECT_HEAD + b"\xf4\x00\x3c\x08\x27\x00\x00\x08\x00\x21\x00\x08\x00\x02\xc3\xa9"
    body += b"\x05\x18\x00\x00\x00\x01\x00\x01w\x00\x01x\x00\x01u\x00\x01p"
    assert bytes(found) == b"\x10" + bytes((len(body),)) + body


def test_other_packets():
    protocol = new()
    assert bytes(protocol.encode_ack(4, 0x1234)) == b"\x40\x02\x12\x34"
    assert bytes(protocol.encode_ack(6, 1)) == b"\x62\x02\x00\x01"
    assert bytes(protocol.encode_unsubscribe(1, "a/#")) == b"\xa2\x08\x00\x01\x00\x00\x03a/#"
    assert (
        bytes(protocol.encode_publish("t", "é", 2, True, 3))
        == b"\x35\x08\x00\x01t\x00\x03\x00\xc3\xa9"
    )
    head = protocol.encode_publish_head("t", 1000, 0, False, 0, None)
    assert bytes(head) == b"\x30\xec\x07\x00\x01t\x00"


def test_subscription_options():
    for options in (0, NO_LOCAL, RETAIN_AS_PUBLISHED, RETAIN_NEW, RETAIN_NEVER | NO_LOCAL):
        for qos in (0, 1, 2):
            found = new().encode_subscribe(1, "t", qos, options)
            assert bytes(found) == b"\x82\x07\x00\x01\x00\x00\x01t" + bytes((options | qos,))
    for options in (1, 2, RETAIN_NEW | RETAIN_NEVER, 0x40, 0x80, 0x100, -1):
        raises(ValueError, new().encode_subscribe, 1, "t", 0, options)
    raises(ValueError, new().encode_subscribe, 1, "t", 3)


def test_shared_subscriptions():
    for good in ("$share/g/t", "$share/g/#", "$share/g//", "$share/g/+/t", "$shared"):
        assert good.encode() in bytes(new().encode_subscribe(1, good, 1))
    for bad in (
        "$share",
        "$share/",
        "$share/g",
        "$share/g/",
        "$share//t",
        "$share/+/t",
        "$share/#",
    ):
        raises(ValueError, new().encode_subscribe, 1, bad, 1)
    raises(ValueError, new().encode_subscribe, 1, "$share/g/t", 1, NO_LOCAL)


def test_what_the_server_says():
    names = ("receive_maximum", "keepalive_s", "properties")
    protocol = connected(b"\x21\0\x05\x13\0\x07\x12\0\x01c\x24\x01\x25\0\x27\0\0\0\x20")
    said = protocol.properties
    assert (len(said), said["assigned_client_identifier"]) == (6, "c")
    assert [getattr(protocol, name) for name in names] == [5, 7, said]
    # The next connection begins with nothing.
    protocol.encode_connect("a", 1, True, None, None, None, LIMIT)
    assert [getattr(protocol, name) for name in names] == [65535, None, {}]


def test_limits_of_the_server():
    protocol = connected(b"\x24\x01\x25\x00\x27\x00\x00\x00\x20")
    for size in range(20, 40):
        message = protocol.encode_publish("t", bytes(size), 1, False, 1)
        if len(message) > 32:
            assert raises(MQTTRefusedError, protocol.check, message).code == 0x95
        else:
            protocol.check(message)
    head = protocol.encode_publish_head("t", 1000, 0, False, 0, None)
    assert raises(MQTTRefusedError, protocol.check, head).code == 0x95
    message = protocol.encode_publish("t", b"", 2, False, 1)
    error = raises(MQTTRefusedError, protocol.check, message)
    assert (str(error), error.code) == ("publish refused: QoS not supported (0x9b)", 0x9B)
    message = protocol.encode_publish("t", b"", 0, True)
    assert raises(MQTTRefusedError, protocol.check, message).code == 0x9A
    message = protocol.encode_publish("t", b"", 1, False, 1)
    protocol.check(message)
    protocol = connected(b"\x24\x00")
    assert raises(MQTTRefusedError, protocol.check, message).code == 0x9B
    for qos in (0, 1, 2):
        new().check(new().encode_publish("t", bytes(100), qos, True, 1))


def test_connack():
    assert new().check_connack(decode(b"\x20\x03\x00\x00\x00")) is False
    assert new().check_connack(decode(b"\x20\x03\x01\x00\x00")) is True


def test_connack_refused():
    protocol = new()
    received = decode(packet(2, b"\x1f\x00\x02no\x1c\x00\x01s", 0x87), protocol)
    error = raises(MQTTRefusedError, protocol.check_connack, received)
    assert (str(error), error.code) == ("connection refused: Not authorized (0x87)", 0x87)
    assert protocol.properties == {"reason_string": "no", "server_reference": "s"}


def test_names_of_reason_codes():
    assert reasons.name(0x00) == "Success"
    assert reasons.name(0x10) == "No matching subscribers"
    assert reasons.name(0x80) == "Unspecified error"
    assert reasons.name(0x8C) == "Bad authentication method"
    assert reasons.name(0x97) == "Quota exceeded"
    assert reasons.name(0xA2) == "Wildcard Subscriptions not supported"
    for code in (0x05, 0x7F, 0xA3, 0xFF):
        assert reasons.name(code) == "Unknown reason"


def test_a_refusal_without_the_names():
    kept = sys.modules["mqtt.reasons"]
    sys.modules["mqtt.reasons"] = sys  # which has no `name`
    try:
        error = codec.refusal("publish", 0x97)
    finally:
        sys.modules["mqtt.reasons"] = kept
    assert (str(error), error.code) == ("publish refused: code (0x97)", 0x97)


ALIAS = b"\x03\x23\x00"  # the length of properties, and the first bytes of a topic alias


def test_topic_aliases_sent():
    protocol = connected(b"\x22\x00\x02")

    def head(topic, qos=0, properties=None):
        return bytes(protocol.encode_publish(topic, b"", qos, False, 9, properties))[2:]

    assert head("a") == b"\x00\x01a" + ALIAS + b"\x01"
    assert head("b") == b"\x00\x01b" + ALIAS + b"\x02"
    assert head("c") == b"\x00\x01c\x00"
    for _ in range(2):
        assert head("a") == b"\x00\x00" + ALIAS + b"\x01"
        assert head("a", 1) == b"\x00\x01a\x00\x09\x00"
        assert head("b") == b"\x00\x00" + ALIAS + b"\x02"
        assert head("c") == b"\x00\x01c\x00"
        assert head("b", 2) == b"\x00\x01b\x00\x09\x00"
    found = head("a", 0, {"payload_format_indicator": 1})
    assert found == b"\x00\x00\x05\x01\x01\x23\x00\x01"
    raises(ValueError, head, "a", 0, {"topic_alias": 1})
    # What comes in pieces may wait for another connection.
    large = protocol.encode_publish_head("a", 0, 0, False, 0, None)
    assert bytes(large)[2:] == b"\x00\x01a\x00"
    raises(ValueError, head, "", 0)
    assert head("a", 1) == b"\x00\x01a\x00\x09\x00"
    # The next connection begins with none.
    protocol.encode_connect("a", 1, True, None, None, None, LIMIT)
    assert head("a") == b"\x00\x01a\x00"
    protocol.check_connack(decode(packet(2, b"\x22\x00\x01"), protocol))
    assert head("b") == b"\x00\x01b" + ALIAS + b"\x01"


def test_topic_aliases_sent_are_few():
    protocol = connected(b"\x22\xff\xff")
    for _ in range(2):
        lengths = [len(protocol.encode_publish("topic/%03d" % i, b"")) for i in range(20)]
    assert lengths == 16 * [2 + 2 + 4] + 4 * [2 + 2 + 9 + 1]


def test_no_topic_alias_from_a_publish_that_is_not_sent():
    """What `check` refuses, or never was a packet, the server does not see."""
    protocol = connected(b"\x22\x00\x05\x25\x00\x27\x00\x00\x00\x20")
    raises(MQTTRefusedError, protocol.check, protocol.encode_publish("a", bytes(30)))
    raises(MQTTRefusedError, protocol.check, protocol.encode_publish("a", b"", 0, True))
    raises(ValueError, protocol.encode_publish, "a", b"", 0, False, 0, {"x": 1})
    assert bytes(protocol.encode_publish("a", b""))[2:] == b"\x00\x01a" + ALIAS + b"\x01"


def test_topic_aliases_received():
    protocol = new(topic_alias_maximum=2)

    def receive(topic, alias):
        body = b"\x00" + bytes((len(topic),)) + topic + ALIAS + bytes((alias,))
        return decode(b"\x30" + bytes((len(body),)) + body, protocol)[2:]

    assert receive(b"a", 1) == ("a", b"", 0, False, 0, None)
    assert receive(b"", 1)[0] == "a"
    assert receive(b"b", 2)[0] == "b"
    assert receive(b"c", 1)[0] == "c"
    assert [receive(b"", alias)[0] for alias in (1, 2, 1)] == ["c", "b", "c"]
    for topic in (b"", b"d"):
        body = b"\x00" + bytes((len(topic),)) + topic + ALIAS + b"\x03"
        assert "topic alias 3" in refusal(b"\x30" + bytes((len(body),)) + body, protocol)
    # The next connection begins with none.
    protocol.encode_connect("a", 1, True, None, None, None, LIMIT)
    assert "topic alias 1" in refusal(b"\x30\x06\x00\x00" + ALIAS + b"\x01", protocol)
