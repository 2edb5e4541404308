"""mqtt.large under MicroPython: messages of any size through a small heap; and posting without a
heap at all.
"""

import hashlib
import struct

import pytest

from host_tests.mqtt.false_broker import PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, connected
from host_tests.mqtt.puppet import RemoteError

MEGABYTE = 1 << 20
# As many words as 60 KB are on an ESP32: 120 KB here.  The puppet and JSON are in it, too.
SMALL_HEAP = "60wK"


def content(length: int, piece_len: int) -> bytes:
    """What `Pieces` in puppet_device.py gives."""
    data = bytearray(length + piece_len)
    for start in range(0, length, piece_len):
        struct.pack_into(">I", data, start, start)
    return bytes(data[:length])


def described(data: bytes) -> dict[str, object]:
    digest = hashlib.sha256(data).hexdigest()
    return {"length": len(data), "sha256": digest, "announced": len(data)}


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_megabyte_out(broker, observer, puppet, version, qos):
    client = puppet(broker.where, version, heap=SMALL_HEAP)
    client.call("connect")
    assert client.call("publish_large", "up/large", MEGABYTE, 1024, qos) == 0
    message = observer.message()
    expected = content(MEGABYTE, 1024)
    payload = message.payload
    payload = payload.encode() if isinstance(payload, str) else payload
    assert payload == expected
    assert client.state()["opens"] == [0]


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_megabyte_in(broker, observer, puppet, version, qos):
    client = puppet(broker.where, version, heap=SMALL_HEAP, max_message=2 * MEGABYTE)
    client.call("connect")
    client.call("subscribe", "down/#", 2)
    data = content(MEGABYTE, 1000)
    observer.publish("down/small", "before", qos)
    observer.publish("down/large", data, qos)
    observer.publish("down/small", "after", qos)
    assert client.message().payload == "before"
    message = client.message()
    assert message[:3] == ("down/large", described(data), qos)
    assert client.message().payload == "after"
    assert client.state()["error"] is None
    assert client.heard("message", by="other") == 0


def test_sizes_about_the_buffer(either_false_broker, puppet, version):
    """Of whole packets: what fits comes in one, what does not in pieces."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version, max_packet=512, max_message=2048)
    link = connected(client, broker)
    head = len(wire.publish("a", b"x" * 500, 1, 1)) - 500
    for size in (511, 512, 513, 514, 1023, 1024, 1025, 2047, 2048):
        for qos in (1, 2):
            data = bytes(0x40 | n & 0x1F for n in range(size - head))
            link.send(wire.publish("a", data, qos, 1), wire.publish("b", b"next", 0))
            payload = client.message().payload
            assert payload == (data.decode() if size <= 512 else described(data)), size
            assert link.expect(PUBREC if qos == 2 else PUBACK).packet_id == 1
            assert client.message().payload == "next"
            if qos == 2:
                link.send(wire.ack(PUBREL, 1))
                link.expect(PUBCOMP)
    link.send(wire.publish("a", b"x" * (2049 - head), 1, 1))
    assert link.expect(PUBACK).packet_id == 1
    assert client.state()["skipped"] == ["a", 2049]
    assert client.heard("message") == 0


def test_header_that_does_not_fit(either_false_broker, puppet, version):
    """A topic, or in MQTT 5 properties, larger than the buffer: the message is skipped."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version, max_packet=256, max_message=4096)
    link = connected(client, broker)
    packets = [wire.publish("a" * 300, b"x" * 1000, 1, 1)]
    if version == 5:
        properties = b"\x26\0\1k\0\1v" * 100
        packets.append(wire.publish("b", b"x" * 1000, 1, 2, properties=properties))
    for number, packet in enumerate(packets, 1):
        link.send(packet)
        assert link.expect(PUBACK).packet_id == number
        assert client.state()["skipped"][1] == len(packet)
    assert client.state()["dropped"] == len(packets)
    assert client.heard("message") == 0


