"""What a broker does not survive, or hangs up at, blocks lib/mqtt's client for a while at most."""

from collections.abc import Callable

import pytest

from host_tests.mqtt.false_broker import (
    PINGREQ,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBSCRIBE,
    FalseBroker,
    FalseLink,
    Packet,
    connected,
    parse,
)
from host_tests.mqtt.puppet import RemoteError

SUSPECTED = 2  # hang-ups until a request is sent alone
PATIENCE = 3  # and then
MOST = 30  # connections: many more than any test needs
HOW = ("close", "reset")


def answer(link: FalseLink, packet: Packet) -> None:
    wire = link.wire
    answers = {
        PINGREQ: wire.pingresp(),
        PUBREL: wire.ack(PUBCOMP, packet.packet_id),
        SUBSCRIBE: wire.suback(packet.packet_id, 1),
        PUBLISH: (b"", wire.ack(PUBACK, packet.packet_id), wire.ack(PUBREC, packet.packet_id))[
            packet.qos if packet.kind == PUBLISH else 0
        ],
    }
    link.send(answers[packet.kind])


def serve(
    broker: FalseBroker,
    is_bad: Callable[[Packet], bool],
    end: Callable[[FalseLink], None] = FalseLink.close,
    last: str = "last",
    link: FalseLink | None = None,
    reply: Callable[[FalseLink, Packet], None] = answer,
) -> list[list[Packet]]:
    """Hang up at what is bad and answer all else, on as many connections as it takes, until a
    message to the last topic is through; returns what came, by connection.
    """
    connections: list[list[Packet]] = []
    wanted = None
    while len(connections) < MOST:
        link = link or broker.welcome(session_present=True)
        connections.append([])
        while raw := link.packet():
            packet = parse(raw, broker.wire.version)
            connections[-1].append(packet)
            if is_bad(packet):
                end(link)
                break
            reply(link, packet)
            if packet.text == last:
                wanted = (PUBREL if packet.qos == 2 else PUBLISH, packet.packet_id)
            if (packet.kind, packet.packet_id) == wanted:
                return connections
        link = None
    pytest.fail(f"no end after {MOST} connections")


def is_to_bad(packet: Packet) -> bool:
    return packet.text == "bad"


def kinds(packets: list[Packet]) -> list[int]:
    return [packet.kind for packet in packets]


# Given up


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("qos", [1, 2])
def test_message_at_which_the_broker_hangs_up(either_false_broker, puppet, version, qos, how):
    """It is given up with an error; those before and behind it are delivered, in their order."""
    broker = either_false_broker
    client = puppet(broker.where, version, clean=False)
    link = connected(client, broker)
    topics = ("one", "bad", "two", "last")
    numbers = {topic: client.start("publish", topic, topic, qos) for topic in topics}
    seen = serve(broker, is_to_bad, getattr(FalseLink, how), link=link)
    for topic in ("one", "two"):
        assert client.result(numbers[topic]) == 0
    with pytest.raises(RemoteError, match=r"given up: the broker hung up at it 5 times") as e:
        client.result(numbers["bad"])
    assert (e.value.name, e.value.code) == ("MQTTRefusedError", 0x80)
    assert client.state()["discarded"] == 1
    tries = [packets for packets in seen if any(map(is_to_bad, packets))]
    assert len(tries) >= SUSPECTED + PATIENCE  # more if acknowledgements were lost with it
    for packets in tries[-PATIENCE:]:  # alone, on a connection that was seen to work
        assert kinds(packets) == [PINGREQ, PUBLISH]
    delivered = [packet.text for packet in seen[-1] if packet.kind == PUBLISH]
    assert delivered == ["two", "last"]


