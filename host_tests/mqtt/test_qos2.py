"""QoS 2 in lib/mqtt: exactly once, wherever the connection is cut and whichever end restarts."""

import contextlib

import pytest

from host_tests.mqtt.false_broker import (
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    FalseBroker,
    FalseLink,
    connected,
)
from host_tests.mqtt.puppet import Puppet, RemoteError

# The two halves of the handshake; a cut comes after so many of their packets.
OUTGOING = ("PUBLISH", "PUBREC", "PUBREL", "PUBCOMP")


def again(client: Puppet, broker: FalseBroker, link: FalseLink, present: bool = True) -> FalseLink:
    """Cut the connection; the client comes back."""
    link.close()
    client.wait_until_lost()
    link = broker.welcome(present)
    client.wait_until_up()
    return link


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("cut", range(1, 4), ids=[f"after {name}" for name in OUTGOING[:3]])
def test_outgoing_cut_after(either_false_broker, puppet, version, cut, how):
    """The server has the message once, and the client goes on from where it was."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version, clean=False)
    link = connected(client, broker)
    number = client.start("publish", "a", "x", 2)
    packet = link.expect(PUBLISH)
    assert (packet.qos, packet.dup, packet.payload) == (2, False, b"x")
    if cut >= 2:
        link.send(wire.ack(PUBREC, packet.packet_id))
        assert link.expect(PUBREL).packet_id == packet.packet_id
    if cut == 2:  # what it sent is lost on the way; the client cannot tell this from the next
        pass
    getattr(link, how)()
    client.wait_until_lost()
    link = broker.welcome(session_present=True)
    if cut == 1:
        found = link.expect(PUBLISH)
        assert (found.dup, found.packet_id, found.payload) == (True, packet.packet_id, b"x")
        link.send(wire.ack(PUBREC, packet.packet_id))
    assert link.expect(PUBREL).packet_id == packet.packet_id
    link.send(wire.ack(PUBCOMP, packet.packet_id))
    assert client.result(number) == 0
    assert link.is_silent(client)
    link = again(client, broker, link)
    assert link.is_silent(client)


@pytest.mark.parametrize("cut", range(4))
def test_outgoing_cut_again_and_again(either_false_broker, puppet, version, cut):
    """Three messages in different states, three connections; their order stays."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version, clean=False, patience=0)
    link = connected(client, broker)
    numbers = [client.start("publish", "a", payload, 2) for payload in "xyz"]
    ids = [link.expect(PUBLISH).packet_id for _ in range(3)]
    link.send(wire.ack(PUBREC, ids[1]))
    assert link.expect(PUBREL).packet_id == ids[1]
    for _ in range(cut):
        link = again(client, broker, link)
        found = [link.next() for _ in range(3)]
        assert [(each.kind, each.packet_id) for each in found] == [
            (PUBLISH, ids[0]),
            (PUBREL, ids[1]),
            (PUBLISH, ids[2]),
        ]
    link.send(wire.ack(PUBREC, ids[0]), wire.ack(PUBCOMP, ids[1]), wire.ack(PUBREC, ids[2]))
    assert [link.expect(PUBREL).packet_id for _ in range(2)] == [ids[0], ids[2]]
    link.send(wire.ack(PUBCOMP, ids[0]), wire.ack(PUBCOMP, ids[2]))
    assert [client.result(number) for number in numbers] == [0, 0, 0]


def test_code_of_the_pubrec_is_the_messages(false_broker_5, puppet):
    """MQTT 5: the PUBCOMP's says nothing about it."""
    broker, wire = false_broker_5, false_broker_5.wire
    client = puppet(broker.where, 5)
    link = connected(client, broker)
    number = client.start("publish", "a", "x", 2)
    packet_id = link.expect(PUBLISH).packet_id
    link.send(wire.ack(PUBREC, packet_id, 0x10))  # nobody has subscribed
    link.expect(PUBREL)
    link.send(wire.ack(PUBCOMP, packet_id))
    assert client.result(number) == 0x10


