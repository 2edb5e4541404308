"""What a broker does not survive, or hangs up at, blocks lib/mqtt's client for a while at most."""

import time
from collections.abc import Callable

import pytest

from host_tests.mqtt.broker import TIMEOUT_S, Broker, Observer
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


# With mosquitto


@pytest.fixture
def strict(mosquitto, tmp_path, request):
    """mosquitto with a limit of its own; the lines are the test's parameter."""
    broker = Broker(mosquitto, tmp_path, more=f"\n{request.param}\n")
    broker.start()
    yield broker
    broker.stop()


@pytest.mark.parametrize("strict", ["max_packet_size 2000"], indirect=True)
def test_message_larger_than_mosquitto_takes(strict, puppet, tmp_path):
    """3.1.1 cannot say so; the store's file goes, too."""
    (tmp_path / "store").mkdir()
    store = str(tmp_path / "store")
    client = puppet(strict.where, clean=False, store=store)
    client.call("connect")
    with Observer(strict.port) as observer:
        observer.subscribe("up/#")
        client.start("publish", "up/a", "before", 1)
        number = client.start("publish", "up/a", "x" * 3000, 1)
        client.start("publish", "up/a", "after", 2)
        with pytest.raises(RemoteError, match="publish given up"):
            client.result(number)
        assert set(observer.payloads(2)) == {"before", "after"}
    end = time.monotonic() + TIMEOUT_S
    while any((tmp_path / "store").iterdir()) and time.monotonic() < end:
        client.call("settle")
    assert not any((tmp_path / "store").iterdir())


@pytest.mark.parametrize("strict", ["max_packet_size 2000"], indirect=True)
def test_subscription_larger_than_mosquitto_takes(strict, puppet):
    """Given up in 3.1.1, refused here in MQTT 5: the standard's MQTT-3.2.2-15."""
    topic_filter = "x" * 1996
    client = puppet(strict.where, heap="512wK")
    client.call("connect")
    with pytest.raises(RemoteError, match="given up"):
        client.call("subscribe", topic_filter)
    assert client.call("subscribe", "a", 1) == 1
    client = puppet(strict.where, 5, client_id="mp-2", heap="512wK")
    client.call("connect")
    with pytest.raises(RemoteError, match="Packet too large") as error:
        client.call("subscribe", topic_filter)
    assert error.value.code == 0x95
    assert client.call("subscribe", "a", 1) == 1
    assert client.change() is None  # connected
    assert client.heard("change") == 0


@pytest.mark.parametrize("strict", ["max_qos 1"], indirect=True)
def test_qos_2_at_a_mosquitto_without_it(strict, puppet):
    client = puppet(strict.where, clean=False)
    client.call("connect")
    with pytest.raises(RemoteError, match="publish given up"):
        client.call("publish", "a", "x", 2)
    assert client.call("publish", "a", "x", 1) == 0


# Sizes that are known


@pytest.mark.parametrize("size", [99, 100, 101])
def test_maximum_packet_size_holds_for_all_packets(false_broker_5, puppet, size):
    """What is one byte larger is refused here, with the code that the broker would give."""
    client = puppet(false_broker_5.where, 5)
    link = connected(client, false_broker_5, properties=b"\x27\0\0\0\x64")
    head, packet_id, properties, length, options = 2, 2, 1, 2, 1
    rest = head + packet_id + properties + length
    number = client.start("subscribe", "x" * (size - rest - options))
    if size > 100:
        with pytest.raises(RemoteError, match=r"Packet too large \(0x95\)"):
            client.result(number)
    else:
        packet = link.expect(SUBSCRIBE)
        assert len(packet.raw) == size
        link.send(false_broker_5.wire.suback(packet.packet_id))
        client.result(number)
    number = client.start("publish", "x" * (size - rest), "", 1)
    if size > 100:
        with pytest.raises(RemoteError, match=r"Packet too large \(0x95\)"):
            client.result(number)
    else:
        packet = link.expect(PUBLISH)
        assert len(packet.raw) == size
        link.send(false_broker_5.wire.ack(PUBACK, packet.packet_id))
        client.result(number)
    assert link.is_silent(client)


