"""What only MQTT 5 has, under MicroPython: with mosquitto over mutual TLS where it can show it."""

import time

import pytest

from host_tests.mqtt.broker import Observer
from host_tests.mqtt.false_broker import DISCONNECT, PUBLISH, FalseBroker, connected
from host_tests.mqtt.puppet import RemoteError

NO_LOCAL, RETAIN_AS_PUBLISHED, RETAIN_NEW, RETAIN_NEVER = 0x04, 0x08, 0x10, 0x20
ALIASES_2 = b"\x22\x00\x02"  # topic alias maximum


def test_properties_both_ways(broker, puppet):
    properties = {
        "content_type": "text/plain",
        "message_expiry_interval": 60,
        "payload_format_indicator": 1,
        "response_topic": "answers/é",
        "correlation_data": "abc",
        "user_property": [["k", "1"], ["k", "2"], ["", "ü"]],
    }
    client = puppet(broker.where, 5)
    client.call("connect")
    client.call("subscribe", "loop/#", 2)
    for qos in (0, 1, 2):
        client.call("publish", "loop/x", "payload", qos, False, properties)
        message = client.message()
        assert message[:4] == ("loop/x", "payload", qos, False)
        assert message.properties == properties
    client.call("publish", "loop/x", "none")
    assert not client.message().properties


def test_message_expires(broker, observer, puppet):
    """In the broker, before a client comes back for it."""
    client = puppet(broker.where, 5, clean=False)
    client.call("connect")
    client.call("subscribe", "down/#", 1)
    client.call("disconnect")
    with Observer(broker.port, version=5) as sender:
        sender.publish("down/x", "short", 1, properties={"MessageExpiryInterval": 1})
        sender.publish("down/x", "long", 1, properties={"MessageExpiryInterval": 60})
    time.sleep(2.1)  # by mosquitto's clock
    assert client.call("connect") is True
    message = client.message()
    assert message.payload == "long"
    assert message.properties["message_expiry_interval"] < 60
    assert client.heard("message", by="other") == 0


def test_session_expires(broker, puppet):
    for interval_s, expected in ((3600, True), (1, False)):
        session = {"session_expiry_interval": interval_s}
        client = puppet(broker.where, 5, clean=False, client_id=f"c{interval_s}", protocol=session)
        client.call("connect")
        client.call("disconnect")
        if not expected:
            time.sleep(2.5)  # by mosquitto's clock
        assert client.call("connect") is expected


def test_expiry_of_a_disconnect(broker, puppet):
    """The session that was to last for an hour ends with the connection."""
    client = puppet(broker.where, 5, clean=False)
    for expiry_s, expected in ((None, True), (3600, True), (0, False)):
        client.call("connect")
        client.call("disconnect", 0, expiry_s)
        assert client.call("connect") is expected


def test_disconnect_with_will(broker, observer, puppet):
    for code in (0, 4):
        client = puppet(broker.where, 5, will=["up/will", f"{code}", 1, False])
        client.call("connect")
        client.call("disconnect", code)
    assert observer.message().payload == "4"


def test_disconnect_has_limits(false_broker_5, puppet):
    client = puppet(false_broker_5.where, 5)
    link = connected(client, false_broker_5)
    for values in ((1,), (0x87,), (0, -1), (0, 1 << 32), (0, 1)):  # the session ends by itself
        with pytest.raises(RemoteError, match="ValueError"):
            client.call("disconnect", *values)
    client.call("disconnect", 0x93, 0)
    assert link.expect(DISCONNECT).raw == b"\xe0\x07\x93\x05\x11\0\0\0\0"
    assert link.is_ended()


def test_will_with_delay_and_properties(broker, puppet):
    will = ["up/will", "gone", 1, False, {"will_delay_interval": 2, "content_type": "text"}]
    client = puppet(broker.where, 5, clean=False, will=will)
    with Observer(broker.port, version=5) as observer:
        observer.subscribe("up/#")
        client.call("connect")
        client.call("close")
        assert client.call("connect") is True  # in time: no will
        time.sleep(2.5)  # by mosquitto's clock
        assert observer.is_quiet()
        start = time.monotonic()
        client.call("close")
        message = observer.message()
        assert time.monotonic() - start > 0.9  # it counts in whole seconds
        assert message[:3] == ("up/will", "gone", 1)
        assert message.properties == {"content_type": "text"}


