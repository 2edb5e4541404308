"""lib/mqtt's client and a broker that is silent, slow, broken or hostile, made by hand.

After each: the client is not hung, has raised nothing but its own errors, has leaked nothing, and
its next connection works.  What only MQTT 5 makes possible is in test_hostile5.py.
"""

import contextlib

import pytest

from host_tests.mqtt.false_broker import (
    CONNECT,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBSCRIBE,
    Wire,
    connected,
)
from host_tests.mqtt.hostile import answer_connect, make_mistake, unharmed
from host_tests.mqtt.puppet import RemoteError

V4, V5 = Wire(4), Wire(5)
REFUSALS = {
    1: "[Pp]rotocol [Vv]ersion",
    2: "[Cc]lient [Ii]dentifier",
    3: "[Ss]erver unavailable",
    4: "[Uu]ser [Nn]ame or [Pp]assword",
    5: "[Nn]ot authorized",
}
# name: (bytes, or None for silence, or "" for the end; error)
ANSWERS_TO_CONNECT = {
    "nothing": (None, "MQTTTimeoutError: no CONNACK within 10 s"),
    "half a CONNACK": (b"\x20\x02\x00", "MQTTTimeoutError: no CONNACK within 10 s"),
    "the end": (b"", "MQTTConnectionError: closed by the broker"),
    "HTTP": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "MQTTProtocolError"),
    "zeros": (bytes(100), "MQTTProtocolError: packet type 0"),
    "another packet": (b"\xd0\x00", "MQTTProtocolError: packet type 13, expected CONNACK"),
    "a message first": (V4.publish("a") + V4.connack(), "MQTTProtocolError"),
    "SUBACK first": (V4.suback(1), "MQTTProtocolError"),
    "flags": (b"\x21\x02\x00\x00", "MQTTProtocolError"),
    "greatest length": (b"\x30\xff\xff\xff\x7f", "MQTTProtocolError: packet of 268435460 bytes"),
    "endless length": (b"\x30\xff\xff\xff\xff\xff", "MQTTProtocolError: length of more than 4"),
    "long CONNACK": (b"\x20\xff\xff\xff\x7f", "MQTTProtocolError"),
    "short CONNACK": (b"\x20\x01\x00", "MQTTProtocolError"),
    "session of a clean client": (V4.connack(True), "MQTTProtocolError: CONNACK: session"),
    "session of a refused client": (b"\x20\x02\x01\x05", "MQTTProtocolError"),
    "reserved code": (b"\x20\x02\x00\x06", "MQTTProtocolError"),
    "reserved flags": (b"\x20\x02\x02\x00", "MQTTProtocolError"),
    "AUTH": (b"\xf0\x00", "MQTTProtocolError: packet type 15"),
    "answers like MQTT 5": (V5.connack(), "MQTTProtocolError"),
}
ANSWERS_TO_CONNECT |= {
    f"refusal {code}": (b"\x20\x02\x00" + bytes((code,)), f"MQTTRefusedError: .*{reason}")
    for code, reason in REFUSALS.items()
}


def test_answers_to_connect(false_broker, puppet):
    """One client meets them all, and is none the worse for it."""
    client = puppet(false_broker.where, timeout_s=10)
    with unharmed(client, false_broker):
        for name, (answer, expected) in ANSWERS_TO_CONNECT.items():
            answer_connect(client, false_broker, name, answer, expected)
        assert client.news("change") == []  # it never had a connection


def test_answers_a_byte_a_second(either_false_broker, puppet, version):
    """The wait for the whole CONNACK has an end, however it is fed."""
    broker = either_false_broker
    client = puppet(broker.where, version, timeout_s=100, keepalive_s=1000)
    with unharmed(client, broker):
        number = client.start("connect")
        link = broker.accept()
        link.expect(CONNECT)
        for byte in broker.wire.publish("a", b"x" * 100)[:4]:
            link.send(bytes((byte,)))
            client.call("pass_time", 30)
        with pytest.raises(RemoteError, match="no CONNACK within 100 s"):
            client.result(number)


