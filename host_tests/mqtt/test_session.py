"""lib/mqtt's supervisor: reconnection, back-off, addresses, sessions, keep-alive, timeouts."""

import signal

import pytest

from host_tests.mqtt.broker import Observer, free_ports
from host_tests.mqtt.false_broker import (
    CONNECT,
    PINGREQ,
    PUBLISH,
    SUBSCRIBE,
    UNSUBSCRIBE,
    FalseBroker,
    connected,
)
from host_tests.mqtt.puppet import RemoteError


def test_connect_is_one_attempt(puppet):
    client = puppet({"port": free_ports(1)[0]})
    with pytest.raises(RemoteError, match=r"MQTTConnectionError: .*ECONNREFUSED"):
        client.call("connect")
    assert "ECONNREFUSED" in client.change()
    assert client.heard("change") == 0
    state = client.state()
    assert (state["opens"], state["pause_s"]) == ([0], 0)
    assert "ECONNREFUSED" in state["error"][1]


def test_start_never_raises(false_broker, puppet):
    """It tries until somebody answers; what is published meanwhile waits, or fails at QoS 0."""
    port = free_ports(1)[0]
    client = puppet({"port": port}, clean=False)
    client.call("begin")
    assert "ECONNREFUSED" in client.wait_until_lost()
    assert "ECONNREFUSED" in client.wait_until_lost()
    with pytest.raises(RemoteError, match="MQTTConnectionError"):
        client.call("publish", "a", "x")
    number = client.start("publish", "a", "waits", 1)
    assert client.call("post", "a", "posted", 1) is True
    assert client.call("post", "a", "not") is False
    with FalseBroker() as broker:
        broker.listen_again(port)
        link = broker.welcome()
        found = [link.expect(PUBLISH) for _ in range(2)]
        assert [each.payload for each in found] == [b"waits", b"posted"]
        link.send(*[broker.wire.ack(4, each.packet_id) for each in found])
        assert client.result(number) == 0


@pytest.mark.parametrize("fault", ["close", "reset", "protocol"])
def test_reconnects(either_false_broker, puppet, version, fault):
    broker = either_false_broker
    client = puppet(broker.where, version)
    link = connected(client, broker)
    for _ in range(5):
        if fault == "protocol":
            link.send(b"\xf0\x00")
        else:
            getattr(link, fault)()
        assert client.change().startswith("MQTTProtocol" if fault == "protocol" else "MQTTConn")
        link = broker.welcome()
        assert client.change() is None
        assert client.call("post", "a", "x") is True
        assert link.expect(PUBLISH).payload == b"x"


def pauses(broker, client, count):
    """What the client waits after each of so many connections that are closed at once."""
    found: list[float] = []
    while len(found) < count:
        broker.accept().close()
        client.wait_until_lost()
        found.append(client.state()["pauses"][-1])
    return found


def test_backoff_with_full_jitter(false_broker, puppet):
    """Each pause lies anywhere between 0 and a bound that doubles, up to the cap."""
    clients = [puppet(false_broker.where, backoff_cap_s=0.2, client_id=f"c{n}") for n in range(2)]
    found = []
    for client in clients:
        client.call("skip_pauses")
        client.call("begin")
        found.append(pauses(false_broker, client, 60))
        client.kill()
        client.end()
        false_broker.drop_waiting()
    assert found[0] != found[1]
    every = found[0] + found[1]  # what follows fails once in ten million runs
    assert max(every) <= 0.2
    assert min(every) < 0.05
    assert max(every) > 0.15
    assert 0.07 < sum(every) / len(every) < 0.13


def test_backoff_doubles(puppet):
    """From one second; nobody listens."""
    bounds = (1, 2, 4, 8, 8, 8)
    client = puppet({"port": free_ports(1)[0]}, backoff_cap_s=8, heap="128wK")  # for the history
    client.call("skip_pauses")
    client.call("begin")
    for _ in range(120):
        client.wait_until_lost()
    found = client.state()["pauses"]
    for pause_s, bound in zip(found, bounds, strict=False):
        assert pause_s <= bound
    late = found[6:]
    assert 6 < max(late) <= 8
    assert 3 < sum(late) / len(late) < 5
    client.kill()


