"""MQTT 3.1.1 on the wire: bytes taken from the standard's own examples, and every bad packet."""

import gc

from mqtt import codec
from mqtt.codec import MQTTError, MQTTProtocolError

LIMIT = 64

# What the standard prints, non-normative examples of the sections named.
ENCODED = {
    "connect, figure 3.6 but for user name and password": (
        codec.encode_connect("a", 10, True, ("w", b"x", 1, False)),
        b"\x10\x13\x00\x04MQTT\x04\x0e\x00\x0a\x00\x01a\x00\x01w\x00\x01x",
    ),
    "connect, persistent, will retained": (
        codec.encode_connect("a", 0x1234, False, ("w", b"", 0, True)),
        b"\x10\x12\x00\x04MQTT\x04\x24\x12\x34\x00\x01a\x00\x01w\x00\x00",
    ),
    "connect, no will": (
        codec.encode_connect("a", 1, False),
        b"\x10\x0d\x00\x04MQTT\x04\x00\x00\x01\x00\x01a",
    ),
    "text, figure 1.1": (
        codec.encode_publish("A\U0002a6d4", b""),
        b"\x30\x07\x00\x05\x41\xf0\xaa\x9b\x94",
    ),
    "publish, figure 3.11": (
        codec.encode_publish("a/b", b"", 1, False, 10),
        b"\x32\x07\x00\x03\x61\x2f\x62\x00\x0a",
    ),
    "publish, QoS 0, retained": (codec.encode_publish("a", b"xy", 0, True), b"\x31\x05\x00\x01axy"),
    "publish, largest packet id": (
        codec.encode_publish("a", b"", 1, True, 65535),
        b"\x33\x05\x00\x01a\xff\xff",
    ),
    "publish, text as payload": (codec.encode_publish("a", "é"), b"\x30\x05\x00\x01a\xc3\xa9"),
    "publish, payload in a memoryview": (
        codec.encode_publish("a", memoryview(b"xyz")[1:]),
        b"\x30\x05\x00\x01ayz",
    ),
    "puback, section 3.4": (codec.encode_puback(0x1234), b"\x40\x02\x12\x34"),
    "subscribe, figure 3.23": (
        codec.encode_subscribe(10, "a/b", 1),
        b"\x82\x08\x00\x0a\x00\x03\x61\x2f\x62\x01",
    ),
    "unsubscribe, figure 3.30": (
        codec.encode_unsubscribe(10, "a/b"),
        b"\xa2\x07\x00\x0a\x00\x03\x61\x2f\x62",
    ),
    "pingreq, section 3.12": (codec.PINGREQ_PACKET, b"\xc0\x00"),
    "disconnect, section 3.14": (codec.DISCONNECT_PACKET, b"\xe0\x00"),
}

# Table 2.4 of the standard; the first and last value of each number of digits.
REMAINING_LENGTHS = {
    0: b"\x00",
    127: b"\x7f",
    128: b"\x80\x01",
    16383: b"\xff\x7f",
    16384: b"\x80\x80\x01",
    2097151: b"\xff\xff\x7f",
    2097152: b"\x80\x80\x80\x01",
    268435455: b"\xff\xff\xff\x7f",
}