def test_answers_a_byte_now_and_then(false_broker, puppet):
    """An acknowledgement that dribbles in does not keep its waiter for ever."""
    client = puppet(false_broker.where, timeout_s=100, keepalive_s=1000)
    with unharmed(client, false_broker):
        link = connected(client, false_broker)
        client.start("subscribe", "a")
        link.expect(SUBSCRIBE)
        for byte in b"\x32\x40\x00\x01":
            link.send(bytes((byte,)))
            client.call("pass_time", 30)
        assert "no answer within 100 s" in client.wait_until_lost()


# What a client that has a connection and waits for SUBACK 1 does not expect.
LATER_MISTAKES = {
    "a second CONNACK": (V4.connack(), "MQTTProtocolError: packet type 2 for unknown id 0"),
    "unknown PUBACK": (b"\x40\x02\x12\x34", "MQTTProtocolError: .* unknown id 4660"),
    "unknown SUBACK": (b"\x90\x03\x12\x34\x00", "MQTTProtocolError: .* unknown id 4660"),
    "unknown UNSUBACK": (b"\xb0\x02\x12\x34", "MQTTProtocolError: .* unknown id 4660"),
    "PUBACK for a SUBSCRIBE": (b"\x40\x02\x00\x01", "MQTTProtocolError: .* unknown id 1"),
    "PUBREC for a SUBSCRIBE": (b"\x50\x02\x00\x01", "MQTTProtocolError: .* unknown id 1"),
    "UNSUBACK for a SUBSCRIBE": (b"\xb0\x02\x00\x01", "MQTTProtocolError: .* unknown id 1"),
    "id 0": (b"\x90\x03\x00\x00\x00", "MQTTProtocolError: packet id 0"),
    "PUBREL flags": (b"\x60\x02\x00\x01", "MQTTProtocolError: packet type 6: flags 0"),
    "CONNECT": (b"\x10\x00", "MQTTProtocolError: packet type 1"),
    "SUBSCRIBE": (b"\x82\x06\x00\x01\x00\x01a\x00", "MQTTProtocolError: packet type 8"),
    "PINGREQ": (b"\xc0\x00", "MQTTProtocolError: packet type 12"),
    "DISCONNECT": (b"\xe0\x00", "MQTTProtocolError: packet type 14"),
    "AUTH": (b"\xf0\x00", "MQTTProtocolError: packet type 15"),
    "QoS 3": (b"\x36\x05\x00\x01a\x00\x01", "MQTTProtocolError: packet type 3: flags 6"),
    "DUP at QoS 0": (b"\x38\x03\x00\x01a", "MQTTProtocolError: packet type 3: flags 8"),
    "PUBLISH without id": (b"\x32\x03\x00\x01a", "MQTTProtocolError: packet type 3"),
    "PUBLISH with id 0": (b"\x32\x05\x00\x01a\x00\x00", "MQTTProtocolError: packet id 0"),
    "topic longer than its packet": (b"\x30\x03\x00\x09a", "MQTTProtocolError: packet type 3"),
    "topic with a wildcard": (V4.publish("#"), "MQTTProtocolError: packet type 3: topic '#'"),
    "topic with NUL": (V4.publish("a\0"), "MQTTProtocolError: text is not UTF-8, or has NUL"),
    "no topic": (V4.publish(""), "MQTTProtocolError: packet type 3: topic"),
    "surrogate": (V4.publish(b"\xed\xa0\x80"), "MQTTProtocolError: .*not UTF-8"),
    "overlong": (V4.publish(b"\xc0\x80"), "MQTTProtocolError: .*not UTF-8"),
    "half a character": (V4.publish(b"a\xc3"), "MQTTProtocolError: .*not UTF-8"),
    "beyond Unicode": (V4.publish(b"\xf4\x90\x80\x80"), "MQTTProtocolError: .*not UTF-8"),
    "greatest length": (b"\x90\xff\xff\xff\x7f", "MQTTProtocolError: packet of 268435460"),
    "endless length": (b"\x30\xff\xff\xff\xff\xff", "MQTTProtocolError: length of more than 4"),
    "large, QoS 3": (b"\x36\xff\xff\xff\x7f", "MQTTProtocolError: packet type 3: flags 6"),
    "large, DUP at QoS 0": (b"\x38\xff\xff\xff\x7f", "MQTTProtocolError: packet type 3: flags"),
    "large, topic": (Wire(4).publish(b"\xff", b"x" * 3000), "MQTTProtocolError: .*not UTF-8"),
    "large, id 0": (Wire(4).publish("a", b"x" * 3000, 1, 0), "MQTTProtocolError: .*id 0"),
    "long PINGRESP": (b"\xd0\x01\x00", "MQTTProtocolError: packet type 13"),
    "long SUBACK": (b"\x90\x04\x00\x01\x00\x00", "MQTTProtocolError: filters: 1, answered by"),
    "SUBACK code 3": (b"\x90\x03\x00\x01\x03", "MQTTProtocolError: packet type 9"),
    "a mistake after a message": (V4.publish("a") + b"\xf0", "MQTTProtocolError: packet type 15"),
    "the end": (b"", "MQTTConnectionError: closed by the broker"),
    "a reset": (None, "MQTTConnectionError: OSError: .*ECONNRESET"),
}