def test_backoff_starts_again_after_a_connection_that_held(false_broker, puppet):
    client = puppet(false_broker.where, backoff_cap_s=64, timeout_s=100, keepalive_s=1000)
    client.call("skip_pauses")
    client.call("begin")
    found = pauses(false_broker, client, 12)
    assert max(found[6:]) > 4  # of bounds from 64: fails once in 10 million runs
    link = false_broker.welcome()
    client.wait_until_up()
    client.call("pass_time", 101)
    link.close()
    client.wait_until_lost()
    assert client.state()["pauses"][-1] <= 1
    assert max(pauses(false_broker, client, 2)) <= 4


def test_a_connection_that_does_not_hold_changes_nothing(false_broker, puppet):
    """A broker that lets everybody in and throws them out at once is left in peace as well."""
    client = puppet(false_broker.where, backoff_cap_s=64)
    client.call("skip_pauses")
    client.call("begin")
    found = []
    for _ in range(14):
        link = false_broker.welcome()
        client.wait_until_up()
        link.close()
        client.wait_until_lost()
        found.append(client.state()["pauses"][-1])
    assert max(found[6:]) > 4


def test_close_ends_the_pause(puppet):
    client = puppet({"port": free_ports(1)[0]}, backoff_cap_s=3600)
    client.call("skip_pauses", 20)
    client.call("begin")
    for _ in range(21):
        client.wait_until_lost()
    client.call("close")
    assert client.wait_until_over() is None
    assert client.state()["pause_s"] == 0


def test_addresses_in_order(puppet):
    """Those that do not answer are passed over; after a loss the first one is the first again."""
    with FalseBroker() as first, FalseBroker() as third:
        where = [first.where, {"port": free_ports(1)[0]}, third.where]
        client = puppet(where)
        number = client.start("connect")
        first.accept().close()
        link = third.welcome()
        assert client.result(number) is False
        assert client.state()["opens"] == [0, 1, 2]
        link.close()
        link = first.welcome()
        client.wait_until_up()
        assert client.state()["opens"] == [0, 1, 2, 0]
        link.close()
        refusal = first.accept()
        refusal.expect(CONNECT)
        refusal.send(b"\x20\x02\x00\x03")  # server unavailable
        third.welcome()
        client.wait_until_up()
        assert client.state()["opens"] == [0, 1, 2, 0, 0, 1, 2]


def test_all_addresses_fail(puppet):
    client = puppet([{"port": port} for port in free_ports(3)])
    with pytest.raises(RemoteError, match="ECONNREFUSED"):
        client.call("connect")
    assert client.state()["opens"] == [0, 1, 2]


def test_subscribes_again_when_the_session_is_lost(either_false_broker, puppet, version):
    broker = either_false_broker
    client = puppet(broker.where, version, clean=False)
    link = connected(client, broker)
    for topic_filter, qos in (("a/#", 1), ("b", 2), ("c", 0), ("b", 1)):
        number = client.start("subscribe", topic_filter, qos)
        link.send(broker.wire.suback(link.expect(SUBSCRIBE).packet_id, qos))
        assert client.result(number) == qos
    number = client.start("unsubscribe", "c")
    link.send(broker.wire.unsuback(link.expect(UNSUBSCRIBE).packet_id))
    client.result(number)

    link.close()
    link = broker.welcome(session_present=True)
    client.wait_until_up()
    client.call("post", "x", "next")
    assert link.expect(PUBLISH).payload == b"next"  # nothing before it

    for _ in range(2):
        link.close()
        link = broker.welcome(session_present=False)
        found = [link.expect(SUBSCRIBE) for _ in range(2)]
        assert {(each.text, each.payload) for each in found} == {("a/#", b"\1"), ("b", b"\1")}
        link.send(*[broker.wire.suback(each.packet_id, 1) for each in found])
        client.wait_until_up()
    assert client.state()["refused"] == {}


def test_flapping_broker_is_asked_once_at_a_time(either_false_broker, puppet, version):
    """One that never answers a subscription, and closes: no more of them each time."""
    broker = either_false_broker
    client = puppet(broker.where, version, backoff_cap_s=0.01, patience=0)
    link = connected(client, broker)
    number = client.start("subscribe", "a", 1)
    link.send(broker.wire.suback(link.expect(SUBSCRIBE).packet_id, 1))
    client.result(number)
    for _ in range(4):
        link.close()
        link = broker.welcome()
        assert link.expect(SUBSCRIBE).text == "a"
        assert link.is_silent(client)


