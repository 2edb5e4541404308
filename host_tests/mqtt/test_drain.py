"""Messages that are larger than lib/mqtt's client takes: passed over, not fatal."""

import socket

import pytest

from host_tests.mqtt.broker import Observer
from host_tests.mqtt.false_broker import (
    PINGREQ,
    PUBACK,
    PUBCOMP,
    PUBREC,
    PUBREL,
    SUBSCRIBE,
    connected,
)
from host_tests.mqtt.hostile import HEAP_SLACK

LARGE = 100_000


@pytest.mark.parametrize("core", [False, True], ids=["full", "core"])
@pytest.mark.parametrize("qos", [0, 1])
def test_larger_than_we_take(either_false_broker, puppet, version, core, qos):
    """Acknowledged, counted, reported, and nothing of it stays; what is behind it comes."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version, max_packet=256, core=core)
    link = connected(client, broker)
    before = client.state()["heap"]
    for times in range(1, 4):
        large = wire.publish("a/b", b"x" * LARGE * times, qos, 7)
        link.send(large, wire.publish("c", b"next", 1, 8))
        expected = [7, 8] if qos else [8]
        assert [link.expect(PUBACK).packet_id for _ in expected] == expected
        assert client.message()[:2] == ("c", "next")
        state = client.state()
        assert (state["dropped"], state["skipped"]) == (times, ["a/b", len(large)])
        assert state["heap"] < before + HEAP_SLACK
    assert client.heard("message") == client.heard("change") == 0


def test_qos_2_is_completed(either_false_broker, puppet, version):
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version, max_packet=256)
    link = connected(client, broker)
    for dup in (False, True):
        link.send(wire.publish("a", b"x" * 300, 2, 7, dup=dup))
        assert link.expect(PUBREC).packet_id == 7
    link.send(wire.ack(PUBREL, 7))
    assert link.expect(PUBCOMP).packet_id == 7
    assert client.heard("message") == client.heard("change") == 0


def test_acknowledged_in_order(either_false_broker, puppet, version):
    """Behind the messages before it, MQTT-4.6.0-2; on the next connection all come again."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version, max_packet=256, clean=False)
    link = connected(client, broker)
    client.call("answers", "hold", "hold")
    packets = [wire.publish("a", b"x", 1, 1), wire.publish("a", b"x" * 300, 1, 2)]
    link.send(*packets)
    assert client.message().payload == "x"
    assert link.is_silent(client)
    link.close()
    client.wait_until_lost()
    link = broker.welcome(True)
    client.wait_until_up()
    link.send(*packets, wire.publish("a", b"y", 1, 3))
    assert link.is_silent(client)
    client.call("go")
    assert [link.expect(PUBACK).packet_id for _ in range(2)] == [1, 2]
    assert client.message().payload == "y"
    assert link.is_silent(client)
    client.call("go")
    assert link.expect(PUBACK).packet_id == 3


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64])
def test_in_pieces(either_false_broker, puppet, version, step):
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version, max_packet=64)
    link = connected(client, broker)
    stream = wire.publish("a", b"x" * 100, 1, 1) + wire.publish("b", b"next", 1, 2)
    for at in range(0, len(stream), step):
        link.send(stream[at : at + step])
        client.call("settle")
    assert client.message()[:2] == ("b", "next")
    assert [link.expect(PUBACK).packet_id for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("length", [127, 128, 129, 130, 131, 5000, 65535])
def test_long_topics(false_broker, puppet, length):
    """Even one that is larger than the buffer; what is reported of it is whole characters."""
    wire = false_broker.wire
    client = puppet(false_broker.where, max_packet=256)
    link = connected(client, false_broker)
    topic = ("é" * length).encode()[:length]
    topic = topic.decode(errors="ignore")
    link.send(wire.publish(topic, b"x" * 300, 1, 1))
    assert link.expect(PUBACK).packet_id == 1
    found = client.state()["skipped"][0]
    assert topic.startswith(found)
    assert len(found.encode()) in ((len(topic.encode()),) if length <= 128 else (126, 127, 128))


def test_time_does_not_run_while_it_streams(either_false_broker, puppet, version):
    """Pings go, answers that wait behind it have their time; but silence still ends it."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version, max_packet=256, timeout_s=10, keepalive_s=20)
    link = connected(client, broker)
    link.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # each piece is there at once
    number = client.start("subscribe", "a")
    subscribe = link.expect(SUBSCRIBE)
    stream = wire.publish("a", b"x" * 10_000, 1, 1)
    for at in range(0, len(stream), 1000):
        link.send(stream[at : at + 1000])
        client.call("settle")
        client.call("pass_time", 8)
    link.send(wire.suback(subscribe.packet_id))
    assert client.result(number) == 0
    packet = link.next()
    while packet.kind == PINGREQ:
        packet = link.next()
    assert packet.packet_id == 1
    assert client.heard("change") == 0
    link.send(stream[:5000])
    client.call("settle")
    client.call("pass_time", 26)
    assert "nothing heard" in client.wait_until_lost()


def test_topic_alias_of_what_was_skipped(false_broker_5, puppet):
    """It may have got another meaning: a message that relies on it is refused, not misled."""
    wire = false_broker_5.wire
    client = puppet(false_broker_5.where, 5, max_packet=256, protocol={"topic_alias_maximum": 2})
    link = connected(client, false_broker_5)
    link.send(wire.publish("a", b"x", properties=b"\x23\0\1"))
    assert client.message().topic == "a"
    link.send(wire.publish("b", b"x" * 300, properties=b"\x23\0\1"))
    link.send(wire.publish("", b"secret of b", properties=b"\x23\0\1"))
    assert "topic alias" in client.wait_until_lost()
    assert client.heard("message") == 0


def test_with_mosquitto(broker, puppet):
    """Retained, and waiting in a session that is kept: neither keeps a 3.1.1 client offline."""
    client = puppet(broker.where, clean=False)
    client.call("connect")
    client.call("subscribe", "down/#", 1)
    client.call("disconnect")
    with Observer(broker.port) as observer:
        observer.publish("down/kept", b"x" * LARGE, 1)
        observer.publish("down/retained", b"x" * LARGE, 1, retain=True)
        observer.publish("down/small", b"fits", 1)
    assert client.call("connect") is True
    assert client.message()[:2] == ("down/small", "fits")
    assert client.state()["dropped"] == 2
    assert client.call("subscribe", "down/#", 1) == 1  # the retained one comes again
    client.call("publish", "down/small", "through", 1)
    assert client.message().payload == "through"
    assert client.state()["dropped"] == 3
    assert client.state()["skipped"][0] == "down/retained"
    client.call("disconnect")
    assert client.call("connect") is True  # they were acknowledged
    client.call("publish", "down/small", "last", 1)
    assert client.message().payload == "last"
    assert client.state()["dropped"] == 3