DECODED = {
    "connack": (b"\x20\x02\x00\x00", (codec.CONNACK, False, 0)),
    "connack, session present": (b"\x20\x02\x01\x00", (codec.CONNACK, True, 0)),
    "connack, refused": (b"\x20\x02\x00\x05", (codec.CONNACK, False, 5)),
    "publish": (b"\x30\x05\x00\x01axy", (codec.PUBLISH, "a", b"xy", 0, False, 0)),
    "publish, empty": (b"\x30\x03\x00\x01a", (codec.PUBLISH, "a", b"", 0, False, 0)),
    "publish, retained": (b"\x31\x04\x00\x01ax", (codec.PUBLISH, "a", b"x", 0, True, 0)),
    "publish, QoS 1": (b"\x32\x06\x00\x01a\x00\x0ax", (codec.PUBLISH, "a", b"x", 1, False, 10)),
    "publish, DUP": (b"\x3a\x05\x00\x01a\xff\xff", (codec.PUBLISH, "a", b"", 1, False, 65535)),
    "publish, any payload": (
        b"\x30\x06\x00\x01a\x00+\xff",
        (codec.PUBLISH, "a", b"\x00+\xff", 0, False, 0),
    ),
    "publish, of two bytes a character": (
        b"\x30\x04\x00\x02\xc3\xa9",
        (codec.PUBLISH, "é", b"", 0, False, 0),
    ),
    "publish, figure 1.1": (
        b"\x30\x07\x00\x05A\xf0\xaa\x9b\x94",
        (codec.PUBLISH, "A\U0002a6d4", b"", 0, False, 0),
    ),
    "publish, last characters before and first after the surrogates": (
        b"\x30\x08\x00\x06\xed\x9f\xbf\xee\x80\x80",
        (codec.PUBLISH, "\ud7ff\ue000", b"", 0, False, 0),
    ),
    "publish, first and last characters of two, three and four bytes": (
        b"\x30\x12\x00\x10\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf\xf0\x90\x80\x80az",
        (codec.PUBLISH, "\x80\u07ff\u0800\uffff\U00010000az", b"", 0, False, 0),
    ),
    "publish, highest character": (
        b"\x30\x06\x00\x04\xf4\x8f\xbf\xbf",
        (codec.PUBLISH, "\U0010ffff", b"", 0, False, 0),
    ),
    "publish, length in more bytes than it needs": (
        b"\x30\x83\x80\x00\x00\x01a",
        (codec.PUBLISH, "a", b"", 0, False, 0),
    ),
    "puback": (b"\x40\x02\x12\x34", (codec.PUBACK, 0x1234)),
    "suback": (b"\x90\x03\x00\x0a\x01", (codec.SUBACK, 10, 1)),
    "suback, refused": (b"\x90\x03\x00\x0a\x80", (codec.SUBACK, 10, codec.REFUSED)),
    "unsuback": (b"\xb0\x02\x00\x0a", (codec.UNSUBACK, 10)),
    "pingresp": (b"\xd0\x00", (codec.PINGRESP,)),
}