def test_several_filters_in_one_packet(either_false_broker, puppet, version):
    """One of them refused: an error that names it, and the others stand."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version)
    link = connected(client, broker)
    number = client.start("subscribe", ["a/#", "b", "c/+"], 1)
    packet = link.expect(SUBSCRIBE)
    assert (packet.text, packet.payload) == ("a/#", b"\1\0\1b\1\0\3c/+\1")
    link.send(wire.suback(packet.packet_id, 1, 0x80, 0))
    with pytest.raises(RemoteError, match="MQTTRefusedError: b refused") as caught:
        client.result(number)
    assert caught.value.code == 0x80
    assert client.state()["refused"] == {"b": 0x80}
    number = client.start("subscribe", ["b", "d"], 1)
    link.send(wire.suback(link.expect(SUBSCRIBE).packet_id, 0, 1))
    assert client.result(number) == "\0\1"
    assert client.state()["refused"] == {}
    number = client.start("unsubscribe", ["b", "a/#"])
    packet = link.expect(UNSUBSCRIBE)
    assert (packet.text, packet.payload) == ("b", b"\0\3a/#")
    link.send(wire.unsuback(packet.packet_id, *[0, 0][: 2 if version == 5 else 1]))
    client.result(number)
    link.close()
    link = broker.welcome(session_present=False)
    again = [link.expect(SUBSCRIBE) for _ in range(2)]
    assert sorted(packet.text for packet in again) == ["c/+", "d"]


@pytest.mark.parametrize("codes", [(0,), (0, 0, 0)], ids=["one code", "three"])
def test_answers_that_are_not_one_for_each_filter(either_false_broker, puppet, version, codes):
    client = puppet(either_false_broker.where, version)
    link = connected(client, either_false_broker)
    client.start("subscribe", ["a", "b"])
    link.send(either_false_broker.wire.suback(link.expect(SUBSCRIBE).packet_id, *codes))
    assert "MQTTProtocolError: filters: 2, answered by" in client.wait_until_lost()


def test_several_filters_that_wait_for_a_connection(either_false_broker, puppet, version):
    """Those that a lost session had, and those of a request that waits: each is asked for once."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version)
    link = connected(client, broker)
    number = client.start("subscribe", "a", 1)
    link.send(wire.suback(link.expect(SUBSCRIBE).packet_id, 1))
    client.result(number)
    number = client.start("subscribe", ["a", "b"], 0)
    link.expect(SUBSCRIBE)
    link.close()
    link = broker.welcome(session_present=False)
    packet = link.expect(SUBSCRIBE)
    assert (packet.text, packet.payload) == ("a", b"\0\0\1b\0")
    link.send(wire.suback(packet.packet_id, 0, 0))
    assert client.result(number) == "\0\0"
    assert link.is_silent(client)


def test_refused_resubscription_is_no_endless_loop(either_false_broker, puppet, version):
    broker = either_false_broker
    code = 0x87 if version == 5 else 0x80
    client = puppet(broker.where, version, clean=False)
    link = connected(client, broker)
    for topic_filter in ("a", "b"):
        number = client.start("subscribe", topic_filter, 1)
        link.send(broker.wire.suback(link.expect(SUBSCRIBE).packet_id, 1))
        client.result(number)
    link.close()
    link = broker.welcome()
    for _ in range(2):
        found = link.expect(SUBSCRIBE)
        link.send(broker.wire.suback(found.packet_id, code if found.text == "a" else 1))
    client.wait_until_up()
    assert link.is_silent(client)
    assert client.state()["refused"] == {"a": code}
    assert client.heard("change") == 0
    link.close()
    link = broker.welcome()
    found = link.expect(SUBSCRIBE)
    assert found.text == "b"  # and the other is not tried again
    link.send(broker.wire.suback(found.packet_id, 1))
    assert link.is_silent(client)


