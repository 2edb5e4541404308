"""lib/mqtt's queue of messages at QoS 1: window, order, what is dropped, packet ids; and the
messages that wait to be taken.
"""

import time
from typing import Any

import pytest

from host_tests.mqtt.false_broker import PUBACK, PUBLISH, FalseLink, connected
from host_tests.mqtt.puppet import RemoteError

RECEIVE_MAXIMUM_3 = b"\x21\x00\x03"


def payloads(link: FalseLink, count: int) -> list[bytes]:
    return [link.expect(PUBLISH).payload for _ in range(count)]


@pytest.mark.parametrize("session_present", [True, False], ids=["session", "no session"])
def test_unacknowledged_messages_are_sent_again(
    either_false_broker, puppet, version, session_present
):
    """In their order, on as many connections as it takes; DUP only for who had them."""
    broker = either_false_broker
    client = puppet(broker.where, version, clean=False, patience=0)
    link = connected(client, broker)
    numbers = [client.start("publish", "a", payload, 1) for payload in "xyz"]
    first = [link.expect(PUBLISH) for _ in range(3)]
    assert [each.payload for each in first] == [b"x", b"y", b"z"]
    assert not any(each.dup for each in first)
    assert len({each.packet_id for each in first}) == 3
    link.send(broker.wire.ack(PUBACK, first[1].packet_id))
    client.result(numbers[1])
    for _ in range(2):
        link.close()
        link = broker.welcome(session_present)
        again = [link.expect(PUBLISH) for _ in range(2)]
        assert [each.payload for each in again] == [b"x", b"z"]
        assert [each.packet_id for each in again] == [first[0].packet_id, first[2].packet_id]
        assert [each.dup for each in again] == [session_present] * 2
    link.send(*[broker.wire.ack(PUBACK, each.packet_id) for each in again])
    assert [client.result(number) for number in (numbers[0], numbers[2])] == [0, 0]
    number = client.start("publish", "a", "new", 1)
    packet = link.expect(PUBLISH)
    assert (packet.payload, packet.dup) == (b"new", False)
    link.send(broker.wire.ack(PUBACK, packet.packet_id))
    client.result(number)


def test_missing_acknowledgement_ends_the_connection(either_false_broker, puppet, version):
    """And the message goes again on the next one, with all its time."""
    broker = either_false_broker
    client = puppet(broker.where, version, timeout_s=1000, keepalive_s=10_000, clean=False)
    link = connected(client, broker)
    number = client.start("publish", "a", "x", 1)
    link.expect(PUBLISH)
    client.call("pass_time", 800)
    assert client.state()["error"] is None
    client.call("pass_time", 201)
    assert "no answer within 1000 s" in client.wait_until_lost()
    assert link.is_ended()
    link = broker.welcome(session_present=True)
    packet = link.expect(PUBLISH)
    assert (packet.payload, packet.dup) == (b"x", True)
    client.call("pass_time", 800)
    link.send(broker.wire.ack(PUBACK, packet.packet_id))
    assert client.result(number) == 0
    assert client.wait_until_up() is None


@pytest.mark.parametrize("kind", ["subscribe", "unsubscribe"])
def test_missing_answer_ends_the_connection(false_broker, puppet, kind):
    client = puppet(false_broker.where, timeout_s=1000, keepalive_s=10_000)
    link = connected(client, false_broker)
    client.start(kind, "a")
    link.next()
    client.call("pass_time", 1001)
    assert "no answer within 1000 s" in client.wait_until_lost()


def test_queue_bounds_what_is_in_flight(either_false_broker, puppet, version):
    """3.1.1 has no receive maximum; acknowledgements may come in any order."""
    broker = either_false_broker
    client = puppet(broker.where, version, queue=8)
    link = connected(client, broker)
    numbers = [client.start("publish", "a", str(n), 1) for n in range(10)]
    ids = [link.expect(PUBLISH).packet_id for _ in range(8)]
    assert link.is_silent(client)
    link.send(broker.wire.ack(PUBACK, ids[4]), broker.wire.ack(PUBACK, ids[0]))
    more = [link.expect(PUBLISH) for _ in range(2)]
    assert [each.payload for each in more] == [b"8", b"9"]
    ids = [each for each in ids if each not in (ids[4], ids[0])] + [p.packet_id for p in more]
    for packet_id in ids:
        link.send(broker.wire.ack(PUBACK, packet_id))
    for number in numbers:
        client.result(number)


