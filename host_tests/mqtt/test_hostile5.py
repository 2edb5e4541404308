"""lib/mqtt's client and a hostile broker of MQTT 5: see test_hostile.py."""

import struct

import pytest

from host_tests.mqtt.false_broker import (
    PUBACK,
    PUBLISH,
    PUBREC,
    UNSUBSCRIBE,
    Wire,
    connected,
    text,
)
from host_tests.mqtt.hostile import answer_connect, make_mistake, unharmed
from host_tests.mqtt.puppet import RemoteError

V4, V5 = Wire(4), Wire(5)


def alias(number: int) -> bytes:
    return b"\x23" + struct.pack(">H", number)


def number2(identifier: int, value: int) -> bytes:
    return bytes((identifier,)) + struct.pack(">H", value)


def pair(key: str | bytes, value: str | bytes) -> bytes:
    return b"\x26" + text(key) + text(value)


PROTOCOL = "MQTTProtocolError: "
ELSEWHERE = b"\x1c" + text("127.0.0.1:1883")  # a server reference
ANSWERS_TO_CONNECT = {
    "answers like 3.1.1": (V4.connack(), PROTOCOL),
    "unspecified": (V5.connack(False, 0x80), "MQTTRefusedError: .*[Uu]nspecified"),
    "banned": (V5.connack(False, 0x8A), "MQTTRefusedError: .*[Bb]anned"),
    "not authorized": (V5.connack(False, 0x87), "MQTTRefusedError: .*[Nn]ot authorized"),
    "reserved code": (V5.connack(False, 0x81 + 0x50), PROTOCOL),
    "a code of 3.1.1": (V5.connack(False, 5), PROTOCOL),
    "use another server": (V5.connack(False, 0x9C, ELSEWHERE), "MQTTRefusedError"),
    "server moved": (V5.connack(False, 0x9D, ELSEWHERE), "MQTTRefusedError"),
    "session of a clean client": (V5.connack(True), PROTOCOL + "CONNACK: session"),
    "session of a refused client": (V5.connack(True, 0x87), PROTOCOL),
    "AUTH": (b"\xf0\x00", PROTOCOL + "packet type 15"),
    "AUTH with a method": (b"\xf0\x07\x18\x05\x15\x00\x02ab", PROTOCOL + "packet type 15"),
    "DISCONNECT first": (V5.disconnect(0x87), "MQTT"),
    "receive maximum 0": (V5.connack(properties=number2(0x21, 0)), PROTOCOL),
    "maximum packet size 0": (V5.connack(properties=b"\x27\0\0\0\0"), PROTOCOL),
    "maximum QoS 2": (V5.connack(properties=b"\x24\x02"), PROTOCOL),
    "retain available 2": (V5.connack(properties=b"\x25\x02"), PROTOCOL),
    "a property twice": (V5.connack(properties=number2(0x21, 5) * 2), PROTOCOL),
    "a property of a PUBLISH": (V5.connack(properties=alias(1)), PROTOCOL),
    "an unknown property": (V5.connack(properties=b"\x7e\x00"), PROTOCOL),
    "half a property": (V5.connack(properties=b"\x21\x00"), PROTOCOL),
    "a text beyond its property": (V5.connack(properties=b"\x1f\x00\x09ab"), PROTOCOL),
    "properties beyond the packet": (b"\x20\x05\x00\x00\x09\x21\x00", PROTOCOL),
    "properties that end early": (b"\x20\x06\x00\x00\x02\x21\x00\x05", PROTOCOL),
    "endless properties": (b"\x20\x07\x00\x00\xff\xff\xff\xff\xff", PROTOCOL),
    "malformed UTF-8": (V5.connack(properties=pair("a", b"\xff")), PROTOCOL),
    "NUL": (V5.connack(properties=pair("a", b"a\0")), PROTOCOL),
    "authentication method": (V5.connack(properties=b"\x15" + text("x")), PROTOCOL),
}


def test_answers_to_connect(false_broker_5, puppet):
    """And nobody is ever sent elsewhere."""
    client = puppet(false_broker_5.where, 5)
    with unharmed(client, false_broker_5):
        for name, (answer, expected) in ANSWERS_TO_CONNECT.items():
            answer_connect(client, false_broker_5, name, answer, expected)
        assert client.news("change") == []
        assert set(client.state()["opens"]) == {0}


