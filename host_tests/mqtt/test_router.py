"""mqtt.router and mqtt.rpc under MicroPython, with mosquitto."""

import pytest

from host_tests.mqtt.broker import Observer
from host_tests.mqtt.false_broker import PUBACK, PUBLISH, SUBSCRIBE, connected, varint
from host_tests.mqtt.puppet import RemoteError


def test_filters_to_handlers(either_false_broker, puppet, version):
    """Every filter that matches, in the order in which they were given."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = puppet(broker.where, version, router=True)
    link = connected(client, broker)
    for label, topic_filter in (("all", "down/#"), ("level", "down/+/x"), ("one", "down/a/x")):
        number = client.start("route", label, topic_filter, 2)
        link.send(wire.suback(link.expect(SUBSCRIBE).packet_id, 2))
        assert client.result(number) == 2
    for topic, labels in (
        ("down/a/x", ["all", "level", "one"]),
        ("down/b/x", ["all", "level"]),
        ("other", []),
        ("down", ["all"]),
        ("down/a/x/y", ["all"]),
    ):
        link.send(wire.publish(topic, topic.encode()))
        found = [client.routed() for _ in labels]
        assert [label for label, _ in found] == labels
        assert all(message[:2] == (topic, topic) for _, message in found)
    assert client.call("unmatched") == 1
    client.call("disconnect")
    assert client.wait_until_over() is None


IDENTIFIERS = {"a/#": 29189, "a/+": 29197, "a/b": 29252}  # of MQTT 5, by filter: always the same


@pytest.fixture
def overlapping(false_broker_5, puppet):
    """(client, connection) with handlers for three filters that all match a/b."""
    wire = false_broker_5.wire
    client = puppet(false_broker_5.where, 5, router=True)
    link = connected(client, false_broker_5)
    for topic_filter in IDENTIFIERS:
        number = client.start("route", topic_filter, topic_filter, 1)
        packet = link.expect(SUBSCRIBE)
        assert packet.properties == _identifiers(topic_filter)
        link.send(wire.suback(packet.packet_id, 1))
        client.result(number)
    return client, link


def _identifiers(*filters):
    return b"".join(b"\x0b" + varint(number) for number in map(IDENTIFIERS.__getitem__, filters))


def test_one_copy_for_each_subscription(overlapping, false_broker_5):
    """Section 3.3.4 of MQTT 5 allows it; each handler runs once."""
    client, link = overlapping
    for topic_filter in IDENTIFIERS:
        copy = false_broker_5.wire.publish("a/b", b"x", properties=_identifiers(topic_filter))
        link.send(copy)
        assert client.routed()[0] == topic_filter
    assert client.heard("routed") == 0


def test_one_copy_for_all_subscriptions(overlapping, false_broker_5):
    client, link = overlapping
    for properties in (
        _identifiers(*IDENTIFIERS),
        b"",
        b"\x0b\x05",  # of a session that was begun by other software: all rather than none
    ):
        link.send(false_broker_5.wire.publish("a/b", b"x", properties=properties))
        assert [client.routed()[0] for _ in IDENTIFIERS] == list(IDENTIFIERS)
    link.send(false_broker_5.wire.publish("a/b", b"x", properties=_identifiers("a/#", "a/b")))
    assert [client.routed()[0] for _ in range(2)] == ["a/#", "a/b"]
    assert client.heard("routed") == 0
    assert client.call("unmatched") == 0


def test_server_without_identifiers(false_broker_5, puppet):
    client = puppet(false_broker_5.where, 5, router=True)
    link = connected(client, false_broker_5, properties=b"\x29\0")
    client.start("route", "a", "a/#", 1)
    assert link.expect(SUBSCRIBE).properties == b""


def test_overlapping_subscriptions_with_mosquitto(broker, observer, puppet, version):
    client = puppet(broker.where, version, router=True)
    client.call("connect")
    for topic_filter in ("down/#", "down/+"):
        client.call("route", topic_filter, topic_filter, 1)
    observer.publish("down/x", "once", 1)
    assert sorted(client.routed()[0] for _ in range(2)) == ["down/#", "down/+"]
    assert client.heard("routed", by="other") == 0


def test_shared_subscription(broker, observer, puppet):
    """Each message goes to one of the group; the handler's filter has no $share in it."""
    members = [puppet(broker.where, 5, router=True, client_id=f"m{n}") for n in range(2)]
    for member in members:
        member.call("connect")
        assert member.call("route", "shared", "$share/group/down/+", 1) == 1
    for n in range(10):
        observer.publish("down/x", str(n))
    found: list[str] = []
    while len(found) < 10:
        for member in members:
            found += [news[3] for news in member.news("routed")]
    assert sorted(found, key=int) == [str(n) for n in range(10)]