def test_broker_that_takes_no_packet_at_all(false_broker_5, puppet):
    client = puppet(false_broker_5.where, 5)
    number = client.start("connect")
    false_broker_5.welcome(properties=b"\x27\0\0\0\x03")
    with pytest.raises(RemoteError, match="connection refused: Packet too large"):
        client.result(number)


def test_limit_of_a_3_1_1_broker_is_the_applications(false_broker, puppet):
    client = puppet(false_broker.where)
    link = connected(client, false_broker)
    client.call("limit", 100)
    for qos in (0, 1, 2):
        with pytest.raises(RemoteError, match=r"publish refused: Packet too large \(0x95\)"):
            client.call("publish", "a", "x" * 100, qos)
    with pytest.raises(RemoteError, match="Packet too large"):
        client.call("subscribe", "a" * 94)
    assert link.is_silent(client)


# Strings

ILL_FORMED = ("\ud83d", "a\ud83d\ude00", "\udfff", "a\0", "x" * 65536)


@pytest.mark.parametrize("text", ILL_FORMED, ids=["high", "pair", "low", "NUL", "long"])
def test_ill_formed_strings_are_refused_here(either_false_broker, puppet, version, text, tmp_path):
    """Where they are given: nothing is sent, queued or stored."""
    broker = either_false_broker
    (tmp_path / "store").mkdir()
    client = puppet(broker.where, version, clean=False, store=str(tmp_path / "store"), heap="512wK")
    link = connected(client, broker)
    calls: list[tuple[object, ...]] = [("publish", text, "", qos) for qos in (0, 1, 2)]
    calls += [("post", text, "", qos) for qos in (0, 1)]
    calls += [("subscribe", text), ("unsubscribe", text)]
    if version == 5:
        for properties in (
            {"content_type": text},
            {"response_topic": text},
            {"user_property": [(text, "")]},
            {"user_property": [("", text)]},
        ):
            calls.append(("publish", "a", "", 1, False, properties))
    for call in calls:
        with pytest.raises(RemoteError, match=r"ValueError: .*expected"):
            client.call(*call)
    assert link.is_silent(client)
    assert not any((tmp_path / "store").iterdir())
    for options in ({"client_id": text}, {"user": text}, {"will": [text, "", 0, False]}):
        with pytest.raises((RemoteError, RuntimeError), match=r"ValueError: .*expected"):
            puppet(broker.where, version, heap="512wK", **options).call("connect")


WRONG_TYPES: dict[str, tuple[object, ...]] = {
    "topic, number": ("publish_raw", 5, ""),
    "topic, None": ("publish_raw", None, ""),
    "topic, list": ("publish_raw", ["a"], ""),
    "payload, None": ("publish_raw", "a", None),
    "payload, number": ("publish_raw", "a", 5),
    "payload, list": ("publish_raw", "a", [1, 2]),
    "payload, dict": ("publish_raw", "a", {"a": 1}),
    "QoS, None": ("publish_raw", "a", "", None),
    "QoS, text": ("publish_raw", "a", "", "1"),
    "QoS, fraction": ("publish_raw", "a", "", 1.5),
    "filter, number": ("subscribe", 5),
    "filter, None": ("subscribe", None),
    "filter, dict": ("subscribe", {}),
    "filter, empty list": ("subscribe", []),
    "filter, list of numbers": ("subscribe", ["a", 5]),
    "unsubscribe, empty list": ("unsubscribe", []),
    "filter's QoS, None": ("subscribe", "a", None),
    "filter's QoS, text": ("subscribe", "a", "1"),
    "unsubscribe, number": ("unsubscribe", 5),
    "properties, list": ("publish_raw", "a", "", 1, False, ["a"]),
}