def test_what_is_not_read_is_skipped(either_false_broker, puppet, version):
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version, max_packet=512, max_message=100_000)
    link = connected(client, broker)
    client.call("answers", "unread")
    link.send(wire.publish("a", b"x" * 50_000, 1, 1), wire.publish("b", b"next", 1, 2))
    assert client.message().payload is None
    assert client.message().payload == "next"
    assert [link.expect(PUBACK).packet_id for _ in range(2)] == [1, 2]
    client.call("answers", "part")
    link.send(wire.publish("a", b"x" * 50_000, 1, 1), wire.publish("b", b"next", 1, 2))
    assert 0 < client.message().payload["length"] <= 1024
    assert client.message().payload == "next"
    assert [link.expect(PUBACK).packet_id for _ in range(2)] == [1, 2]
    assert client.heard("change") == 0


def test_slow_reader_of_a_large_message(either_false_broker, puppet, version):
    """Nothing else can be received meanwhile: the network holds the sender back, and a ping that
    goes unanswered is no reason to give up while bytes of it are still to be read.
    """
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version, max_packet=512, max_message=100_000, keepalive_s=10)
    link = connected(client, broker)
    client.call("answers", "slow")  # 18 s in all
    data = b"x" * 9 * 1024
    link.send(wire.publish("a", data, 1, 1))
    for _ in range(9):
        client.call("pass_time", 2)
    assert client.message().payload == described(data)
    while (packet := link.next()).kind == 12:
        pass
    assert packet.packet_id == 1
    assert client.heard("change") == 0


def test_what_was_cut_takes_no_room(either_false_broker, puppet, version):
    """Of a large message that waits behind another one when the connection is lost, nothing stays:
    its bytes do not count against what comes later.
    """
    broker, wire = either_false_broker, either_false_broker.wire
    limits = {"max_packet": 512, "max_message": 100_000}
    client = puppet(broker.where, version, clean=False, keepalive_s=1000, **limits)
    link = connected(client, broker)
    client.call("answers", "hold")
    link.send(wire.publish("a", b"held", 0))
    assert client.message().payload == "held"
    data = content(5_000, 100)
    packet = wire.publish("b", data, 1, 1)
    for _ in range(3):
        link.send(packet[:1_000])  # which nobody reads: the connection is lost by its silence
        client.call("pass_time", 1300)
        client.wait_until_lost()
        link = broker.welcome(True)
        client.wait_until_up()
    link.send(packet)
    client.call("go")
    assert client.message().payload == described(data)
    assert link.expect(PUBACK).packet_id == 1
    assert client.heard("change") == 0


@pytest.mark.parametrize("qos", [1, 2])
def test_incoming_is_cut(either_false_broker, puppet, version, qos):
    """The reader is told; it comes again, whole, and is acknowledged once."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version, clean=False, max_packet=512, max_message=100_000)
    link = connected(client, broker)
    data = content(50_000, 100)
    packet = wire.publish("a", data, qos, 1)
    link.send(packet[:20_000])
    client.call("settle")
    link.close()
    client.wait_until_lost()
    link = broker.welcome(True)
    client.wait_until_up()
    error = client.wait_until_over()
    assert error is None or error.startswith("MQTTConnectionError")
    client.call("listen")
    link.send(wire.publish("a", data, qos, 1, dup=True))
    assert client.message().payload == described(data)
    assert link.expect(PUBACK if qos == 1 else PUBREC).packet_id == 1
    if qos == 2:
        link.send(wire.publish("a", data, qos, 1, dup=True))
        assert link.expect(PUBREC).packet_id == 1
        link.send(wire.ack(PUBREL, 1))
        assert link.expect(PUBCOMP).packet_id == 1
    link.send(wire.publish("a", b"next", 1, 2))
    assert client.message().payload == "next"
    assert client.heard("message") == 0


@pytest.mark.parametrize("qos", [1, 2])
def test_outgoing_is_cut_and_sent_again(either_false_broker, puppet, version, qos):
    """From a new iterator; other packets come between two messages, never into one."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version, clean=False)
    link = connected(client, broker)
    number = client.start("publish_large", "a", 3 * MEGABYTE, 1024, qos)
    link.socket.recv(100_000)
    link.reset()
    client.wait_until_lost()
    link = broker.welcome(session_present=True)
    other = client.start("publish", "b", "other", 1)
    packet = link.expect(PUBLISH)
    assert packet.payload == content(3 * MEGABYTE, 1024)
    assert (packet.dup, packet.qos) == (True, qos)
    small = link.expect(PUBLISH)
    assert small.payload == b"other"
    link.send(wire.ack(PUBACK, small.packet_id))
    client.result(other)
    if qos == 1:
        link.send(wire.ack(PUBACK, packet.packet_id))
    else:
        link.send(wire.ack(PUBREC, packet.packet_id))
        assert link.expect(PUBREL).packet_id == packet.packet_id
        link.send(wire.ack(PUBCOMP, packet.packet_id))
    assert client.result(number) == 0