@pytest.mark.parametrize("how", HOW)
def test_subscription_at_which_the_broker_hangs_up(either_false_broker, puppet, version, how):
    broker = either_false_broker
    client = puppet(broker.where, version, clean=False)
    link = connected(client, broker)
    good = client.start("subscribe", "good", 1)
    bad = client.start("subscribe", "bad", 1)
    client.start("publish", "last", "x", 1)
    serve(broker, is_to_bad, getattr(FalseLink, how), link=link)
    assert client.result(good) == 1
    with pytest.raises(RemoteError, match="bad given up: the broker hung up at it 5 times"):
        client.result(bad)
    assert client.state()["refused"] == {"bad": 0x80}


def test_reason_of_the_disconnect_is_the_errors(false_broker_5, puppet):
    broker = false_broker_5

    def end(link: FalseLink) -> None:
        link.send(broker.wire.disconnect(0x90))
        link.close()

    client = puppet(broker.where, 5, clean=False)
    link = connected(client, broker)
    number = client.start("publish", "bad", "x", 1)
    client.start("publish", "last", "x", 1)
    serve(broker, is_to_bad, end, link=link)
    with pytest.raises(RemoteError, match="given up") as error:
        client.result(number)
    assert error.value.code == 0x90


def test_patience_is_the_applications(false_broker, puppet):
    client = puppet(false_broker.where, clean=False, patience=1)
    link = connected(client, false_broker)
    number = client.start("publish", "bad", "x", 1)
    client.start("publish", "last", "x", 1)
    serve(false_broker, is_to_bad, link=link)
    with pytest.raises(RemoteError, match="hung up at it 3 times"):
        client.result(number)


# Not given up

ROUNDS = 8  # more than would be enough


def hang_up(times: int) -> Callable[[Packet], bool]:
    """At the first message of each of so many connections."""
    left = [times]

    def is_bad(packet: Packet) -> bool:
        left[0] -= is_to_bad(packet)
        return is_to_bad(packet) and left[0] >= 0

    return is_bad


def test_never_with_patience_0(either_false_broker, puppet, version):
    client = puppet(either_false_broker.where, version, clean=False, patience=0)
    link = connected(client, either_false_broker)
    number = client.start("publish", "bad", "x", 1)
    client.start("publish", "last", "x", 1)
    serve(either_false_broker, hang_up(ROUNDS), link=link)
    assert client.result(number) == 0


def test_broker_that_gets_better_in_time(either_false_broker, puppet, version):
    client = puppet(either_false_broker.where, version, clean=False)
    link = connected(client, either_false_broker)
    number = client.start("publish", "bad", "x", 1)
    client.start("publish", "last", "x", 1)
    serve(either_false_broker, hang_up(SUSPECTED + PATIENCE - 1), link=link)
    assert client.result(number) == 0
    assert client.state()["discarded"] == 0


def not_about_a_packet(link: FalseLink) -> None:
    link.send(link.wire.disconnect(0x8E))  # taken over
    link.close()


def with_an_error(link: FalseLink) -> None:
    link.send(b"\xf0\x00")  # the broker's own mistake


@pytest.mark.parametrize("end", [not_about_a_packet, with_an_error])
def test_end_that_is_about_something_else(false_broker_5, puppet, end):
    client = puppet(false_broker_5.where, 5, clean=False)
    link = connected(client, false_broker_5)
    number = client.start("publish", "bad", "x", 1)
    client.start("publish", "last", "x", 1)
    serve(false_broker_5, hang_up(ROUNDS), end, link=link)
    assert client.result(number) == 0


def test_silence_is_no_hanging_up(false_broker, puppet):
    """And what ends in a time-out begins the count anew."""
    client = puppet(false_broker.where, clean=False, timeout_s=1000, keepalive_s=10_000)
    client.call("begin")
    number = client.start("publish", "bad", "x", 1)

    def wait_until_it_gives_up(link: FalseLink) -> None:
        client.call("pass_time", 1001)
        assert link.is_ended()

    ends = [FalseLink.close, FalseLink.close, FalseLink.close, wait_until_it_gives_up] * 2
    client.start("publish", "last", "x", 1)
    serve(false_broker, hang_up(len(ends)), lambda link: ends.pop(0)(link))
    assert client.result(number) == 0
    assert not ends