def test_later_mistakes(false_broker, puppet):
    """Each ends the connection; the subscription goes again on the next."""
    client = puppet(false_broker.where)
    with unharmed(client, false_broker):
        for name, (packet, expected) in LATER_MISTAKES.items():
            make_mistake(client, false_broker, name, packet, expected)


WRONG_ORDER = {
    "PUBCOMP before PUBREC": (2, [PUBCOMP]),
    "PUBACK at QoS 2": (2, [PUBACK]),
    "PUBREC at QoS 1": (1, [PUBREC]),
    "PUBCOMP at QoS 1": (1, [PUBCOMP]),
    "PUBACK twice": (1, [PUBACK, PUBACK]),
}


@pytest.mark.parametrize("name", WRONG_ORDER)
def test_wrong_order(either_false_broker, puppet, version, name):
    """The handshake of a message in the wrong order ends the connection, not the message."""
    broker, wire = either_false_broker, either_false_broker.wire
    qos, answers = WRONG_ORDER[name]
    client = puppet(broker.where, version)
    with unharmed(client, broker):
        link = connected(client, broker)
        number = client.start("publish", "a", "x", qos)
        packet_id = link.expect(PUBLISH).packet_id
        link.send(*[wire.ack(kind, packet_id) for kind in answers])
        assert "MQTTProtocolError: packet type" in client.wait_until_lost()
        if "twice" not in name:
            link = broker.welcome()
            assert link.expect(PUBLISH).payload == b"x"
            link.send(wire.ack(PUBREC if qos == 2 else PUBACK, packet_id))
            if qos == 2:
                link.expect(PUBREL)
                link.send(wire.ack(PUBCOMP, packet_id))
        assert client.result(number) == 0


def test_repeated_pubrec(either_false_broker, puppet, version):
    """A server may repeat it after a reconnect, and is answered each time."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version)
    with unharmed(client, broker):
        link = connected(client, broker)
        number = client.start("publish", "a", "x", 2)
        packet_id = link.expect(PUBLISH).packet_id
        for _ in range(3):
            link.send(wire.ack(PUBREC, packet_id))
            assert link.expect(PUBREL).packet_id == packet_id
        link.send(wire.ack(PUBCOMP, packet_id))
        assert client.result(number) == 0


def test_unknown_pubrel(either_false_broker, puppet, version):
    """Section 4.3.3: it is answered, or a lost PUBCOMP would hold the server up for ever."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version)
    with unharmed(client, broker):
        link = connected(client, broker)
        for _ in range(3):
            link.send(wire.ack(PUBREL, 0x1234))
            assert link.expect(PUBCOMP).packet_id == 0x1234
        assert client.news("change") == []


