"""lib/mqtt's connections: TLS faults, Nagle, fairness, leaks, cancellation, a full network."""

import contextlib
import os
import socket
import time

import pytest

from host_tests.mqtt.certificates import Authority
from host_tests.mqtt.false_broker import (
    CONNECT,
    DISCONNECT,
    PUBLISH,
    SUBSCRIBE,
    connected,
)
from host_tests.mqtt.puppet import RemoteError

HEAP_SLACK = 8000  # bytes; what a puppet's own lists and strings may take


def test_busy_broker_lets_other_tasks_run(false_tls_broker, puppet):
    client = puppet(false_tls_broker.where)
    link = connected(client, false_tls_broker)
    turns, start_s = client.state()["turns"], client.cpu_s()
    link.send(b"\xd0\x00" * 100_000 + b"\x30\x07\x00\x01alast")
    assert client.message().payload == "last"
    possible = (client.cpu_s() - start_s) / 0.01
    assert client.state()["turns"] - turns > possible / 4


def test_packets_do_not_wait_for_each_other(false_tls_broker, puppet):
    """Nagle's algorithm holds a small packet back until the one before it is acknowledged."""
    client = puppet(false_tls_broker.where)
    link = connected(client, false_tls_broker)
    took_s = []
    for _ in range(20):
        link.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        start = time.monotonic()
        client.start("publish_fast", "a", "x", 3)
        for _ in range(3):
            link.packet()
        took_s.append(time.monotonic() - start)
    # Linux acknowledges after 40 ms at the earliest, so with Nagle's all of them take that long.
    assert min(took_s) < 0.035


def test_packet_is_one_write(false_tls_broker, puppet):
    """And so one TLS record, whatever its size."""
    client = puppet(false_tls_broker.where)
    link = connected(client, false_tls_broker)
    for qos in (0, 1, 2):
        client.start("publish", "a/topic", 3000, qos)
        packet = link.socket.recv(20000)  # OpenSSL gives a record at a time
        assert len(packet) == 3 + 9 + (2 if qos else 0) + 3000
    client.start("subscribe", "a", 1)
    assert link.socket.recv(20000)[0] == 0x82


def test_reset_over_tls(false_tls_broker, puppet):
    client = puppet(false_tls_broker.where)
    number = client.start("connect")
    false_tls_broker.accept().reset()
    with pytest.raises(RemoteError, match=r"MQTTConnectionError: TLSError: .* broke off \(104\)"):
        client.result(number)
    client.change()
    connected(client, false_tls_broker).reset()
    assert client.wait_until_lost() == "MQTTConnectionError: OSError: [Errno 104] ECONNRESET"


def test_broken_tls_record(false_tls_broker, puppet):
    client = puppet(false_tls_broker.where)
    link = connected(client, false_tls_broker)
    os.write(link.socket.fileno(), b"nonsense")
    assert "mbedTLS -0x7200" in client.wait_until_lost()


def test_failed_handshakes_leave_nothing_behind(false_tls_broker, puppet):
    """No open file; and none that the garbage collector closes when its number is in use again."""
    client = puppet(false_tls_broker.where, timeout_s=12)
    client.call("pass_time", 0)  # loads what it needs
    before = client.state()
    number = client.start("connect")  # silent
    false_tls_broker.accept(handshake=False)
    client.call("pass_time", 12)
    with pytest.raises(RemoteError, match="no connection within 12 s"):
        client.result(number)
    for _ in range(3):  # closed
        number = client.start("connect")
        false_tls_broker.accept(handshake=False).close()
        with pytest.raises(RemoteError, match="broke off"):
            client.result(number)
    link = connected(client, false_tls_broker)
    assert client.state()["files"] == before["files"] + 1
    client.start("publish", "a", "x", 1)
    assert link.expect(PUBLISH).payload == b"x"
    client.call("close")
    after = client.state()
    assert after["files"] == before["files"]
    assert after["heap"] < before["heap"] + HEAP_SLACK