def test_wrong_types_are_refused_where_they_are_given(either_false_broker, puppet, version):
    client = puppet(either_false_broker.where, version)
    link = connected(client, either_false_broker)
    for name, call in WRONG_TYPES.items():
        try:
            result = client.call(*call)
        except RemoteError as error:
            result = error.name
        assert result in ("TypeError", "ValueError"), name
    for qos in (0, 1):
        with pytest.raises(RemoteError, match="TypeError: expected a string, found b'a'"):
            client.call("publish_bytes_topic", "a", qos)
    assert link.is_silent(client)
    assert client.heard("change") == 0


def test_payload_of_wide_items(either_false_broker, puppet, version):
    """An array's length is not its bytes': a packet with the wrong one ends the connection."""
    client = puppet(either_false_broker.where, version)
    link = connected(client, either_false_broker)
    for _ in range(2):
        client.start("publish_array", [1, 2, 3], 1)
        packet = link.expect(PUBLISH)
        assert packet.payload == b"\1\0\2\0\3\0"
        link.send(either_false_broker.wire.ack(PUBACK, packet.packet_id))
        client.call("post", "a", "xyz")  # as long, for who counts items
        assert link.expect(PUBLISH).payload == b"xyz"
        client.start("publish_array", [1, 2, 3], 0)
        assert link.expect(PUBLISH).payload == b"\1\0\2\0\3\0"
    assert link.is_silent(client)


# A store that an older version has written


def stored(tmp_path, client, broker) -> bytes:
    """The file of a message that waits."""
    client.call("begin")
    assert client.call("post", "up", "kept", 1) is True
    client.kill()
    client.end()
    broker.listen_again(broker.where["port"])
    (path,) = (tmp_path / "store").iterdir()
    return bytes(path.read_bytes())


ENTRIES = {
    "surrogate": lambda good: good.replace(b"\x00\x02up", b"\x00\x03\xed\xa0\xbd").replace(
        good[1:2], bytes((good[1] + 1,)), 1
    ),
    "NUL": lambda good: good.replace(b"up", b"u\0"),
    "no topic": lambda good: good.replace(b"up", b"+u"),
    "empty": lambda good: b"",
    "cut": lambda good: good[:-1],
    "too long": lambda good: good + b"x",
    "two": lambda good: good + good,
    "head alone": lambda good: good[:2],
    "another id": lambda good: good.replace(b"up\0\1", b"up\0\2"),
    "QoS 0": lambda good: b"\x30" + good[1:],
    "QoS 3": lambda good: b"\x36" + good[1:],
    "another packet": lambda good: b"\xd0\0",
}


@pytest.mark.parametrize("name", ENTRIES)
def test_entry_of_a_store_that_may_not_be_sent(
    either_false_broker, puppet, version, tmp_path, name
):
    """It is dropped and counted, and what is behind it is sent."""
    broker = either_false_broker
    (tmp_path / "store").mkdir()
    options = {"clean": False, "store": str(tmp_path / "store")}
    good = stored(tmp_path, puppet(broker.where, version, **options), broker)
    (path,) = (tmp_path / "store").iterdir()
    bad = ENTRIES[name](good)
    assert bad != good
    path.write_bytes(bad)
    second = path.with_name("m00000001" + path.name[9] + "0009")
    second.write_bytes(good.replace(b"up\0\1", b"up\0\x09"))
    client = puppet(broker.where, version, **options)
    link = connected(client, broker, session_present=True)
    assert (packet := link.expect(PUBLISH)).payload == b"kept"
    assert packet.packet_id == 9
    assert client.state()["discarded"] == 1
    link.send(broker.wire.ack(PUBACK, 9))
    assert link.is_silent(client)
    assert not any((tmp_path / "store").iterdir())


# Cancelled


def cancel(client, number) -> None:
    client.call("cancel", number)
    with pytest.raises(RemoteError, match="CancelledError"):
        client.result(number)