@pytest.mark.parametrize("qos", [1, 2])
def test_receive_maximum_of_the_server(false_broker_5, puppet, qos):
    """No more than that many at QoS 1 and 2 are unacknowledged."""
    client = puppet(false_broker_5.where, 5, queue=8)
    wire = false_broker_5.wire
    link = connected(client, false_broker_5, properties=RECEIVE_MAXIMUM_3)
    numbers = [client.start("publish", "a", str(n), qos) for n in range(8)]
    found = [link.expect(PUBLISH) for _ in range(3)]
    assert [each.payload for each in found] == [b"0", b"1", b"2"]
    assert link.is_silent(client)
    client.call("post", "a", "QoS 0 is not counted")
    assert link.expect(PUBLISH).qos == 0
    for n in range(8):
        packet_id = found[n].packet_id
        if qos == 1:
            link.send(wire.ack(PUBACK, packet_id))
        else:
            link.send(wire.ack(5, packet_id))
            assert link.expect(6).packet_id == packet_id
            assert link.is_silent(client)  # a PUBREC gives no room, a PUBCOMP does
            link.send(wire.ack(7, packet_id))
        assert client.result(numbers[n]) == 0
        if n < 5:
            found.append(link.expect(PUBLISH))
            assert found[-1].payload == b"%d" % (n + 3)
    link.close()
    link = false_broker_5.welcome(properties=b"")  # the next has no such limit
    client.wait_until_up()
    for n in range(5):
        client.start("publish", "a", str(n), qos)
    assert payloads(link, 5) == [b"%d" % n for n in range(5)]


def test_receive_maximum_holds_for_what_is_sent_again(false_broker_5, puppet):
    client = puppet(false_broker_5.where, 5, clean=False)
    link = connected(client, false_broker_5)
    for n in range(6):
        client.call("post", "a", str(n), 1)
    assert payloads(link, 6) == [b"%d" % n for n in range(6)]
    link.close()
    link = false_broker_5.welcome(True, RECEIVE_MAXIMUM_3)
    found = [link.expect(PUBLISH) for _ in range(3)]
    assert link.is_silent(client)
    link.send(false_broker_5.wire.ack(PUBACK, found[0].packet_id))
    assert payloads(link, 1) == [b"3"]
    assert link.is_silent(client)


@pytest.mark.parametrize("drop_oldest", [True, False], ids=["drop oldest", "drop newest"])
def test_full_queue(false_broker, puppet, drop_oldest):
    """`post` drops by choice and counts; nothing that was ever sent is dropped."""
    client = puppet(false_broker.where, clean=False, queue=4, drop_oldest=drop_oldest)
    link = connected(client, false_broker)
    assert [client.call("post", "a", f"sent {n}", 1) for n in range(2)] == [True, True]
    assert payloads(link, 2) == [b"sent 0", b"sent 1"]
    false_broker.listen_again(0)  # nobody there
    link.close()
    client.wait_until_lost()
    taken = [client.call("post", "a", f"new {n}", 1) for n in range(5)]
    assert client.state()["discarded"] == 3
    kept = [b"new 3", b"new 4"] if drop_oldest else [b"new 0", b"new 1"]
    assert taken == ([True] * 5 if drop_oldest else [True, True, False, False, False])
    false_broker.listen_again(false_broker.where["port"])
    link = false_broker.welcome(True)
    found = [link.expect(PUBLISH) for _ in range(4)]
    assert [each.payload for each in found] == [b"sent 0", b"sent 1", *kept]
    assert [each.dup for each in found] == [True, True, False, False]
    # All of them have been sent now.
    assert client.call("post", "a", "no room", 1) is False
    assert client.state()["discarded"] == 4
    link.send(*[false_broker.wire.ack(PUBACK, each.packet_id) for each in found])
    assert link.is_silent(client)


def test_publish_waits_for_room(false_broker, puppet):
    """One that is cancelled meanwhile was never in the queue."""
    client = puppet(false_broker.where, queue=1)
    link = connected(client, false_broker)
    numbers = [client.start("publish", "a", payload, 1) for payload in "abc"]
    packet = link.expect(PUBLISH)
    client.call("cancel", numbers[1])
    with pytest.raises(RemoteError, match="CancelledError"):
        client.result(numbers[1])
    assert link.is_silent(client)
    link.send(false_broker.wire.ack(PUBACK, packet.packet_id))
    assert client.result(numbers[0]) == 0
    assert link.expect(PUBLISH).payload == b"c"
    assert link.is_silent(client)