@pytest.mark.parametrize("code", [0, 0x10])
@pytest.mark.parametrize("how", ["PUBCOMP", "no session"])
def test_packet_id_that_the_broker_has_forgotten(false_broker_5, puppet, code, how):
    """MQTT 5, section 3.7.2.1: after a reconnect no error; the message was taken before."""
    broker, wire = false_broker_5, false_broker_5.wire
    client = puppet(broker.where, 5, clean=False)
    link = connected(client, broker)
    number = client.start("publish", "a", "x", 2)
    packet_id = link.expect(PUBLISH).packet_id
    link.send(wire.ack(PUBREC, packet_id, code))
    link.expect(PUBREL)
    link = again(client, broker, link, how == "PUBCOMP")
    if how == "PUBCOMP":
        link.expect(PUBREL)
        link.send(wire.ack(PUBCOMP, packet_id, 0x92))
    assert client.result(number) == code
    assert link.is_silent(client)


def test_outgoing_to_a_server_that_lost_the_session(either_false_broker, puppet, version):
    """What it has not got is new to it; what it has got is done: sent again it would be twice."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version, clean=False)
    link = connected(client, broker)
    numbers = [client.start("publish", "a", payload, 2) for payload in "xy"]
    ids = [link.expect(PUBLISH).packet_id for _ in range(2)]
    link.send(wire.ack(PUBREC, ids[0]))
    link.expect(PUBREL)
    link = again(client, broker, link, present=False)
    assert client.result(numbers[0]) == 0
    packet = link.expect(PUBLISH)
    assert (packet.payload, packet.dup) == (b"y", False)
    link.send(wire.ack(PUBREC, packet.packet_id))
    link.expect(PUBREL)
    link.send(wire.ack(PUBCOMP, packet.packet_id))
    assert client.result(numbers[1]) == 0


def test_refused_by_the_server(false_broker_5, puppet):
    """A PUBREC with an error ends the handshake; no PUBREL follows."""
    wire = false_broker_5.wire
    client = puppet(false_broker_5.where, 5, clean=False)
    link = connected(client, false_broker_5)
    number = client.start("publish", "a", "x", 2)
    link.send(wire.ack(PUBREC, link.expect(PUBLISH).packet_id, 0x97))
    with pytest.raises(RemoteError, match=r"MQTTRefusedError: .*[Qq]uota") as caught:
        client.result(number)
    assert caught.value.code == 0x97
    assert link.is_silent(client)
    number = client.start("publish", "a", "x", 2)
    packet_id = link.expect(PUBLISH).packet_id
    link.send(wire.ack(PUBREC, packet_id, 0x10))  # no matching subscribers: no error
    assert link.expect(PUBREL).packet_id == packet_id
    link.send(wire.ack(PUBCOMP, packet_id))
    assert client.result(number) in (0, 0x10)
    link = again(client, false_broker_5, link)
    assert link.is_silent(client)


# Incoming


@pytest.mark.parametrize("cut", range(1, 4), ids=[f"after {name}" for name in OUTGOING[:3]])
def test_incoming_cut_after(either_false_broker, puppet, version, cut):
    """The loop has the message once, and the server gets its answers."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version, clean=False)
    link = connected(client, broker)
    link.send(wire.publish("a", b"x", 2, 5))
    assert client.message()[:3] == ("a", "x", 2)
    assert link.expect(PUBREC).packet_id == 5
    if cut == 3:
        link.send(wire.ack(PUBREL, 5))
        assert link.expect(PUBCOMP).packet_id == 5
    link = again(client, broker, link)
    if cut == 1:  # the PUBREC was lost
        link.send(wire.publish("a", b"x", 2, 5, dup=True))
        assert link.expect(PUBREC).packet_id == 5
    link.send(wire.ack(PUBREL, 5))  # known or not: after a lost PUBCOMP it comes again
    assert link.expect(PUBCOMP).packet_id == 5
    assert client.heard("message") == 0
    link.send(wire.publish("a", b"new", 2, 5))  # the id is free
    assert client.message().payload == "new"
    assert link.expect(PUBREC).packet_id == 5
    assert client.heard("change") == 0