@pytest.mark.parametrize("qos", [1, 2])
def test_cancelled_before_it_is_sent(either_false_broker, puppet, version, qos, tmp_path):
    """The message is withdrawn, from the store, too, and makes room."""
    broker = either_false_broker
    (tmp_path / "store").mkdir()
    options = {"clean": False, "store": str(tmp_path / "store"), "queue": 1}
    client = puppet(broker.where, version, **options)
    client.call("begin")
    number = client.start("publish", "a", "cancelled", qos)
    client.call("settle")
    assert len(list((tmp_path / "store").iterdir())) == 1
    waiting = client.start("publish", "a", "next", qos)
    cancel(client, number)
    link = broker.welcome(True)
    packet = link.expect(PUBLISH)
    assert packet.payload == b"next"
    assert len(list((tmp_path / "store").iterdir())) == 1
    answer(link, packet)
    if qos == 2:
        answer(link, link.expect(PUBREL))
    assert client.result(waiting) == 0
    assert link.is_silent(client)
    assert not any((tmp_path / "store").iterdir())


def test_cancelled_after_it_was_sent(either_false_broker, puppet, version, tmp_path):
    """Its id is nobody else's until it is answered, and it is not sent again."""
    broker = either_false_broker
    (tmp_path / "store").mkdir()
    client = puppet(broker.where, version, clean=False, store=str(tmp_path / "store"))
    link = connected(client, broker)
    number = client.start("publish", "a", "x", 1)
    packet = link.expect(PUBLISH)
    cancel(client, number)
    assert not any((tmp_path / "store").iterdir())
    client.call("use_id_after", packet.packet_id - 1)
    client.start("publish", "a", "y", 1)
    other = link.expect(PUBLISH)
    assert (other.payload, other.packet_id) == (b"y", packet.packet_id + 1)
    link.send(broker.wire.ack(PUBACK, packet.packet_id))  # expected: no mistake of the broker's
    number = client.start("publish", "a", "z", 1)
    third = link.expect(PUBLISH)
    cancel(client, number)
    link.close()
    link = broker.welcome(True)
    assert link.expect(PUBLISH).payload == b"y"
    assert link.is_silent(client)
    client.call("use_id_after", third.packet_id - 1)
    client.start("publish", "a", "new", 1)
    again = link.expect(PUBLISH)
    assert (again.packet_id, again.payload, again.dup) == (third.packet_id, b"new", False)


def test_cancelled_between_connections(either_false_broker, puppet, version):
    broker = either_false_broker
    client = puppet(broker.where, version, clean=False)
    link = connected(client, broker)
    number = client.start("publish", "a", "x", 1)
    link.expect(PUBLISH)
    link.close()
    client.wait_until_lost()
    cancel(client, number)
    link = broker.welcome(True)
    client.wait_until_up()
    assert link.is_silent(client)


def test_cancelled_at_qos_2_goes_on_once_it_was_sent(either_false_broker, puppet, version):
    """The broker may hold its id: a new message with that would be lost."""
    broker = either_false_broker
    client = puppet(broker.where, version, clean=False)
    link = connected(client, broker)
    number = client.start("publish", "a", "x", 2)
    packet = link.expect(PUBLISH)
    cancel(client, number)
    link.close()
    link = broker.welcome(True)
    again = link.expect(PUBLISH)
    assert (again.packet_id, again.payload, again.dup) == (packet.packet_id, b"x", True)
    answer(link, again)
    answer(link, link.expect(PUBREL))
    assert link.is_silent(client)


def test_cancelled_subscription(either_false_broker, puppet, version):
    """Not sent yet, it is withdrawn; else the broker's answer counts."""
    broker = either_false_broker
    client = puppet(broker.where, version)
    client.call("begin")
    number = client.start("subscribe", "cancelled")
    client.call("settle")
    cancel(client, number)
    link = broker.welcome()
    client.wait_until_up()
    assert link.is_silent(client)
    number = client.start("subscribe", "a", 1)
    packet = link.expect(SUBSCRIBE)
    cancel(client, number)
    link.send(broker.wire.suback(packet.packet_id, 1))
    assert link.is_silent(client)
    link.close()
    assert broker.welcome().expect(SUBSCRIBE).text == "a"