def test_subscription_options(broker, puppet):
    client = puppet(broker.where, 5)
    client.call("connect")
    client.call("publish", "a/kept", "old", 1, True)
    client.call("subscribe", "a/#", 1, RETAIN_NEVER | RETAIN_AS_PUBLISHED)
    client.call("publish", "a/new", "x", 1, True)
    assert client.message()[:4] == ("a/new", "x", 1, True)  # as published
    client.call("subscribe", "a/#", 1, RETAIN_NEW)  # it is not new
    assert client.heard("message", by="other") == 0
    client.call("subscribe", "b/#", 1, NO_LOCAL)
    client.call("publish", "b/own", "unheard", 1)
    with Observer(broker.port) as other:
        other.publish("b/other", "heard")
    assert client.message().payload == "heard"
    client.call("subscribe", "c/#", 1, 0, {"subscription_identifier": 200})
    client.call("publish", "c/x", "marked", 1)
    assert client.message().properties == {"subscription_identifier": [200]}


def test_options_are_kept_for_the_next_session(false_broker_5, puppet):
    wire = false_broker_5.wire
    client = puppet(false_broker_5.where, 5)
    link = connected(client, false_broker_5)
    properties = {"subscription_identifier": 200}
    number = client.start("subscribe", "a", 1, NO_LOCAL | RETAIN_NEVER, properties)
    first = link.expect(8)
    link.send(wire.suback(first.packet_id, 1))
    client.result(number)
    link.close()
    again = false_broker_5.welcome().expect(8)
    assert (again.text, again.payload, again.properties) == ("a", b"\x25", b"\x0b\xc8\x01")
    assert again[3:6] == first[3:6]


def test_nobody_subscribed(broker, puppet):
    """A reason code that is no error."""
    client = puppet(broker.where, 5)
    client.call("connect")
    assert client.call("publish", "nobody", "x", 1) == 0x10
    client.call("subscribe", "nobody")
    assert client.call("publish", "nobody", "x", 1) == 0


def test_session_taken_over(broker, puppet):
    """The server says why it ends a connection."""
    client = puppet(broker.where, 5, client_id="same")
    client.call("connect")
    client.wait_until_up()
    with Observer(broker.port, client_id="same", version=5):
        error = client.wait_until_lost()
        client.call("close")
    assert "MQTTRefusedError" in error
    assert "taken over" in error.lower()


def test_assigned_client_id(broker, observer, puppet):
    """Kept, so that the next connection has the session of the last."""
    client = puppet(broker.where, 5, client_id="", clean=False)
    assert client.call("connect") is False
    client.call("subscribe", "down", 1)
    client.call("close")
    observer.publish("down", "meanwhile", 1)
    assert client.call("connect") is True
    assert client.message().payload == "meanwhile"


@pytest.mark.parametrize(("code", "name"), [(1, "Unsupported Protocol"), (5, "Not authorized")])
def test_refusal_by_a_broker_of_3_1_1(false_broker_5, puppet, code, name):
    """Which answers in its own way, without properties."""
    client = puppet(false_broker_5.where, 5)
    number = client.start("connect")
    link = false_broker_5.accept()
    link.packet()
    link.send(bytes((0x20, 2, 0, code)))
    with pytest.raises(RemoteError, match=f"MQTTRefusedError: connection refused: {name}"):
        client.result(number)


def test_broker_of_3_1_1_that_takes_the_connection(false_broker_5, puppet):
    client = puppet(false_broker_5.where, 5)
    number = client.start("connect")
    link = false_broker_5.accept()
    link.packet()
    link.send(b"\x20\x02\0\0")
    with pytest.raises(RemoteError, match=r"MQTTProtocolError: packet type 2: of MQTT 3\.1\.1"):
        client.result(number)


def test_oversized_message_is_kept_back_by_the_broker(broker, observer, puppet):
    """It knows our maximum packet size; 3.1.1 ends the connection."""
    client = puppet(broker.where, 5, max_packet=256)
    client.call("connect")
    client.call("subscribe", "down/#", 1)
    observer.publish("down/x", "y" * 300)
    observer.publish("down/x", "small")
    assert client.message().payload == "small"
    assert client.state()["opens"] == [0]