def test_acknowledged_when_all_handlers_are_done(false_broker, puppet):
    client = puppet(false_broker.where, router=True)
    link = connected(client, false_broker)
    for label, topic_filter in (("one", "a/#"), ("two", "a/+")):
        number = client.start("route", label, topic_filter, 1)
        link.send(false_broker.wire.suback(link.expect(SUBSCRIBE).packet_id, 1))
        client.result(number)
    client.call("answers", "go on", "hold")
    link.send(false_broker.wire.publish("a/b", b"x", 1, 1))
    assert client.routed()[0] == "one"
    assert client.routed()[0] == "two"
    assert link.is_silent(client)
    client.call("go")
    assert link.expect(PUBACK).packet_id == 1


def test_refused_filter_has_no_handler(false_broker, puppet):
    client = puppet(false_broker.where, router=True)
    link = connected(client, false_broker)
    number = client.start("route", "never", "a/#", 1)
    link.send(false_broker.wire.suback(link.expect(SUBSCRIBE).packet_id, 0x80))
    with pytest.raises(RemoteError, match="MQTTRefusedError"):
        client.result(number)
    link.send(false_broker.wire.publish("a/b", b"x", 1, 1))
    assert link.expect(PUBACK).packet_id == 1
    assert client.call("unmatched") == 1
    assert client.heard("routed") == 0


def test_messages_before_the_suback(false_broker, puppet):
    """Retained ones may come before it, section 3.8.4: the handler gets them."""
    client = puppet(false_broker.where, router=True)
    link = connected(client, false_broker)
    number = client.start("route", "a", "a/#", 1)
    packet = link.expect(SUBSCRIBE)
    link.send(
        false_broker.wire.publish("a/b", b"early", 1, 1, retain=True),
        false_broker.wire.suback(packet.packet_id, 1),
    )
    assert client.result(number) == 1
    assert client.routed()[1].payload == "early"


# Request and response


@pytest.fixture
def pair(broker, puppet):
    """(caller, server), both connected."""
    # Each module is loaded, and a puppet takes memory for each call: more than an ESP32 has.
    caller = puppet(broker.where, 5, router=True, client_id="caller", heap="80wK")
    server = puppet(broker.where, 5, router=True, client_id="server", heap="80wK")
    for each in (caller, server):
        each.call("connect")
    caller.call("start_caller", "answers/caller")
    server.call("serve", "service/+", "re: ")
    return caller, server


def test_call(pair, broker):
    caller, _server = pair
    payload, properties = caller.call("call", "service/a", "hello")
    assert payload == "re: hello"
    assert "response_topic" not in (properties or {})
    assert caller.call("call", "service/b", "", 0)[0] == "re: "
    assert caller.call("call", "service/b", "two", 2)[0] == "re: two"


def test_calls_at_once(pair):
    """Each gets its own answer; more than may be waiting wait for their turn."""
    caller, _server = pair
    numbers = [caller.start("call", "service/a", f"{n}") for n in range(12)]
    assert [caller.result(number)[0] for number in numbers] == [f"re: {n}" for n in range(12)]


def test_nobody_answers(pair, broker):
    """Nobody there: said at once by mosquitto; somebody who is silent: by the time."""
    caller, _server = pair
    with pytest.raises(RemoteError, match=r"MQTTRefusedError: .*[Nn]o matching") as caught:
        caller.call("call", "nobody", "x", 1, 5)
    assert caught.value.code == 0x10
    with Observer(broker.port) as silent:
        silent.subscribe("silent")
        with pytest.raises(RemoteError, match="MQTTTimeoutError: no answer within 1 s"):
            caller.call("call", "silent", "x", 1, 1)
    assert caller.call("call", "service/a", "later")[0] == "re: later"


def test_foreign_answers(pair, broker):
    """Without correlation data, or with another's: nobody's."""
    caller, _server = pair
    with Observer(broker.port, version=5) as stranger:
        for data in (None, b"", b"12345678", b"x" * 100):
            properties = {} if data is None else {"CorrelationData": data}
            stranger.publish("answers/caller", "false", 1, properties=properties)
    assert caller.call("call", "service/a", "mine")[0] == "re: mine"
    assert caller.state()["error"] is None


def test_request_without_a_response_topic(pair, broker):
    caller, server = pair
    with Observer(broker.port, version=5) as stranger:
        stranger.publish("service/a", "x")
        stranger.publish("service/a", "x", properties={"CorrelationData": b"1"})
    assert caller.call("call", "service/a", "fine")[0] == "re: fine"
    assert server.call("unmatched") == 2


def test_answer_survives_a_lost_connection(false_broker_5, puppet):
    """The call waits over connections, as long as its time lasts."""
    wire = false_broker_5.wire
    client = puppet(false_broker_5.where, 5, router=True, clean=False)
    link = connected(client, false_broker_5)
    number = client.start("start_caller", "answers")
    link.send(wire.suback(link.expect(SUBSCRIBE).packet_id, 1))
    client.result(number)
    number = client.start("call", "service", "x")
    request = link.expect(PUBLISH)
    key = request.properties[request.properties.index(b"\x09\x00") :][:11]
    link.send(wire.ack(PUBACK, request.packet_id))
    link.close()
    link = false_broker_5.welcome(True)
    link.send(wire.publish("answers", b"late", 1, 1, properties=key))
    assert client.result(number)[0] == "late"
