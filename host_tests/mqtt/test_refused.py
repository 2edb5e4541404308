"""What is refused before it is sent, and what is taken back: no broker is asked to hang up."""

import time

import pytest

from host_tests.mqtt.broker import TIMEOUT_S, Broker, Observer
from host_tests.mqtt.false_broker import (
    PUBACK,
    PUBLISH,
    PUBREL,
    SUBSCRIBE,
    connected,
)
from host_tests.mqtt.puppet import RemoteError
from host_tests.mqtt.test_poison import answer

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
    client = puppet(strict.where, clean=False, store=store, heap="128wK")  # to be told 3,000 bytes
    client.call("connect")
    with Observer(strict.port) as observer:
        observer.subscribe("up/#")
        client.start("publish", "up/a", "before", 1)
        number = client.start("publish", "up/a", "x" * 3000, 1)
        client.start("publish", "up/a", "after", 2)
        with pytest.raises(RemoteError, match="publish given up"):
            client.result(number)
        found: set[object] = set()
        while found < {"before", "after"}:  # "before" twice, if its PUBACK was lost with the link
            found.add(observer.message().payload)
        assert found == {"before", "after"}
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