def test_incoming_cut_before_it_is_taken(either_false_broker, puppet, version):
    """Not acknowledged, so it comes again; not taken, so it is no duplicate."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version, clean=False)
    link = connected(client, broker)
    client.call("answers", "hold")
    link.send(wire.publish("a", b"x", 2, 1), wire.publish("a", b"y", 2, 2))
    assert client.message().payload == "x"
    link = again(client, broker, link)
    client.call("go")  # x is done now; its PUBREC is for the connection that had asked
    link.send(wire.publish("a", b"x", 2, 1, dup=True), wire.publish("a", b"y", 2, 2, dup=True))
    assert sorted(link.expect(PUBREC).packet_id for _ in range(2)) == [1, 2]
    assert client.message().payload == "y"
    assert client.heard("message") == 0


def test_incoming_repeated_on_one_connection(either_false_broker, puppet, version):
    """A server must not; the loop has it once all the same, and every packet its answer."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version)
    link = connected(client, broker)
    link.send(wire.publish("a", b"x", 2, 5))
    assert link.expect(PUBREC).packet_id == 5
    for _ in range(3):
        link.send(wire.publish("a", b"x", 2, 5, dup=True))
        assert link.expect(PUBREC).packet_id == 5
    for _ in range(3):
        link.send(wire.ack(PUBREL, 5))
        assert link.expect(PUBCOMP).packet_id == 5
    assert client.message().payload == "x"
    assert client.heard("message") == 0


def test_incoming_ids_end_with_the_session(either_false_broker, puppet, version):
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version, clean=False)
    link = connected(client, broker)
    link.send(wire.publish("a", b"x", 2, 5))
    assert client.message().payload == "x"
    link.expect(PUBREC)
    link = again(client, broker, link, present=False)
    link.send(wire.publish("a", b"another", 2, 5))
    assert client.message().payload == "another"
    assert link.expect(PUBREC).packet_id == 5


def test_handshakes_of_both_sides_share_ids(either_false_broker, puppet, version):
    """Section 2.3.1: either end gives its own."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version)
    link = connected(client, broker)
    number = client.start("publish", "a", "out", 2)
    packet_id = link.expect(PUBLISH).packet_id
    link.send(wire.publish("b", b"in", 2, packet_id))
    assert client.message().payload == "in"
    assert link.expect(PUBREC).packet_id == packet_id
    link.send(wire.ack(PUBREC, packet_id), wire.ack(PUBREL, packet_id))
    found = [link.next() for _ in range(2)]
    assert {each.kind for each in found} == {PUBREL, PUBCOMP}
    link.send(wire.publish("b", b"one", 1, packet_id))
    assert client.message().payload == "one"
    assert link.expect(PUBACK).packet_id == packet_id
    link.send(wire.ack(PUBCOMP, packet_id))
    assert client.result(number) == 0


def test_many_unreleased_ids_are_an_error(either_false_broker, puppet, version):
    """A server that never sends PUBREL must not fill the heap."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version, clean=False)
    link = connected(client, broker)
    before = client.state()["heap"]
    with contextlib.suppress(OSError):  # it hangs up on the way
        for packet_id in range(1, 2001):
            link.send(wire.publish("a", b"", 2, packet_id))
    assert "256 messages not released" in client.wait_until_lost()
    assert len(client.news("message")) < 300
    assert client.state()["heap"] < before + 20_000
    link = broker.welcome(session_present=False)
    client.wait_until_up()
    link.send(wire.publish("a", b"fine", 2, 1))
    assert link.expect(PUBREC).packet_id == 1