LATER_MISTAKES = {
    "AUTH": (b"\xf0\x00", PROTOCOL + "packet type 15"),
    "a second CONNACK": (V5.connack(), PROTOCOL + "packet type 2 for unknown id 0"),
    "alias 0": (V5.publish("a", properties=alias(0)), PROTOCOL),
    "alias out of range": (V5.publish("a", properties=alias(5)), PROTOCOL),
    "unknown alias": (V5.publish("", properties=alias(3)), PROTOCOL),
    "neither topic nor alias": (V5.publish(""), PROTOCOL),
    "alias twice": (V5.publish("a", properties=alias(1) * 2), PROTOCOL),
    "malformed UTF-8": (V5.publish("a", properties=pair(b"\xc3(", "x")), PROTOCOL),
    "wildcard in response topic": (V5.publish("a", properties=b"\x08" + text("a/#")), PROTOCOL),
    "payload format 2": (V5.publish("a", properties=b"\x01\x02"), PROTOCOL),
    "subscription identifier 0": (V5.publish("a", properties=b"\x0b\x00"), PROTOCOL),
    "a property of a CONNACK": (V5.publish("a", properties=number2(0x21, 5)), PROTOCOL),
    "properties beyond the packet": (b"\x30\x05\x00\x01a\x09\x01", PROTOCOL),
    "endless properties": (b"\x30\x08\x00\x01a\xff\xff\xff\xff\xff", PROTOCOL),
    "unknown PUBACK": (b"\x40\x03\x12\x34\x00", PROTOCOL + ".* unknown id"),
    "PUBACK code": (b"\x40\x03\x12\x34\x01", PROTOCOL),
    "PUBREL code": (b"\x62\x03\x12\x34\x80", PROTOCOL),
    "SUBACK without a code": (b"\x90\x03\x00\x01\x00", PROTOCOL),
    "SUBACK with two": (b"\x90\x05\x00\x01\x00\x00\x00", PROTOCOL),
    "SUBACK code 3": (V5.suback(1, 3), PROTOCOL),
    "UNSUBACK for a SUBSCRIBE": (V5.unsuback(1), PROTOCOL + ".* unknown id"),
    "greatest length": (b"\x90\xff\xff\xff\x7f", PROTOCOL + "packet of 268435460 bytes"),
    "DISCONNECT": (b"\xe0\x00", "MQTTRefusedError"),
    "DISCONNECT shutting down": (V5.disconnect(0x8B), "MQTTRefusedError: .*shutting down"),
    "DISCONNECT taken over": (V5.disconnect(0x8E), "MQTTRefusedError: .*taken over"),
    "DISCONNECT elsewhere": (V5.disconnect(0x9D, ELSEWHERE), "MQTTRefusedError: .*moved"),
    "DISCONNECT with will": (V5.disconnect(0x04), PROTOCOL),
    "DISCONNECT reason": (V5.disconnect(0x80, b"\x1f" + text("x" * 100)), "MQTTRefusedError"),
    "DISCONNECT bad property": (V5.disconnect(0x80, alias(1)), PROTOCOL),
}


def test_later_mistakes(false_broker_5, puppet):
    """Each ends the connection, and the next is one to the same address."""
    client = puppet(false_broker_5.where, 5, protocol={"topic_alias_maximum": 4})
    with unharmed(client, false_broker_5):
        for name, (packet, expected) in LATER_MISTAKES.items():
            make_mistake(client, false_broker_5, name, packet, "(?i)" + expected)
        assert set(client.state()["opens"]) == {0}


def test_aliases_from_the_server(false_broker_5, puppet):
    """Given, used, given anew; forgotten with the connection; none if none were allowed."""
    client = puppet(false_broker_5.where, 5, protocol={"topic_alias_maximum": 2})
    with unharmed(client, false_broker_5):
        link = connected(client, false_broker_5)
        link.send(
            V5.publish("a", b"1", properties=alias(1)),
            V5.publish("b", b"2", 1, 1, properties=alias(2)),
            V5.publish("", b"3", properties=alias(1)),
            V5.publish("", b"4", 2, 2, properties=alias(2)),
            V5.publish("c", b"5", properties=alias(1)),
            V5.publish("", b"6", properties=alias(1)),
        )
        found = [client.message() for _ in range(6)]
        assert [each.topic for each in found] == ["a", "b", "a", "b", "c", "c"]
        assert [each.payload for each in found] == list("123456")
        link.close()
        client.wait_until_lost()
        link = false_broker_5.welcome()
        client.wait_until_up()
        link.send(V5.publish("", b"x", properties=alias(1)))
        assert client.wait_until_lost().startswith("MQTTProtocolError")
        false_broker_5.welcome()
        client.wait_until_up()


def test_no_alias_was_allowed(false_broker_5, puppet):
    client = puppet(false_broker_5.where, 5)
    with unharmed(client, false_broker_5):
        link = connected(client, false_broker_5)
        link.send(V5.publish("a", b"x", properties=alias(1)))
        assert client.wait_until_lost().startswith("MQTTProtocolError")


def test_receive_maximum_exceeded_by_the_server(false_broker_5, puppet):
    """Section 3.3.4: that is an error; what is acknowledged makes room."""
    client = puppet(false_broker_5.where, 5, protocol={"receive_maximum": 3})
    with unharmed(client, false_broker_5):
        link = connected(client, false_broker_5)
        for first in range(1, 10, 3):
            link.send(*[V5.publish("a", b"x", 1, first + n) for n in range(3)])
            assert client.payloads(3) == ["x"] * 3
            assert [link.expect(PUBACK).packet_id for _ in range(3)] == list(
                range(first, first + 3)
            )
        client.call("answers", "hold")
        link.send(*[V5.publish("a", b"x", 1 + n % 2, n + 1) for n in range(3)])
        client.message()
        client.news("change")
        link.send(V5.publish("a", b"QoS 0 is not counted"))
        assert client.heard("change") == 0
        link.send(V5.publish("a", b"x", 1, 4))
        client.news("change")
        false_broker_5.welcome()
        client.wait_until_up()
        client.call("go")