def test_untrusted_servers_leave_nothing_behind(broker, tmp_path, puppet):
    """Nor does the supervisor, which goes on trying."""
    other = Authority(tmp_path, "other-ca")
    client = puppet({**broker.where, "ca": str(other.path)})
    before = client.state()
    with pytest.raises(RemoteError, match=r"TLSError: .* not correctly signed"):
        client.call("connect")
    assert client.state()["files"] == before["files"]
    client.call("begin")
    for _ in range(4):
        assert "not correctly signed" in client.wait_until_lost()
    client.call("close")
    after = client.state()
    assert after["files"] == before["files"]
    assert after["heap"] < before["heap"] + HEAP_SLACK


def test_silent_tls_server_stops_nothing_else(false_broker, broker, puppet):
    client = puppet({**broker.where, **false_broker.where}, timeout_s=12)
    number = client.start("connect")
    false_broker.accept()
    turns = client.state()["turns"]
    while client.state()["turns"] < turns + 20:
        pass
    client.call("pass_time", 12)
    with pytest.raises(RemoteError, match="MQTTTimeoutError: no connection within 12 s"):
        client.result(number)


def test_a_hundred_connections_leave_nothing_behind(either_false_broker, puppet, version):
    """With something unfinished at the end of each: a message held, a publish, a subscription."""
    broker = either_false_broker
    client = puppet(broker.where, version, backoff_cap_s=0.001)
    link = connected(client, broker)
    sizes = []
    for round_number in range(100):
        client.call("post", "a", "x")
        link.expect(PUBLISH)
        link.send(broker.wire.publish("b", b"y" * 100, 1, 7))
        assert client.message().payload == "y" * 100
        link.send(broker.wire.publish("b", b"half")[:-2])
        link.reset() if round_number % 2 else link.close()
        link = broker.welcome()
        client.wait_until_up()
        if round_number in (20, 99):
            sizes.append(client.state())
    assert sizes[1]["files"] == sizes[0]["files"]
    assert sizes[1]["heap"] < sizes[0]["heap"] + 4000
    assert sizes[1]["tasks"] == sizes[0]["tasks"]


# A network that takes nothing


def test_broker_that_takes_nothing(false_broker, puppet):
    """A socket that is full for too long ends the connection, for all who wait for it."""
    false_broker.shrink()
    client = puppet(false_broker.where, timeout_s=100, keepalive_s=60_000)
    connected(client, false_broker)
    numbers = [client.start("publish_fast", "a", "x" * 2000, 100000) for _ in range(3)]
    client.call("pass_time", 90)
    assert client.state()["error"] is None
    while not client.state()["error"]:  # after a moment, the sockets take some more
        client.call("pass_time", 101)
    for number in numbers:
        with pytest.raises(RemoteError, match="MQTTTimeoutError: packet not taken within 200 s"):
            client.result(number)
    assert "packet not taken" in client.wait_until_lost()
    false_broker.welcome()
    client.wait_until_up()


def test_post_never_waits(false_broker, puppet):
    """At QoS 0 what does not fit now is dropped, and counted; whole packets only."""
    false_broker.shrink()
    client = puppet(false_broker.where, max_packet=256)
    link = connected(client, false_broker)
    written = 0
    while client.call(
        "post", "a", "x" * 1000
    ):  # the sockets take more after a moment, not for ever
        written += 1
    assert written
    assert client.state()["discarded"] == 1
    for _ in range(written):
        assert link.expect(PUBLISH).payload == b"x" * 1000
    assert link.is_silent(client)
    assert client.call("post", "a", "x") is True
    assert link.expect(PUBLISH).payload == b"x"


def test_message_comes_the_moment_that_there_is_room(false_broker, puppet):
    """The task that waits for the network has not run yet, and has one more to wait for."""
    false_broker.shrink()
    client = puppet(false_broker.where)
    link = connected(client, false_broker)
    client.start("hold_up", 2)
    number = client.start("post_each", "a", "x" * 3000, 200)
    for _ in range(200):
        assert link.expect(PUBLISH).payload == b"x" * 3000
    client.result(number)


def test_connect_that_the_network_takes_in_pieces(either_false_broker, puppet, version):
    either_false_broker.shrink()
    will = ["a", "x" * 30_000, 1, False]
    client = puppet(either_false_broker.where, version, heap="256wK", will=will)
    link = connected(client, either_false_broker)
    number = client.start("publish", "a", "x", 1)
    link.send(either_false_broker.wire.ack(4, link.expect(PUBLISH).packet_id))
    client.result(number)


