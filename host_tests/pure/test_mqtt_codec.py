"""MQTT 3.1.1 on the wire, what a server sends: every packet, and everything that is refused."""

import mqtt_wire
from mqtt_wire import says

from mqtt.codec import V311, MQTTError, MQTTProtocolError, MQTTRefusedError

LIMIT = 64
CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 2, 3, 4, 5, 6, 7
SUBACK, UNSUBACK, PINGRESP = 9, 11, 13


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
    "connack": (b"\x20\x02\x00\x00", (CONNACK, False, 0, None)),
    "connack, session present": (b"\x20\x02\x01\x00", (CONNACK, True, 0, None)),
    "connack, refused": (b"\x20\x02\x00\x05", (CONNACK, False, 5, None)),
    "publish": (b"\x30\x05\x00\x01axy", (PUBLISH, "a", b"xy", 0, False, 0, None)),
    "publish, empty": (b"\x30\x03\x00\x01a", (PUBLISH, "a", b"", 0, False, 0, None)),
    "publish, retained": (b"\x31\x04\x00\x01ax", (PUBLISH, "a", b"x", 0, True, 0, None)),
    "publish, QoS 1": (b"\x32\x06\x00\x01a\x00\x0ax", (PUBLISH, "a", b"x", 1, False, 10, None)),
    "publish, DUP": (b"\x3a\x05\x00\x01a\xff\xff", (PUBLISH, "a", b"", 1, False, 65535, None)),
    "publish, any payload": (
        b"\x30\x06\x00\x01a\x00+\xff",
        (PUBLISH, "a", b"\x00+\xff", 0, False, 0, None),
    ),
    "publish, of two bytes a character": (
        b"\x30\x04\x00\x02\xc3\xa9",
        (PUBLISH, "é", b"", 0, False, 0, None),
    ),
    "publish, figure 1.1": (
        b"\x30\x07\x00\x05A\xf0\xaa\x9b\x94",
        (PUBLISH, "A\U0002a6d4", b"", 0, False, 0, None),
    ),
    "publish, last characters before and first after the surrogates": (
        b"\x30\x08\x00\x06\xed\x9f\xbf\xee\x80\x80",
        (PUBLISH, "\ud7ff\ue000", b"", 0, False, 0, None),
    ),
    "publish, first and last characters of two, three and four bytes": (
        b"\x30\x13\x00\x11\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf\xf0\x90\x80\x80az",
        (PUBLISH, "\x7f\x80\u07ff\u0800\uffff\U00010000az", b"", 0, False, 0, None),
    ),
    "publish, highest character": (
        b"\x30\x06\x00\x04\xf4\x8f\xbf\xbf",
        (PUBLISH, "\U0010ffff", b"", 0, False, 0, None),
    ),
    "publish, length in more bytes than it needs": (
        b"\x30\x83\x80\x00\x00\x01a",
        (PUBLISH, "a", b"", 0, False, 0, None),
    ),
    "publish, length in four bytes": (
        b"\x30\x83\x80\x80\x00\x00\x01a",
        (PUBLISH, "a", b"", 0, False, 0, None),
    ),
    "publish, QoS 2, DUP": (
        b"\x3d\x06\x00\x01a\x00\x0ax",
        (PUBLISH, "a", b"x", 2, True, 10, None),
    ),
    "puback": (b"\x40\x02\x12\x34", (PUBACK, 0x1234, 0)),
    "pubrec": (b"\x50\x02\xff\xff", (PUBREC, 65535, 0)),
    "pubrel": (b"\x62\x02\x00\x01", (PUBREL, 1, 0)),
    "pubcomp": (b"\x70\x02\x01\x00", (PUBCOMP, 256, 0)),
    "suback": (b"\x90\x03\x00\x0a\x01", (SUBACK, 10, 1)),
    "suback, QoS 2": (b"\x90\x03\x00\x0a\x02", (SUBACK, 10, 2)),
    "suback, of three filters": (b"\x90\x05\x00\x0a\x01\x80\x02", (SUBACK, 10, b"\1\x80\2")),
    "suback, refused": (b"\x90\x03\x00\x0a\x80", (SUBACK, 10, 0x80)),
    "unsuback": (b"\xb0\x02\x00\x0a", (UNSUBACK, 10, 0)),
    "pingresp": (b"\xd0\x00", (PINGRESP,)),
}