REFUSED = {
    "type 0": (b"\x00\x00", "type 0"),
    "connect": (b"\x10\x00", "type 1"),
    "pubrec": (b"\x50\x02\x00\x01", "type 5"),
    "pubrel": (b"\x62\x02\x00\x01", "type 6"),
    "pubcomp": (b"\x70\x02\x00\x01", "type 7"),
    "subscribe": (b"\x82\x06\x00\x01\x00\x01a\x00", "type 8"),
    "unsubscribe": (b"\xa2\x05\x00\x01\x00\x01a", "type 10"),
    "pingreq": (b"\xc0\x00", "type 12"),
    "disconnect": (b"\xe0\x00", "type 14"),
    "type 15": (b"\xf0\x00", "type 15"),
    "connack, flags": (b"\x21\x02\x00\x00", "flags 1"),
    "puback, flags": (b"\x42\x02\x00\x01", "flags 2"),
    "suback, flags": (b"\x98\x03\x00\x01\x00", "flags 8"),
    "unsuback, flags": (b"\xb4\x02\x00\x01", "flags 4"),
    "pingresp, flags": (b"\xdf\x00", "flags 15"),
    "connack, short": (b"\x20\x01\x00", "remaining length 1, expected 2"),
    "connack, trailing byte": (b"\x20\x03\x00\x00\x00", "remaining length 3, expected 2"),
    "puback, short": (b"\x40\x01\x00", "remaining length 1, expected 2"),
    "puback, trailing byte": (b"\x40\x03\x00\x01\x00", "remaining length 3, expected 2"),
    "suback, no return code": (b"\x90\x02\x00\x01", "remaining length 2, expected 3"),
    "suback, two return codes": (b"\x90\x04\x00\x01\x00\x00", "remaining length 4, expected 3"),
    "unsuback, trailing byte": (b"\xb0\x03\x00\x01\x00", "remaining length 3, expected 2"),
    "pingresp, trailing byte": (b"\xd0\x01\x00", "remaining length 1, expected 0"),
    "fixed length, seen before the body": (b"\x40\xff\x7f", "remaining length 16383, expected 2"),
    "length of five bytes": (b"\x30\x80\x80\x80\x80\x01", "more than 4 bytes"),
    "length over the limit": (b"\x30\x3f", "packet of 65 bytes, expected up to 64"),
    "greatest length": (b"\x30\xff\xff\xff\x7f", "packet of 268435460 bytes"),
    "connack, reserved bits": (b"\x20\x02\x02\x00", "flags 2"),
    "connack, reserved code": (b"\x20\x02\x00\x06", "return code 6"),
    "connack, refused with a session": (b"\x20\x02\x01\x05", "refused with 5"),
    "publish, QoS 2": (b"\x34\x05\x00\x01a\x00\x01", "QoS 2"),
    "publish, QoS 3": (b"\x36\x05\x00\x01a\x00\x01", "QoS 3"),
    "publish, DUP at QoS 0": (b"\x38\x03\x00\x01a", "DUP"),
    "publish, no body": (b"\x30\x00", "remaining length 0, expected 2"),
    "publish, half a topic length": (b"\x30\x01\x00", "remaining length 1, expected 2"),
    "publish, topic past the end": (b"\x30\x03\x00\x02a", "remaining length 3, expected 4"),
    "publish, longest topic": (b"\x30\x03\xff\xffa", "remaining length 3, expected 65537"),
    "publish, no packet id": (b"\x32\x03\x00\x01a", "remaining length 3, expected 5"),
    "publish, half a packet id": (b"\x32\x04\x00\x01a\x00", "remaining length 4, expected 5"),
    "publish, packet id 0": (b"\x32\x05\x00\x01a\x00\x00", "packet id 0"),
    "puback, packet id 0": (b"\x40\x02\x00\x00", "packet id 0"),
    "suback, packet id 0": (b"\x90\x03\x00\x00\x00", "packet id 0"),
    "unsuback, packet id 0": (b"\xb0\x02\x00\x00", "packet id 0"),
    "suback, QoS 2": (b"\x90\x03\x00\x01\x02", "return code 2"),
    "suback, reserved code": (b"\x90\x03\x00\x01\x81", "return code 129"),
    "topic, empty": (b"\x30\x02\x00\x00", "topic ''"),
    "topic, +": (b"\x30\x05\x00\x03a/+", "topic 'a/+'"),
    "topic, #": (b"\x30\x03\x00\x01#", "topic '#'"),
    "topic, NUL": (b"\x30\x04\x00\x02a\x00", "topic 'a\\x00'"),
    "topic, NUL among others": (b"\x30\x06\x00\x04\xc3\xa9\x00a", "expected a name without NUL"),
    "topic, lone continuation": (b"\x30\x04\x00\x02a\x80", "not UTF-8"),
    "topic, cut character": (b"\x30\x04\x00\x02a\xc3", "not UTF-8"),
    "topic, first byte of five": (b"\x30\x07\x00\x05\xf8\x88\x80\x80\x80", "not UTF-8"),
    "topic, FF": (b"\x30\x03\x00\x01\xff", "not UTF-8"),
    "topic, overlong NUL": (b"\x30\x04\x00\x02\xc0\x80", "not UTF-8"),
    "topic, overlong /": (b"\x30\x05\x00\x03\xe0\x80\xaf", "not UTF-8"),
    "topic, overlong in four bytes": (b"\x30\x06\x00\x04\xf0\x80\x80\xaf", "not UTF-8"),
    "topic, first surrogate": (b"\x30\x05\x00\x03\xed\xa0\x80", "not UTF-8"),
    "topic, last surrogate": (b"\x30\x05\x00\x03\xed\xbf\xbf", "not UTF-8"),
    "topic, above the last character": (b"\x30\x06\x00\x04\xf4\x90\x80\x80", "not UTF-8"),
    "topic, far above it": (b"\x30\x06\x00\x04\xf7\xbf\xbf\xbf", "not UTF-8"),
}

BAD_ARGUMENTS = {
    "topic, empty": lambda: codec.encode_publish("", b""),
    "topic, +": lambda: codec.encode_publish("a/+", b""),
    "topic, #": lambda: codec.encode_publish("#", b""),
    "topic, NUL": lambda: codec.encode_publish("a\0", b""),
    "publish, QoS 2": lambda: codec.encode_publish("a", b"", 2, False, 1),
    "publish, QoS -1": lambda: codec.encode_publish("a", b"", -1),
    "subscribe, QoS 2": lambda: codec.encode_subscribe(1, "a", 2),
    "filter, empty": lambda: codec.encode_subscribe(1, "", 0),
    "filter, # not last": lambda: codec.encode_subscribe(1, "#/a", 0),
    "filter, # in a level": lambda: codec.encode_subscribe(1, "a#", 0),
    "filter, + in a level": lambda: codec.encode_subscribe(1, "a/b+", 0),
    "filter, NUL": lambda: codec.encode_unsubscribe(1, "a\0"),
    "client id, NUL": lambda: codec.encode_connect("\0", 1, True),
    "will, topic": lambda: codec.encode_connect("a", 1, True, ("#", b"", 0, False)),
    "will, QoS": lambda: codec.encode_connect("a", 1, True, ("a", b"", 2, False)),
}