def test_message_waits_for_the_network(false_broker, puppet):
    """QoS 1 and 2 keep their order behind a packet that the network has not taken."""
    false_broker.shrink()
    client = puppet(false_broker.where, heap="80wK")  # for 12,000 bytes and their copies
    link = connected(client, false_broker)
    busy = client.start("publish", "a", 12000)
    numbers = [client.start("publish", "a", str(n), 1 + n % 2) for n in range(6)]
    number = client.start("subscribe", "a")
    assert len(link.expect(PUBLISH).payload) == 12000
    client.result(busy)
    found = [link.next() for _ in range(7)]
    assert [each.payload for each in found if each.kind == PUBLISH] == [b"%d" % n for n in range(6)]
    (subscribe,) = [each for each in found if each.kind == SUBSCRIBE]
    link.send(false_broker.wire.suback(subscribe.packet_id))
    client.result(number)
    for each, number in zip([each for each in found if each.qos == 1], numbers[::2], strict=False):
        link.send(false_broker.wire.ack(4, each.packet_id))
        client.result(number)


def test_slow_network_gets_through(false_broker, puppet):
    """At a kilobyte a second, what takes longer than a time-out and a keep-alive: its time for an
    acknowledgement begins when the network has taken it.
    """
    false_broker.shrink()
    client = puppet(false_broker.where, timeout_s=30, keepalive_s=40, heap="512wK")
    link = connected(client, false_broker)
    number = client.start("publish", "a", 60_000, 1)
    for _ in range(60_000 // 1000):
        link.read(1000)
        client.call("pass_time", 1)
    assert client.state()["error"] is None
    rest = len(link.wire.publish("a", bytes(60_000), 1, 1)) - 60_000
    link.read(rest)
    client.call("pass_time", 8)
    while link.has_data():
        link.packet()  # pings
    link.send(false_broker.wire.pingresp(), false_broker.wire.ack(4, 1))
    assert client.result(number) == 0
    assert client.heard("change") == 0


def test_network_that_takes_nothing_more(false_broker, puppet):
    """The time-out for each kilobyte of it, and the connection is lost."""
    false_broker.shrink()
    client = puppet(false_broker.where, timeout_s=10, keepalive_s=1000, heap="512wK")
    link = connected(client, false_broker)
    client.start("publish", "a", 60_000, 1)
    link.socket.recv(1024)
    client.call("settle")
    client.call("pass_time", 1000)
    assert "packet not taken within" in client.wait_until_lost()


# Cancellation


def test_cancelled_publish(either_false_broker, puppet, version):
    """The message is on its way, and its acknowledgement is expected; it does not go again."""
    broker = either_false_broker
    client = puppet(broker.where, version, clean=False)
    link = connected(client, broker)
    number = client.start("publish", "a", "x", 1)
    packet = link.expect(PUBLISH)
    client.call("cancel", number)
    with pytest.raises(RemoteError, match="CancelledError"):
        client.result(number)
    link.close()
    link = broker.welcome(session_present=False)
    client.wait_until_up()
    assert link.is_silent(client)
    link.close()
    link = broker.welcome(session_present=True)
    client.wait_until_up()
    number = client.start("publish", "a", "y", 1)
    packet = link.expect(PUBLISH)
    client.call("cancel", number)
    link.send(broker.wire.ack(4, packet.packet_id))
    assert link.is_silent(client)
    assert client.heard("change") == 0


def test_cancelled_publish_that_waits_for_its_turn(false_broker, puppet):
    """At QoS 0, nothing of it is sent."""
    false_broker.shrink()
    client = puppet(false_broker.where, heap="512wK")
    link = connected(client, false_broker)
    busy = client.start("publish", "a", 60_000)  # more than the sockets take
    number = client.start("publish", "a", "cancelled")
    client.call("cancel", number)
    with pytest.raises(RemoteError, match="CancelledError"):
        client.result(number)
    assert link.expect(PUBLISH).payload == bytes(60_000)
    client.result(busy)
    client.start("publish", "a", "next", 1)
    assert link.expect(PUBLISH).payload == b"next"
    assert client.heard("change") == 0


def test_cancelled_publish_that_is_half_sent(false_broker, puppet):
    """It is sent whole all the same: other packets follow behind it."""
    false_broker.shrink()
    client = puppet(false_broker.where, heap="80wK")  # for 12,000 bytes and their copies
    link = connected(client, false_broker)
    number = client.start("publish", "a", 12000, 1)
    waiting = client.start("subscribe", "a")
    client.call("cancel", number)
    with pytest.raises(RemoteError, match="CancelledError"):
        client.result(number)
    assert link.expect(PUBLISH).payload == bytes(12000)
    link.send(false_broker.wire.suback(link.expect(SUBSCRIBE).packet_id))
    client.result(waiting)


def test_cancelled_connect(false_broker, puppet):
    client = puppet(false_broker.where)
    before = client.state()
    number = client.start("connect")
    link = false_broker.accept()
    link.expect(CONNECT)
    client.call("cancel", number)
    with pytest.raises(RemoteError, match="CancelledError"):
        client.result(number)
    assert link.is_ended()
    assert client.state()["files"] == before["files"]
    connected(client, false_broker)


def test_close_wakes_those_who_wait(either_false_broker, puppet, version):
    broker = either_false_broker
    client = puppet(broker.where, version, queue=2)
    link = connected(client, broker)
    numbers = [client.start("publish", "a", payload, 1) for payload in "xyz"]  # one has no room
    numbers.append(client.start("subscribe", "a"))
    link.expect(PUBLISH)
    client.call("state")
    client.call("close")
    for number in numbers:
        with pytest.raises(RemoteError, match="MQTTConnectionError: closed"):
            client.result(number)
    assert client.wait_until_over() is None
    link = connected(client, broker)
    assert [link.expect(PUBLISH).payload for _ in range(2)] == [b"x", b"y"]
    assert link.is_silent(client)  # only messages are sent again


def test_connect_again_closes_the_old_connection(false_broker, puppet):
    client = puppet(false_broker.where)
    link = connected(client, false_broker)
    connected(client, false_broker)
    assert link.is_ended()
    assert false_broker.is_left_alone(client)


def test_close_while_connecting(false_broker, puppet):
    """In every state of the supervisor; nothing is left."""
    client = puppet(false_broker.where)
    before = client.state()
    client.call("begin")
    link = false_broker.accept()  # no CONNACK yet
    link.expect(CONNECT)
    client.call("close")
    assert link.is_ended()
    client.call("begin")
    link = false_broker.welcome()
    client.wait_until_up()
    link.close()
    client.call("close")  # it may be in a pause, or connecting
    client.call("settle")
    assert client.state()["files"] == before["files"]
    false_broker.drop_waiting()
    client.news("change")
    connected(client, false_broker)


def test_close_at_every_moment_of_connecting(false_broker, puppet):
    """A connection that comes in the same turn is closed, too."""
    client = puppet(false_broker.where)
    before = client.state()
    for turns in range(40):
        client.call("begin_and_close", turns)
        assert client.state()["files"] == before["files"], turns
        false_broker.drop_waiting()


def test_close_as_the_time_is_over(false_broker, puppet):
    """Two reasons to end an attempt in one turn: it is closed, and does not pause before it is."""
    client = puppet(false_broker.where)
    before = client.state()
    while not client.call("begin_and_close_late"):
        client.news("change")  # the machine was busy: there was a pause by then
    assert client.news("change") == []
    assert client.state()["files"] == before["files"]
    connected(client, false_broker)


def test_close_while_tcp_connects(puppet):
    """A peer whose queue is full answers nothing at all."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as listener,
        contextlib.ExitStack() as full,
    ):
        for _ in range(3):
            waiting = full.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        client = puppet({"port": listener.getsockname()[1]})
        before = client.state()
        number = client.start("connect")
        client.call("settle")
        assert client.state()["files"] == before["files"] + 1
        client.call("cancel", number)
        with pytest.raises(RemoteError, match="CancelledError"):
            client.result(number)
        assert client.state()["files"] == before["files"]


def test_disconnect(either_false_broker, puppet, version):
    client = puppet(either_false_broker.where, version)
    link = connected(client, either_false_broker)
    client.call("disconnect")
    assert link.expect(DISCONNECT).payload in (b"", b"\0")
    assert link.is_ended()
    assert either_false_broker.is_left_alone(client)