REFUSED = {
    "type 0": (b"\x00\x00", "type 0: …"),
    "connect": (b"\x10\x00", "type 1: …"),
    "subscribe": (b"\x82\x06\x00\x01\x00\x01a\x00", "type 8: flags 2"),
    "subscribe, flags 0": (b"\x80\x06\x00\x01\x00\x01a\x00", "type 8: …"),
    "unsubscribe": (b"\xa2\x05\x00\x01\x00\x01a", "type 10: flags 2"),
    "unsubscribe, flags 0": (b"\xa0\x05\x00\x01\x00\x01a", "type 10: …"),
    "pingreq": (b"\xc0\x00", "type 12: …"),
    "disconnect": (b"\xe0\x00", "type 14: …"),
    "type 15": (b"\xf0\x00", "type 15: …"),
    "connack, flags": (b"\x21\x02\x00\x00", "type 2: flags 1"),
    "puback, flags": (b"\x42\x02\x00\x01", "type 4: flags 2"),
    "pubrec, flags": (b"\x52\x02\x00\x01", "type 5: flags 2"),
    "pubrel, flags 0": (b"\x60\x02\x00\x01", "type 6: flags 0"),
    "pubrel, flags 3": (b"\x63\x02\x00\x01", "type 6: flags 3"),
    "pubcomp, flags": (b"\x72\x02\x00\x01", "type 7: flags 2"),
    "suback, flags": (b"\x98\x03\x00\x01\x00", "type 9: flags 8"),
    "unsuback, flags": (b"\xb4\x02\x00\x01", "type 11: flags 4"),
    "pingresp, flags": (b"\xdf\x00", "type 13: flags 15"),
    "connack, short": (b"\x20\x01\x00", "type 2: … 1"),
    "connack, trailing byte": (b"\x20\x03\x00\x00\x00", "type 2: … 3"),
    "puback, short": (b"\x40\x01\x00", "type 4: … 1"),
    "puback, trailing byte": (b"\x40\x03\x00\x01\x00", "type 4: … 3"),
    "pubrec, trailing byte": (b"\x50\x03\x00\x01\x00", "type 5: … 3"),
    "pubrel, trailing byte": (b"\x62\x03\x00\x01\x00", "type 6: … 3"),
    "pubcomp, short": (b"\x70\x01\x00", "type 7: … 1"),
    "suback, no return code": (b"\x90\x02\x00\x01", "type 9: … 2"),
    "suback, the second code": (b"\x90\x04\x00\x01\x00\x03", "type 9: code 3"),
    "unsuback, trailing byte": (b"\xb0\x03\x00\x01\x00", "type 11: … 3"),
    "pingresp, trailing byte": (b"\xd0\x01\x00", "type 13: … 1"),
    "fixed length, seen before the body": (b"\x40\xff\x7f", "type 4: … 16383"),
    "fixed length, of two bytes": (b"\x40\xfe\x01", "type 4: … 254"),
    "fixed length, 255": (b"\x40\xff\x01", "type 4: … 255"),
    "length of five bytes": (b"\x30\x80\x80\x80\x80\x01", "more than 4 bytes"),
    "length over the limit": (b"\x30\x3f", "packet of 65 bytes, expected up to 64"),
    "greatest length": (b"\x30\xff\xff\xff\x7f", "packet of 268435460 bytes"),
    "connack, reserved bits": (b"\x20\x02\x02\x00", "code (2, 0)"),
    "connack, reserved code": (b"\x20\x02\x00\x06", "code (0, 6)"),
    "connack, refused with a session": (b"\x20\x02\x01\x05", "code (1, 5)"),
    "publish, QoS 3": (b"\x36\x05\x00\x01a\x00\x01", "flags 6"),
    "publish, DUP at QoS 0": (b"\x38\x03\x00\x01a", "flags 8"),
    "publish, no body": (b"\x30\x00", "type 3: … 0"),
    "publish, half a topic length": (b"\x30\x01\x00", "type 3: … 1"),
    "publish, topic past the end": (b"\x30\x03\x00\x02a", "type 3: … 3"),
    "publish, longest topic": (b"\x30\x03\xff\xffa", "type 3: … 3"),
    "publish, no packet id": (b"\x32\x03\x00\x01a", "type 3: … 3"),
    "publish, half a packet id": (b"\x34\x04\x00\x01a\x00", "type 3: … 4"),
    "publish, packet id 0": (b"\x32\x05\x00\x01a\x00\x00", "packet id 0"),
    "publish, QoS 2, packet id 0": (b"\x34\x05\x00\x01a\x00\x00", "packet id 0"),
    "puback, packet id 0": (b"\x40\x02\x00\x00", "packet id 0"),
    "pubrec, packet id 0": (b"\x50\x02\x00\x00", "packet id 0"),
    "pubrel, packet id 0": (b"\x62\x02\x00\x00", "packet id 0"),
    "pubcomp, packet id 0": (b"\x70\x02\x00\x00", "packet id 0"),
    "suback, packet id 0": (b"\x90\x03\x00\x00\x00", "packet id 0"),
    "unsuback, packet id 0": (b"\xb0\x02\x00\x00", "packet id 0"),
    "suback, QoS 3": (b"\x90\x03\x00\x01\x03", "code 3"),
    "suback, reserved code": (b"\x90\x03\x00\x01\x81", "code 129"),
    "topic, empty": (b"\x30\x02\x00\x00", "topic ''"),
    "topic, +": (b"\x30\x05\x00\x03a/+", "topic 'a/+'"),
    "topic, #": (b"\x30\x03\x00\x01#", "topic '#'"),
    "topic, NUL": (b"\x30\x04\x00\x02a\x00", "NUL"),
    "topic, NUL among others": (b"\x30\x06\x00\x04\xc3\xa9\x00a", "NUL"),
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

# Section 3.2.2.3: what a refusal is called, by the name that MQTT 5 has for the same.
REFUSALS = {
    1: "connection refused: Unsupported Protocol Version (0x01)",
    2: "connection refused: Client Identifier not valid (0x02)",
    3: "connection refused: Server unavailable (0x03)",
    4: "connection refused: Bad User Name or Password (0x04)",
    5: "connection refused: Not authorized (0x05)",
}


def decode(packet):
    return mqtt_wire.decode(packet, V311(), LIMIT)


def refusal(packet):
    return mqtt_wire.refusal(packet, V311(), LIMIT)


def test_decoded():
    for name, (packet, expected) in DECODED.items():
        decoded = decode(packet)
        assert decoded[0] == 1 + len(packet), name
        assert decoded[1:] == expected, name


def test_decoded_payload_is_not_copied():
    buffer = bytearray(b"\x30\x05\x00\x01axy")
    payload = V311().decode(memoryview(buffer), 0, len(buffer), LIMIT)[3]
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
        at, *packet = V311().decode(view, at, len(stream), LIMIT)
        found.append(tuple(packet))
    assert found == [expected for _, expected in DECODED.values()]


def test_remaining_length():
    for remaining, digits in REMAINING_LENGTHS.items():
        packet_len = 1 + len(digits) + remaining
        buffer = memoryview(b"\x30" + digits + b"\0")
        end = len(buffer) - 1
        if remaining:  # as long as the limit: waits for the body
            assert V311().decode(buffer, 0, end, packet_len) is None, remaining
        try:
            V311().decode(buffer, 0, end, packet_len - 1)
        except MQTTProtocolError as error:
            expected = "packet of %d bytes, expected up to %d" % (packet_len, packet_len - 1)
            assert expected in str(error)
        else:
            raise AssertionError(remaining)


def test_publish_larger_than_the_buffer():
    """Decoded once the buffer is full and holds nothing else, with a part of the payload."""
    packet = b"\x32\xe8\x07\x00\x01a\x00\x07" + b"x" * 995
    for size in range(8, 100):
        buffer = memoryview(packet[:size])
        for end in range(size):
            assert V311().decode(buffer, 0, end, 2000) is None
        found = V311().decode(buffer, 0, size, 2000)
        assert found == (1003, PUBLISH, "a", b"x" * (size - 8), 1, False, 7, None)
        moved = memoryview(b"\0" + packet[: size - 1])
        assert V311().decode(moved, 1, size, 2000) is None


def test_header_larger_than_the_buffer():
    for size in range(3, 8):
        buffer = memoryview(b"\x32\xe8\x07\x00\x01a\x00\x07"[:size])
        try:
            V311().decode(buffer, 0, size, 2000)
        except MQTTProtocolError as error:
            assert "type 3: " in str(error), size
            assert str(error).endswith(" %d" % (size - 3)), size
        else:
            raise AssertionError(size)


def test_only_publish_may_be_larger_than_the_buffer():
    try:
        V311().decode(memoryview(b"\x40\x02\0"), 0, 2, 2000)
    except MQTTProtocolError as error:
        assert "packet of 4 bytes, expected up to 3" in str(error)
    else:
        raise AssertionError("accepted")


def test_refused():
    for name, (packet, reason) in REFUSED.items():
        assert says(refusal(packet), reason), (name, refusal(packet))


def test_refused_as_soon_as_the_header_is_in():
    for name in ("type 15", "pingresp, flags", "length over the limit", "greatest length"):
        packet, reason = REFUSED[name]
        assert says(refusal(packet), reason), name
    assert "type 15" in refusal(b"\xf0")
    assert "flags 15" in refusal(b"\xdf")
    assert "more than 4 bytes" in refusal(b"\x30\x80\x80\x80\x80")


def test_messages_stay_short():
    packet = b"\x30\x3c\x00\x3a" + b"a" * 57 + b"+"
    assert len(refusal(packet)) < 100
    assert "topic" in refusal(packet)


def test_connack():
    assert V311().check_connack(decode(DECODED["connack"][0])) is False
    assert V311().check_connack(decode(DECODED["connack, session present"][0])) is True


def test_connack_refused():
    for code, text in REFUSALS.items():
        try:
            V311().check_connack(decode(b"\x20\x02\x00" + bytes((code,))))
        except MQTTRefusedError as error:
            assert (str(error), error.code) == (text, code)
        else:
            raise AssertionError(code)


def test_what_a_server_of_this_version_takes():
    protocol = V311()
    assert protocol.level == 4
    assert protocol.keepalive_s is None
    assert protocol.receive_maximum == 65535
    protocol.check(protocol.encode_publish("a", b"", 2, True, 1))


def test_one_family_of_errors():
    assert issubclass(MQTTProtocolError, MQTTError)
    assert issubclass(MQTTRefusedError, MQTTError)