def test_outgoing_at_qos_0_is_cut(false_broker, puppet):
    """It was not sent before it was sent whole: so it goes again."""
    client = puppet(false_broker.where)
    link = connected(client, false_broker)
    number = client.start("publish_large", "a", 3 * MEGABYTE, 1024, 0)
    link.socket.recv(1000)
    link.reset()
    link = false_broker.welcome()
    packet = link.expect(PUBLISH)
    assert (packet.qos, len(packet.payload)) == (0, 3 * MEGABYTE)
    assert client.result(number) == 0
    assert link.is_silent(client)


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("given", [9_000, 11_000, 0], ids=["too few", "too many", "none"])
def test_wrong_length(either_false_broker, puppet, version, qos, given):
    """The packet cannot be mended, so the connection goes; the message is not tried again."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version, clean=False)
    connected(client, broker)
    number = client.start("publish_large", "a", 10_000, 1000, qos, given)
    with pytest.raises(RemoteError, match="ValueError"):
        client.result(number)
    assert client.wait_until_lost().startswith("MQTT")
    link = broker.welcome(session_present=True)
    client.wait_until_up()
    client.start("publish", "a", "fine", 1)
    packet = link.expect(PUBLISH)
    assert packet.payload == b"fine"
    link.send(wire.ack(PUBACK, packet.packet_id))
    assert link.is_silent(client)


def test_large_publish_through_a_full_network(false_broker, puppet):
    """It waits, like any other; who takes nothing is given up."""
    false_broker.shrink()
    client = puppet(false_broker.where, timeout_s=100, keepalive_s=60_000)
    connected(client, false_broker)
    client.start("publish_large", "a", MEGABYTE, 1024, 0)
    while not client.state()["error"]:  # after a moment, the sockets take some more
        client.call("pass_time", 101)
    assert client.wait_until_lost().startswith("MQTTTimeoutError: packet not taken")
    false_broker.welcome()
    client.wait_until_up()


# Without a heap


@pytest.mark.parametrize("length", [1, 64, 1000])
def test_post_allocates_nothing(either_false_broker, puppet, version, length):
    """At QoS 0 with topic and length as the last time: the heap is locked meanwhile."""
    client = puppet(either_false_broker.where, version)
    link = connected(client, either_false_broker)
    number = client.start("post_locked", "some/topic", length, 50)
    for n in range(3):
        assert link.expect(PUBLISH).payload == bytes(length), n
    for n in range(50):
        packet = link.expect(PUBLISH)
        assert (packet.text, packet.payload) == ("some/topic", bytes((n,)) + bytes(length - 1))
    assert client.result(number) == 50


def test_post_allocates_nothing_over_tls(broker, observer, puppet, version):
    client = puppet(broker.where, version)
    client.call("connect")
    assert client.call("post_locked", "up/topic", 64, 50) == 50
    assert len(observer.payloads(53)) == 53


def test_post_in_turn(either_false_broker, puppet, version):
    """What is reused for one message leaves no trace in the next."""
    client = puppet(either_false_broker.where, version)
    link = connected(client, either_false_broker)
    posts = [
        ("a", "one", False),
        ("a", "two", False),
        ("a", "two", True),
        ("b", "six", False),
        ("b", "né", False),
        ("b", "nee", False),
        ("b", "", False),
        ("b", "", False),
        ("a", "one", False),
    ]
    for topic, payload, retain in posts * 2:
        client.call("post", topic, payload, 0, retain)
    for topic, payload, retain in posts * 2:
        packet = link.expect(PUBLISH)
        assert (packet.text, packet.payload) == (topic, payload.encode())
        assert packet.flags == retain