GOOD_FILTERS = ("a", "/", "+", "#", "a/#", "+/+", "/+/b/#", "$SYS/#", "a b")


def decode(packet):
    """Decode a packet that lies somewhere in a buffer, as it does in the client's."""
    buffer = memoryview(b"\xaa" + packet + b"\xbb")
    return codec.decode(buffer, 1, 1 + len(packet), LIMIT)


def refusal(packet):
    """What MQTTProtocolError says, or what was decoded instead."""
    try:
        return "accepted: %r" % (decode(packet),)
    except MQTTProtocolError as error:
        return str(error)


def test_encoded():
    for name, (packet, expected) in ENCODED.items():
        assert bytes(packet) == expected, name


def test_encoded_remaining_length():
    for remaining, digits in REMAINING_LENGTHS.items():
        if 2 < remaining < 20000:  # what a small heap holds
            gc.collect()
            packet = codec.encode_publish("a", bytes(remaining - 3))
            assert bytes(packet[: 1 + len(digits)]) == b"\x30" + digits, remaining
            assert len(packet) == 1 + len(digits) + remaining, remaining


def test_decoded():
    for name, (packet, expected) in DECODED.items():
        decoded = decode(packet)
        assert decoded[0] == 1 + len(packet), name
        assert decoded[1:] == expected, name


def test_decoded_payload_is_not_copied():
    buffer = bytearray(b"\x30\x05\x00\x01axy")
    payload = codec.decode(memoryview(buffer), 0, len(buffer), LIMIT)[3]
    buffer[-1] = 0x7A
    assert bytes(payload) == b"xz"


def test_incomplete_packet_waits_for_the_rest():
    for name, (packet, _) in DECODED.items():
        for received in range(len(packet)):
            assert decode(packet[:received]) is None, (name, received)


def test_packets_in_a_row():
    stream = b"".join(packet for packet, _ in DECODED.values())
    view, at, found = memoryview(stream), 0, []
    while at < len(stream):
        at, *packet = codec.decode(view, at, len(stream), LIMIT)
        found.append(tuple(packet))
    assert found == [expected for _, expected in DECODED.values()]


def test_remaining_length():
    for remaining, digits in REMAINING_LENGTHS.items():
        packet_len = 1 + len(digits) + remaining
        buffer = memoryview(b"\x30" + digits)
        if remaining:
            # As long as the limit: waits for the body.
            assert codec.decode(buffer, 0, len(buffer), packet_len) is None, remaining
        try:
            codec.decode(buffer, 0, len(buffer), packet_len - 1)
        except MQTTProtocolError as error:
            assert "packet of %d bytes, expected up to %d" % (packet_len, packet_len - 1) in str(
                error
            )
        else:
            raise AssertionError(remaining)


def test_refused():
    for name, (packet, reason) in REFUSED.items():
        assert reason in refusal(packet), (name, refusal(packet))


def test_refused_as_soon_as_the_header_is_in():
    for name in ("type 15", "pingresp, flags", "length over the limit", "greatest length"):
        packet, reason = REFUSED[name]
        assert reason in refusal(packet), name
    assert "type 15" in refusal(b"\xf0")
    assert "flags 15" in refusal(b"\xdf")
    assert "more than 4 bytes" in refusal(b"\x30\x80\x80\x80\x80")


def test_messages_stay_short():
    packet = b"\x30\x3c\x00\x3a" + b"a" * 56 + b"+" + b"\0"
    assert len(refusal(packet)) < 100
    assert "topic" in refusal(packet)


def test_bad_arguments():
    for name, call in BAD_ARGUMENTS.items():
        try:
            call()
        except ValueError:
            continue
        raise AssertionError(name)


def test_good_filters():
    for topic_filter in GOOD_FILTERS:
        assert topic_filter.encode() in codec.encode_subscribe(1, topic_filter, 1)


def test_one_family_of_errors():
    assert issubclass(MQTTProtocolError, MQTTError)