def test_qos_2_for_a_subscription_at_0(either_false_broker, puppet, version):
    """Nobody promised the client otherwise: it takes what comes, exactly once."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version)
    with unharmed(client, broker):
        link = connected(client, broker)
        number = client.start("subscribe", "a", 0)
        link.send(wire.suback(link.expect(SUBSCRIBE).packet_id, 0))
        client.result(number)
        for _ in range(2):
            link.send(wire.publish("a", b"x", 2, 1))
            assert link.expect(PUBREC).packet_id == 1
        assert client.message()[:3] == ("a", "x", 2)
        assert client.heard("message") == 0


def test_packet_larger_than_the_maximum(either_false_broker, puppet, version):
    """It is skipped; one of exactly that length is taken.  Another packet is a mistake."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version, max_packet=256)
    with unharmed(client, broker):
        link = connected(client, broker)
        room = 256 - len(wire.publish("a", b"x" * 200)) + 200
        link.send(wire.publish("a", b"x" * room))
        assert client.message().payload == "x" * room
        link.send(wire.publish("a", b"x" * (room + 1)), wire.publish("a", b"next"))
        assert client.message().payload == "next"
        link.send(b"\xe0\x81\x02" if version == 5 else b"\x90\x81\x02")
        assert "MQTTProtocolError: packet" in client.wait_until_lost()


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_flood(either_false_broker, puppet, version, qos):
    """A broker that minds no limit, and a loop that takes nothing: the heap stays bounded."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version, max_packet=512)
    with unharmed(client, broker):
        link = connected(client, broker)
        client.call("answers", "hold")
        with contextlib.suppress(OSError):
            link.socket.settimeout(1)
            for first in range(1, 3001, 100):
                link.send(*[wire.publish("a", b"x" * 400, qos, first + n) for n in range(100)])
        assert client.state()["heap"] < 400_000
        client.call("go")


@pytest.mark.parametrize("step", ["CONNACK", "SUBACK", "PUBLISH", "PUBREC", "all at once"])
def test_close_at_every_byte(either_false_broker, puppet, version, step):
    """Of what the server says in a short session; the client comes back each time."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version, clean=False, backoff_cap_s=0.001, patience=0)
    with unharmed(client, broker):
        client.call("begin")
        subscription = client.start("subscribe", "a", 1)
        client.call("state")
        speech = [
            wire.connack(),
            wire.suback(1, 1),
            wire.publish("a", b"x", 0),
            wire.ack(PUBREL, 7),
        ]
        names = ["CONNACK", "SUBACK", "PUBLISH", "PUBREC"]
        start = 0 if step == "all at once" else names.index(step)
        whole = b"".join(speech[start:] if step == "all at once" else speech[start : start + 1])
        for length in range(len(whole)):
            link = broker.accept()
            link.expect(CONNECT)
            if start:
                link.send(wire.connack())
                packet_id = link.expect(SUBSCRIBE).packet_id
                if start > 1:
                    link.send(wire.suback(packet_id, 1))
            link.send(whole[:length])
            link.reset() if length % 2 else link.close()
        link = broker.welcome()
        link.send(wire.suback(link.expect(SUBSCRIBE).packet_id, 1))
        client.result(subscription)


@pytest.mark.parametrize("offset", [0, 1, 5, 50, 300, 600, 1200])
def test_close_in_the_tls_handshake(false_tls_broker, broker, puppet, offset):
    """The server's flight is cut after so many bytes."""
    from signet.fleet.proxy import Proxy

    with Proxy({"broker": broker.where["port"]}) as proxy:
        route = proxy.routes["broker"]
        route.cut_after = offset
        client = puppet({**broker.where, "port": route.port})
        before = client.state()
        with pytest.raises(RemoteError, match=r"^MQTT(Connection|Timeout)Error"):
            client.call("connect")
        assert client.state()["files"] == before["files"]
        route.cut_after = None
        assert client.call("connect") is False