def test_receive_maximum_exceeded_is_named(false_broker_5, puppet):
    client = puppet(false_broker_5.where, 5, protocol={"receive_maximum": 1})
    with unharmed(client, false_broker_5):
        link = connected(client, false_broker_5)
        client.call("answers", "hold")
        link.send(V5.publish("a", b"x", 2, 1), V5.publish("a", b"x", 2, 2))
        assert client.wait_until_lost().startswith("MQTTProtocolError")
        false_broker_5.welcome()
        client.wait_until_up()
        client.call("go")
        client.message()


def test_refused_by_reason_code(false_broker_5, puppet):
    """A message that is refused is not sent again, and its caller has the code."""
    client = puppet(false_broker_5.where, 5, clean=False)
    with unharmed(client, false_broker_5):
        link = connected(client, false_broker_5)
        for qos, kind, code, name in (
            (1, PUBACK, 0x87, "not authorized"),
            (1, PUBACK, 0x97, "quota"),
            (2, PUBREC, 0x99, "payload format"),
        ):
            number = client.start("publish", "a", "x", qos)
            link.send(V5.ack(kind, link.expect(PUBLISH).packet_id, code))
            with pytest.raises(RemoteError, match=f"(?i)MQTTRefusedError: .*{name}") as caught:
                client.result(number)
            assert caught.value.code == code
        number = client.start("publish", "a", "x", 1)
        link.send(V5.ack(PUBACK, link.expect(PUBLISH).packet_id, 0x10))
        assert client.result(number) == 0x10
        number = client.start("unsubscribe", "a")
        link.send(V5.unsuback(link.expect(UNSUBSCRIBE).packet_id, 0x87))
        with pytest.raises(RemoteError, match="MQTTRefusedError"):
            client.result(number)
        link.close()
        link = false_broker_5.welcome(True)
        assert link.is_silent(client)


def test_limits_of_the_server(false_broker_5, puppet):
    """What it said it does not take is not sent: QoS, retain, size."""
    properties = b"\x24\x01" + b"\x25\x00" + b"\x27\x00\x00\x00\x40"
    client = puppet(false_broker_5.where, 5)
    with unharmed(client, false_broker_5):
        link = connected(client, false_broker_5, properties=properties)
        for arguments, code in (
            (("a", "x", 2), 0x9B),
            (("a", "x", 0, True), 0x9A),
            (("a", "x", 1, True), 0x9A),
            (("a", "x" * 100, 0), 0x95),
            (("a", "x" * 100, 1), 0x95),
        ):
            with pytest.raises(RemoteError, match="MQTTRefusedError") as caught:
                client.call("publish", *arguments)
            assert caught.value.code == code
        number = client.start("publish", "a", "x" * 40, 1)
        packet = link.expect(PUBLISH)
        assert packet.payload == b"x" * 40  # and nothing before it
        link.send(V5.ack(PUBACK, packet.packet_id))
        assert client.result(number) == 0


def test_limits_of_the_next_server(false_broker_5, puppet):
    """What is in the queue and too much for a later connection ends in an error, not in a loop."""
    client = puppet(false_broker_5.where, 5, clean=False)
    with unharmed(client, false_broker_5):
        link = connected(client, false_broker_5)
        number = client.start("publish", "a", "x" * 100, 1)
        link.expect(PUBLISH)
        link.close()
        link = false_broker_5.welcome(True, b"\x27\x00\x00\x00\x40")
        with pytest.raises(RemoteError, match="MQTTRefusedError") as caught:
            client.result(number)
        assert caught.value.code == 0x95
        client.start("publish", "a", "y", 1)
        packet = link.expect(PUBLISH)
        assert packet.payload == b"y"
        link.send(V5.ack(PUBACK, packet.packet_id))


def test_server_keep_alive(false_broker_5, puppet):
    """The server's is what counts."""
    client = puppet(false_broker_5.where, 5, keepalive_s=10_000)
    with unharmed(client, false_broker_5):
        link = connected(client, false_broker_5, properties=number2(0x13, 1000))
        client.call("pass_time", 600)
        assert link.packet() == b"\xc0\x00"
        assert client.state()["error"] is None
        client.call("pass_time", 700)
        assert "nothing heard within 13" in client.wait_until_lost()


def test_many_properties(false_broker_5, puppet):
    """As many as a packet holds: bounded heap, and an answer."""
    client = puppet(false_broker_5.where, 5, max_packet=2048)
    with unharmed(client, false_broker_5):
        link = connected(client, false_broker_5)
        properties = pair("k", "v") * 250
        link.send(V5.publish("a", b"x", 1, 1, properties=properties))
        message = client.message()
        assert message.payload == "x"
        assert message.properties
        assert set(map(tuple, message.properties["user_property"])) == {("k", "v")}
        assert link.expect(PUBACK).packet_id == 1