def test_refused_subscription(either_false_broker, puppet, version):
    broker = either_false_broker
    code = 0x87 if version == 5 else 0x80
    client = puppet(broker.where, version, clean=False)
    link = connected(client, broker)
    number = client.start("subscribe", "secret/#", 1)
    link.send(broker.wire.suback(link.expect(SUBSCRIBE).packet_id, code))
    with pytest.raises(RemoteError, match="MQTTRefusedError: secret/# refused") as caught:
        client.result(number)
    assert caught.value.code == code
    link.close()
    link = broker.welcome()
    client.wait_until_up()
    assert link.is_silent(client)
    assert client.state()["refused"] == {"secret/#": code}


def test_subscription_outlives_connections(either_false_broker, puppet, version):
    """Whoever waits for a SUBACK gets that of the connection after the next."""
    broker = either_false_broker
    client = puppet(broker.where, version, clean=False, patience=0)
    link = connected(client, broker)
    number = client.start("subscribe", "a", 1)
    link.expect(SUBSCRIBE)
    link.close()
    link = broker.welcome()
    assert link.expect(SUBSCRIBE).text == "a"
    link.close()
    link = broker.welcome()
    link.send(broker.wire.suback(link.expect(SUBSCRIBE).packet_id, 0))
    assert client.result(number) == 0
    assert link.is_silent(client)


@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "publishing"])
def test_stopped_broker_is_noticed(broker, puppet, version, is_busy):
    """Within 1.5 times keep-alive, although its sockets take all that is written to them."""
    client = puppet(broker.where, version, keepalive_s=1000)
    client.call("connect")
    client.wait_until_up()
    broker.signal(signal.SIGSTOP)
    try:
        for _ in range(10):
            assert client.state()["error"] is None
            client.call("pass_time", 100)
            if is_busy:
                assert client.call("post", "up/x", "y") is True
        assert client.state()["error"] is None
        client.call("pass_time", 300)
        assert "MQTTTimeoutError: nothing heard within 13" in client.wait_until_lost()
    finally:
        broker.signal(signal.SIGCONT)
    client.wait_until_up()
    assert client.call("publish", "up/x", "back", 1) in (0, 16)


def test_stopped_client(broker, observer, puppet, version):
    """One that slept for longer than its keep-alive comes back, and loses nothing."""
    will = ["up/will", "given up by the broker", 1, False]
    client = puppet(broker.where, version, clean=False, keepalive_s=1, will=will)
    client.call("connect")
    client.call("subscribe", "down/#", 1)
    client.wait_until_up()
    client.signal(signal.SIGSTOP)
    assert observer.message().payload == "given up by the broker"
    observer.publish("down/x", "while it slept")
    client.signal(signal.SIGCONT)
    assert client.message().payload == "while it slept"
    client.call("publish", "up/x", "awake", 1)
    assert observer.message().payload == "awake"


def test_pings(false_broker, puppet):
    """After half of keep-alive without a packet sent, or without one received."""
    client = puppet(false_broker.where, keepalive_s=1000)
    link = connected(client, false_broker)
    for _ in range(2):
        client.call("pass_time", 400)
        assert not link.has_data()
        client.call("pass_time", 101)
        link.expect(PINGREQ)
        link.send(b"\xd0\x00")
        assert link.is_silent(client)
    for _ in range(9):
        client.call("post", "a", "x")
        client.call("pass_time", 100)
    client.call("post", "a", "end")
    found = [link.next()]
    while found[-1].payload != b"end":
        found.append(link.next())
    kinds = [each.kind for each in found]
    assert kinds.count(PUBLISH) == 10
    assert kinds.count(PINGREQ) > 0


def test_broker_restart(broker, puppet, version):
    """It keeps its sessions; what was on its way is delivered, and in order."""
    client = puppet(broker.where, version, clean=False)
    client.call("connect")
    client.call("subscribe", "down/#", 2)
    client.wait_until_up()
    broker.stop()
    client.wait_until_lost()
    numbers = [client.start("publish", "up/x", payload, 1) for payload in "abc"]
    broker.start()
    with Observer(broker.port) as observer:
        observer.subscribe("up/#")
        for number in numbers:
            client.result(number)
        client.call("publish", "up/x", "after", 2)
        found = observer.payloads(1)
        while found[-1] != "after":
            found += observer.payloads(1)
        assert found == [*sorted(found[:-1]), "after"]  # it may have come before the observer
        observer.publish("down/x", "still subscribed", 2)
        assert client.message().payload == "still subscribed"