def test_topic_aliases_to_the_server(false_broker_5, puppet):
    """Up to its maximum, at QoS 0, for topics seen before; anew on each connection."""
    client = puppet(false_broker_5.where, 5)
    for properties in (ALIASES_2, b"", ALIASES_2):
        link = connected(client, false_broker_5, properties=properties)
        topics: dict[bytes, str] = {}
        for number in range(30):
            topic = f"topic/{number % 3}"
            qos = number % 5 == 0
            client.start("publish", topic, str(number), int(qos))
            packet = link.expect(PUBLISH)
            assert packet.payload == b"%d" % number
            alias = packet.properties
            if alias:
                assert not qos
                assert alias[:2] == b"\x23\x00"
                assert 1 <= alias[2] <= 2
                if packet.text:
                    topics[alias] = packet.text
            assert (packet.text or topics[alias]) == topic
            if packet.packet_id:
                link.send(false_broker_5.wire.ack(4, packet.packet_id))
        assert len(topics) == (2 if properties else 0)
        client.call("close")
        client.news("change")


def test_posts_of_one_topic_over_connections(false_broker_5, puppet):
    """The packet that is filled anew has no alias that only the last connection knew."""
    client = puppet(false_broker_5.where, 5)
    for properties in (ALIASES_2, b"", ALIASES_2):
        link = connected(client, false_broker_5, properties=properties)
        known: dict[bytes, str] = {}
        for number in range(4):
            assert client.call("post", "some/topic", f"{number}") is True
            packet = link.expect(PUBLISH)
            assert packet.payload == b"%d" % number
            if packet.text:
                known[packet.properties] = packet.text
            assert known[packet.properties] == "some/topic"
            assert properties or not packet.properties
        client.call("close")
        client.news("change")


def test_topic_aliases_with_mosquitto(broker, observer, puppet):
    client = puppet(broker.where, 5)
    client.call("connect")
    for number in range(60):
        client.call("post", f"up/{number % 15}", str(number))
    assert [observer.message()[:2] for _ in range(60)] == [
        (f"up/{number % 15}", str(number)) for number in range(60)
    ]


@pytest.mark.parametrize("protocol", [4, 5])
def test_messages_that_wait_for_the_network_stay_apart(protocol, puppet):
    """Same topic, same length, QoS 0: one buffer or alias must not serve two at a time."""
    with FalseBroker(version=protocol) as broker:
        broker.shrink()
        client = puppet(broker.where, protocol, heap="512wK")
        properties = ALIASES_2 if protocol == 5 else b""
        link = connected(client, broker, properties=properties)
        # More than the sockets take, now or after a moment: all others have to wait.
        numbers = [client.start("publish", "first", 60_000)]
        numbers += [client.start("publish", "a", chr(65 + n) * 3000) for n in range(20)]
        cancelled = client.start("publish", "b", "c" * 3000)
        client.call("cancel", cancelled)
        numbers += [client.start("publish", "b", chr(97 + n) * 3000) for n in range(3, 6)]
        assert link.expect(PUBLISH).payload == bytes(60_000)
        found = [link.expect(PUBLISH) for _ in range(23)]
        for number in numbers:
            client.result(number)
        aliases: dict[bytes, str] = {}
        payloads = []
        for packet in found:
            if packet.text and packet.properties:
                aliases[packet.properties] = packet.text
            payloads.append((packet.text or aliases[packet.properties], packet.payload.decode()))
        expected = [("a", chr(65 + n) * 3000) for n in range(20)]
        expected += [("b", chr(97 + n) * 3000) for n in range(3, 6)]
        assert sorted(payloads) == expected  # which of them is first is not promised


def test_options_of_the_protocol_are_checked(false_broker_5, puppet):
    for properties in (
        {"receive_maximum": 0},
        {"receive_maximum": 65536},
        {"no_such_property": 1},
        {"topic_alias": 1},
        {"authentication_method": "x"},
    ):
        with pytest.raises((RuntimeError, RemoteError), match="ValueError"):
            puppet(false_broker_5.where, 5, protocol=properties).call("connect")