def test_hang_up_before_the_ping_is_answered(either_false_broker, puppet, version):
    """A network that carries nothing blames nobody."""
    client = puppet(either_false_broker.where, version, clean=False)
    link = connected(client, either_false_broker)
    number = client.start("publish", "bad", "x", 1)
    client.start("publish", "last", "x", 1)
    left = [ROUNDS]

    def is_bad(packet: Packet) -> bool:
        left[0] -= 1
        return packet.kind in (PINGREQ, PUBLISH) and left[0] >= 0

    seen = serve(either_false_broker, is_bad, link=link)
    assert [kinds(packets) for packets in seen[SUSPECTED:ROUNDS]] == [[PINGREQ]] * (
        ROUNDS - SUSPECTED
    )
    assert client.result(number) == 0


def test_message_at_qos_0_may_be_the_culprit(either_false_broker, puppet, version):
    """It goes whenever it likes; then nobody else is blamed."""
    client = puppet(either_false_broker.where, version, clean=False, queue=1)
    link = connected(client, either_false_broker)
    number = client.start("publish", "innocent", "x", 1)
    client.start("publish", "last", "x", 1)
    left = [ROUNDS]

    def is_bad(packet: Packet) -> bool:
        if left[0] and packet.text == "innocent":
            client.call("post", "bad", "x")
        left[0] -= left[0] and packet.text == "bad"
        return packet.text == "bad"

    unanswered: list[Packet] = []

    def reply(link: FalseLink, packet: Packet) -> None:
        if packet.text == "innocent" and left[0]:
            unanswered.append(packet)  # the other one is on its way
        else:
            answer(link, packet)

    serve(either_false_broker, is_bad, link=link, reply=reply)
    assert len(unanswered) == ROUNDS
    assert client.result(number) == 0


def test_all_goes_on_after_the_trial(either_false_broker, puppet, version):
    """Once the suspect is answered, the rest goes at once, and new connections are as ever."""
    broker = either_false_broker
    client = puppet(broker.where, version, clean=False)
    link = connected(client, broker)
    numbers = [client.start("publish", "a", str(n), 1) for n in range(4)]
    for _ in range(SUSPECTED):
        for _ in range(4):
            link.expect(PUBLISH)
        link.close()
        link = broker.welcome(True)
    link.expect(PINGREQ)
    link.send(broker.wire.pingresp())
    found = [link.expect(PUBLISH)]
    client.start("subscribe", "b")  # behind the others
    link.send(broker.wire.ack(PUBACK, found[0].packet_id))
    found += [link.expect(PUBLISH) for _ in range(3)]
    assert [each.payload for each in found] == [b"0", b"1", b"2", b"3"]
    link.send(broker.wire.suback(link.expect(SUBSCRIBE).packet_id))
    link.send(*[broker.wire.ack(PUBACK, each.packet_id) for each in found[1:]])
    assert [client.result(number) for number in numbers] == [0] * 4
    link.close()
    link = broker.welcome(True)
    client.wait_until_up()
    assert link.is_silent(client)


def test_message_kept_over_a_close(either_false_broker, puppet, version):
    """Nobody waits for it any more; it is sent alone and waited for all the same."""
    broker = either_false_broker
    client = puppet(broker.where, version, clean=False)
    connected(client, broker)
    number = client.start("publish", "bad", "x", 1)
    client.call("settle")
    client.call("close")
    with pytest.raises(RemoteError, match="closed"):
        client.result(number)
    link = connected(client, broker, session_present=True)
    client.start("publish", "last", "x", 1)
    seen = serve(broker, hang_up(SUSPECTED + 1), link=link)
    assert kinds(seen[SUSPECTED]) == [PINGREQ, PUBLISH]
    assert kinds(seen[-1]) == [PINGREQ, PUBLISH, PUBLISH]