def test_dropped_while_its_publisher_waits(false_broker, puppet):
    """Its caller is told: it was not sent."""
    client = puppet(false_broker.where, queue=1)
    client.call("begin")
    number = client.start("publish", "a", "old", 1)
    client.call("state")
    assert client.call("post", "a", "new", 1) is True
    with pytest.raises(RemoteError, match="MQTT"):
        client.result(number)
    assert payloads(false_broker.welcome(), 1) == [b"new"]


def test_packet_ids_wrap_and_skip_those_in_use(false_broker, puppet):
    client = puppet(false_broker.where)
    link = connected(client, false_broker)
    client.call("use_id_after", 0)
    for _ in range(2):
        client.call("post", "a", "x", 1)
    client.call("use_id_after", 65533)
    for _ in range(3):
        client.call("post", "a", "x", 1)
    found = [link.expect(PUBLISH).packet_id for _ in range(5)]
    assert found == [1, 2, 65534, 65535, 3]


# Messages from the broker


def test_message_is_acknowledged_when_the_next_is_asked_for(either_false_broker, puppet, version):
    broker = either_false_broker
    client = puppet(broker.where, version)
    link = connected(client, broker)
    client.call("answers", "hold", "hold")
    link.send(broker.wire.publish("a", b"x", 1, 0x1234), broker.wire.publish("a", b"y", 2, 0x1235))
    assert client.message().payload == "x"
    assert link.is_silent(client)
    client.call("go")
    assert client.message().payload == "y"
    assert link.expect(PUBACK).packet_id == 0x1234
    assert link.is_silent(client)
    client.call("go")
    assert link.expect(5).packet_id == 0x1235


def test_loop_that_ends_acknowledges_nothing(false_broker, puppet):
    """An error in the loop's body leaves its message unacknowledged: it comes again."""
    client = puppet(false_broker.where, clean=False)
    link = connected(client, false_broker)
    client.call("answers", "raise")
    link.send(false_broker.wire.publish("a", b"x", 1, 1))
    assert client.message().payload == "x"
    assert client.wait_until_over() == "ValueError: not today"
    assert link.is_silent(client)
    link.close()
    link = false_broker.welcome(True)
    client.wait_until_up()
    client.call("listen")
    link.send(false_broker.wire.publish("a", b"x", 1, 1, dup=True))
    assert client.message().payload == "x"
    assert link.expect(PUBACK).packet_id == 1


@pytest.mark.parametrize("held", ["hold", "let go"])
@pytest.mark.parametrize("session_present", [True, False], ids=["session", "no session"])
def test_message_that_outlives_its_connection(
    either_false_broker, puppet, version, session_present, held
):
    """Its acknowledgement is for a session that still has it, and a repetition no new message."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version, clean=False)
    link = connected(client, broker)
    client.call("answers", held)
    link.send(wire.publish("a", b"x", 1, 1), wire.publish("a", b"y", 1, 2))
    assert client.message().payload == "x"
    client.call("state")
    link.close()
    link = broker.welcome(session_present)
    client.wait_until_up()
    if session_present:
        for packet_id, payload in ((1, b"x"), (2, b"y")):
            link.send(wire.publish("a", payload, 1, packet_id, dup=True))
        assert link.is_silent(client)
        client.call("go")
        assert [link.expect(PUBACK).packet_id for _ in range(2)] == [1, 2]
        assert client.message().payload == "y"
    else:  # the ids may mean anything now
        link.send(wire.publish("a", b"x", 1, 1))
        assert link.is_silent(client)
        client.call("go")
        assert client.payloads(2) == ["y", "x"]
        assert link.expect(PUBACK).packet_id == 1
        assert link.is_silent(client)
    assert client.heard("message") == 0


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_packets_that_share_a_read(false_broker, puppet, qos):
    """More at a time than may wait; the loop is quick, so none is left out."""
    client = puppet(false_broker.where, max_packet=2048)
    link = connected(client, false_broker)
    packets = [
        false_broker.wire.publish("a", b"%d" % number, qos, number + 1) for number in range(150)
    ]
    link.send(*packets)
    for number in range(150):
        assert client.message()[:3] == ("a", str(number), qos)
    assert client.heard("change") == 0


def test_burst_for_a_slow_taker(false_broker, puppet):
    """More than may wait at once, and a handler that lets others run: nothing is dropped."""
    client = puppet(false_broker.where, max_packet=512)
    link = connected(client, false_broker)
    client.call("answers", *[-5] * 150)
    link.send(*[false_broker.wire.publish("a", b"%d" % number) for number in range(150)])
    assert client.payloads(150) == [str(number) for number in range(150)]
    assert client.state()["dropped"] == 0


@pytest.mark.parametrize("split", [False, True], ids=["at once", "byte by byte"])
def test_packets_that_are_almost_like_the_one_before(either_false_broker, puppet, version, split):
    """What a packet has in common with the one before is not decoded again; nothing else is."""
    broker, wire = either_false_broker, either_false_broker.wire
    options = {"protocol": {"topic_alias_maximum": 4}} if version == 5 else {}
    client = puppet(broker.where, version, **options)
    link = connected(client, broker)
    published: list[tuple[str, bytes, dict[str, Any]]] = [
        ("a", b"one", {}), ("a", b"two", {}), ("a", b"", {}), ("a", b"longer than that", {}),
        ("a", b"retained", {"retain": True}), ("a", b"at QoS 1", {"qos": 1, "packet_id": 1}),
        ("a", b"again", {}), ("a", b"x" * 123, {}), ("a", b"y" * 124, {}), ("a", b"z" * 125, {}),
        ("ab", b"other", {}), ("b", b"same length", {}), ("a", b"ba", {}), ("a", b"bb", {}),
        ("\u00e4", b"not ASCII", {}), ("\u00e4", b"the same", {}), ("a\u00e4", b"", {}),
        ("a", b"fine", {}), ("a", b"\0\1a", {}),
    ]  # fmt: skip
    expected = [(topic, payload.decode()) for topic, payload, _ in published]
    if version == 5:
        topics = "abc - - xyz - abc xyz abc -", "abc abc abc xyz xyz abc xyz abc abc"
        for topic, meant in zip(*[each.split() for each in topics], strict=True):
            alias: dict[str, Any] = {"properties": b"\x23\0\1"}
            if topic == "xyz":  # what comes between is not like them
                alias |= {"qos": 1, "packet_id": 1 + len(expected)}
            published.append((topic.strip("-"), b"alias", alias))
            expected.append((meant, "alias"))
        published.append(("a", b"x", {"properties": b"\x01\x01"}))
        published.append(("a", b"\x01x", {}))
        expected += [("a", "x"), ("a", "\x01x")]
    stream = b"".join(wire.publish(topic, payload, **more) for topic, payload, more in published)
    for piece in [stream[at : at + 1] for at in range(len(stream))] if split else [stream]:
        link.send(piece)
    assert [client.message()[:2] for _ in expected] == expected
    assert client.heard("change") == 0


def test_what_lies_behind_the_last_packet_is_not_received_again(false_broker, puppet):
    client = puppet(false_broker.where)
    link = connected(client, false_broker)
    packet = false_broker.wire.publish("a", b"same")
    link.send(packet * 4)
    assert client.payloads(4) == ["same"] * 4
    link.send(packet)
    assert client.payloads(1) == ["same"]
    assert client.heard("message") == 0


@pytest.mark.parametrize("wrong", [b"\x30\x02\0\1a", b"\x38\x04\0\1ax", b"\x36\x04\0\1ax"])
def test_wrong_packet_like_the_one_before(either_false_broker, puppet, version, wrong):
    """Its length ends in the topic, or its flags are forbidden."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version)
    link = connected(client, broker)
    link.send(wire.publish("a", b"1"), wire.publish("a", b"2"), wrong, wire.pingresp())
    assert client.payloads(2) == ["1", "2"]
    assert "MQTTProtocolError: packet type 3" in client.wait_until_lost()
    assert client.heard("message") == 0


def test_one_byte_at_a_time(either_false_broker, puppet, version):
    broker = either_false_broker
    client = puppet(broker.where, version)
    number = client.start("connect")
    link = broker.accept()
    link.packet()
    wire = broker.wire
    stream = [
        wire.connack(),
        wire.publish("a", b"x" * 128),
        wire.pingresp(),
        wire.publish("b", b"y"),
    ]
    for byte in b"".join(stream):
        link.send(bytes((byte,)))
        time.sleep(0.001)
    assert client.result(number) is False
    assert client.message()[:3] == ("a", "x" * 128, 0)
    assert client.message()[:3] == ("b", "y", 0)
