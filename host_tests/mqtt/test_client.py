"""lib/mqtt's client under MicroPython, with mosquitto: what it offers, over mutual TLS.

Each test runs with MQTT 3.1.1 and with MQTT 5; what only the latter has is in test_v5.py.
"""

import itertools
import time
from typing import Any

import pytest

from host_tests.mqtt.broker import Broker, Observer
from host_tests.mqtt.false_broker import connected
from host_tests.mqtt.puppet import RemoteError


def test_publish(broker, observer, puppet, version):
    client = puppet(broker.where, version, heap="128wK")  # to read 2000 bytes
    assert client.call("connect") is False
    assert client.change() is None
    for topic, payload, qos, retain in (
        ("up/zero", "a", 0, False),
        ("up/one", "b", 1, False),
        ("up/two", "c", 2, False),
        ("up/kept", "d", 1, True),
        ("up/empty", "", 1, False),
        ("up/é", "ü" * 1000, 2, False),
    ):
        assert client.call("publish", topic, payload, qos, retain) == 0
        assert observer.message()[:4] == (topic, payload, qos, False)
    assert client.call("post", "up/zero", "e") is True
    assert client.call("post", "up/one", "f", 1) is True
    assert client.call("post", "up/two", "g", 2) is True
    assert observer.payloads(3) == ["e", "f", "g"]
    with Observer(broker.port) as late:
        late.subscribe("up/kept")
        assert late.message()[:4] == ("up/kept", "d", 1, True)


def test_subscribe(broker, observer, puppet, version):
    client = puppet(broker.where, version, max_packet=4096, heap="128wK")  # to report 4000 bytes
    client.call("connect")
    observer.publish("down/kept", "before", retain=True)
    assert client.call("subscribe", "down/+", 2) == 2
    assert client.call("subscribe", "down/zero/#") == 0
    assert client.message()[:4] == ("down/kept", "before", 1, True)
    for topic, payload, qos in (
        ("down/a", "x", 1),
        ("down/b", "", 0),
        ("down/c", "é" * 2000, 2),
        ("down/c", b"\xff\x00", 2),
    ):
        observer.publish(topic, payload, qos)
        seen = {"hex": "ff00"} if isinstance(payload, bytes) else payload
        assert client.message()[:4] == (topic, seen, qos, False)
    observer.publish("down/zero/z", "y", 2)
    assert client.message()[:4] == ("down/zero/z", "y", 0, False)
    client.call("unsubscribe", "down/+")
    observer.publish("down/a", "unseen")
    assert client.heard("message", by="other") == 0
    client.call("disconnect")
    assert client.wait_until_over() is None


def test_disconnect_keeps_the_will_back(broker, observer, puppet, version):
    client = puppet(broker.where, version, will=["up/will", "gone", 1, False])
    client.call("connect")
    client.call("disconnect")
    assert observer.is_quiet()
    with pytest.raises(RemoteError, match="MQTTConnectionError"):
        client.call("publish", "up/a", "b")
    assert client.call("post", "up/a", "b") is False
    assert "MQTTConnectionError" in client.state()["error"]
    client.call("disconnect")  # again: nothing happens
    client.call("close")
    assert client.call("connect") is False
    client.call("publish", "up/a", "back")
    assert observer.message().payload == "back"


@pytest.mark.parametrize("end", ["close", "kill"])
def test_will(broker, observer, puppet, version, end):
    client = puppet(broker.where, version, will=["up/will", "gone", 1, True])
    client.call("connect")
    client.kill() if end == "kill" else client.call("close")
    assert observer.message()[:4] == ("up/will", "gone", 1, False)
    with Observer(broker.port) as late:
        late.subscribe("up/will")
        assert late.message()[:4] == ("up/will", "gone", 1, True)


def test_async_with(broker, observer, puppet, version):
    """`async with client` connects, and says goodbye even if its body raises."""
    client = puppet(broker.where, version, will=["up/will", "gone", 1, False])
    client.call("within", "up/a", "x", False)
    assert observer.message().payload == "x"
    with pytest.raises(RemoteError, match="ValueError: not today"):
        client.call("within", "up/a", "y", True)
    assert observer.message().payload == "y"
    assert observer.is_quiet()


def test_session_survives(broker, observer, puppet, version):
    client = puppet(broker.where, version, clean=False)
    assert client.call("connect") is False
    client.call("subscribe", "down/#", 2)
    client.call("close")
    for qos, payload in ((1, "a"), (2, "b"), (1, "c")):
        observer.publish("down/x", payload, qos)
    assert client.call("connect") is True
    assert client.payloads(3) == ["a", "b", "c"]
    client.call("disconnect")
    assert client.call("connect") is True
    assert client.heard("message", by="other") == 0  # all were acknowledged
    client.call("disconnect")


def test_idle_client_is_kept(broker, puppet, version):
    """mosquitto drops a client that is silent for 1.5 times keep-alive."""
    client = puppet(broker.where, version, keepalive_s=2)
    client.call("connect")
    client.wait_until_up()
    time.sleep(4.2)  # by mosquitto's clock
    assert client.news("change") == []
    assert client.state()["opens"] == [0]


def test_refusal_by_mosquitto(mosquitto, tmp_path, puppet, version):
    """`connect` makes one attempt; credentials let the client in."""
    broker = Broker(mosquitto, tmp_path, users={"someone": "secret"})
    broker.start()
    where = {"port": broker.port}
    code = 135 if version == 5 else 5
    try:
        for credentials in ({}, {"user": "someone", "password": "wrong"}):
            client = puppet(where, version, **credentials)
            with pytest.raises(RemoteError, match=r"MQTTRefusedError: .*[Nn]ot authorized") as it:
                client.call("connect")
            assert it.value.code == code
            assert client.change().startswith("MQTTRefusedError")
            assert client.heard("change") == 0
            assert client.state()["opens"] == [0]
        assert puppet(where, version, user="someone", password="secret").call("connect") is False
    finally:
        broker.stop()


def test_slow_loop_loses_nothing(broker, observer, puppet, version):
    """What does not fit comes again; the client asks for it by reconnecting."""
    client = puppet(broker.where, version, clean=False, max_packet=256)
    client.call("connect")
    client.call("subscribe", "down/#", 2)
    client.call("answers", *[5] * 60)
    for number in range(40):
        observer.publish("down/x", f"{number:0200}", 1 + number % 2)
    numbers = [int(client.message().payload)]
    while numbers[-1] != 39:
        numbers.append(int(client.message().payload))
    # A connection that is given up may take the last PUBACK with it: the broker, which still
    # writes to it, meets its reset before that. Then the message comes twice, at QoS 1 alone.
    assert [number for number, _ in itertools.groupby(numbers)] == list(range(40))
    assert [number for number in numbers if number % 2] == list(range(1, 40, 2))
    assert client.heard("message", by="other") == 0
    assert client.state()["dropped"] == 0
    assert "backlog full" in client.wait_until_lost()
    client.call("disconnect")
    client.call("connect")
    assert client.heard("message", by="other") == 0


def test_slow_loop_drops_qos_0(broker, observer, puppet, version):
    client = puppet(broker.where, version, max_packet=256)
    client.call("connect")
    client.call("subscribe", "down/#")
    client.call("answers", "hold")
    for number in range(100):
        observer.publish("down/x", str(number), 0)
    assert client.message().payload == "0"
    observer.publish("up/done", "", 1)
    observer.message()
    client.call("publish", "up/done", "", 1)  # whose acknowledgement comes after all of them
    client.call("go")
    client.call("settle")
    numbers = [int(news[2]) for news in client.news("message")]
    dropped = client.state()["dropped"]
    assert dropped > 50
    assert 1 + len(numbers) + dropped == 100
    assert client.state()["error"] is None


def test_burst(broker, observer, puppet, version):
    """Twenty is what mosquitto sends without waiting for an acknowledgement."""
    client = puppet(broker.where, version, clean=False, max_packet=512)
    client.call("connect")
    client.call("subscribe", "down/#", 1)
    client.call("disconnect")
    for number in range(20):
        observer.publish("down/x", f"{number:0300}")
    client.call("connect")
    assert [int(payload) for payload in client.payloads(20)] == list(range(20))
    assert client.state()["opens"] == [0, 0]


def test_busy_client_lets_other_tasks_run(broker, puppet, version):
    client = puppet(broker.where, version)
    client.call("connect")
    turns, start_s = client.state()["turns"], client.cpu_s()
    client.call("publish_fast", "other/x", "y", 10000)
    possible = (client.cpu_s() - start_s) / 0.01
    assert client.state()["turns"] - turns > possible / 4


def test_loop_may_publish(broker, observer, puppet, version):
    """While messages wait: the acknowledgements must get past them."""
    client = puppet(broker.where, version)
    client.call("connect")
    client.call("subscribe", "down/#", 1)
    client.call("subscribe", "answer", 1)
    client.call("answers", "hold", *["publish"] * 9)
    for number in range(10):  # sent to the client before the first answer comes back to it
        observer.publish("down/x", str(number))
    assert client.message().payload == "0"
    client.call("go")
    found = [client.message() for _ in range(18)]
    assert [each.payload for each in found if each.topic == "answer"] == list("123456789")


def test_loop_may_close(broker, observer, puppet, version):
    client = puppet(broker.where, version)
    client.call("connect")
    client.call("subscribe", "down/#", 1)
    client.call("answers", "close")
    observer.publish("down/x", "last")
    assert client.message().payload == "last"
    assert client.wait_until_over() is None
    assert client.call("connect") is False


def test_many_at_once(broker, observer, puppet, version):
    """Twenty tasks publish through a queue of eight; each message arrives once."""
    client = puppet(broker.where, version, queue=8)
    client.call("connect")
    for qos in (1, 2):
        client.call("publish_numbers", "up/n", 0, 200, qos, 20)
        assert sorted(int(payload) for payload in observer.payloads(200)) == list(range(200))
    assert observer.is_quiet()


def test_bad_arguments(broker, observer, puppet, version):
    client = puppet(broker.where, version)
    client.call("connect")
    for method, *arguments in (
        ("publish", "a/#", "x"),
        ("publish", "", "x", 1),
        ("publish", "a", "x", 3),
        ("publish", "a\0b", "x", 1),
        ("post", "a/+", "x"),
        ("post", "a/+", "x", 1),
        ("subscribe", "a/#/b"),
        ("subscribe", "", 0),
        ("subscribe", "a", 3),
        ("unsubscribe", "a+"),
    ):
        with pytest.raises(RemoteError, match="ValueError"):
            client.call(method, *arguments)
    if version == 4:
        for method, *arguments in (
            ("publish", "a", "x", 1, False, {"content_type": "text"}),
            ("post", "a", "x", 0, False, {"content_type": "text"}),
            ("subscribe", "a", 0, 4),
            ("subscribe", "a", 0, 0, {"subscription_identifier": 1}),
        ):
            with pytest.raises(RemoteError, match=r"ValueError: .*MQTT 5"):
                client.call(method, *arguments)
    client.call("publish", "up/a", "fine", 1)
    assert observer.message().payload == "fine"
    assert client.state()["opens"] == [0]


WRONG_OPTIONS: dict[str, list[Any]] = {
    "keepalive_s": [0, 65536, "60", None, True],
    "will": [["a/#", "x", 0, False]],
    "client_id": [None, 7],
    "user": [7, ["me"]],
    "password": [7],
    "max_packet": [0, 15, "2048", None],
    "timeout_s": [-1, "10", None],
    "queue": [0, "16", None],
    "backoff_cap_s": [-1, "60"],
    "max_message": ["1"],
}


@pytest.mark.parametrize(
    ("option", "value"),
    [(name, value) for name, values in WRONG_OPTIONS.items() for value in values],
)
def test_options_are_checked_when_the_client_is_made(false_broker, puppet, option, value):
    client = puppet(false_broker.where, **{option: value})
    with pytest.raises(RuntimeError, match=r"ValueError|TypeError") as caught:
        client.call("state")
    assert "core" not in str(caught.value).split("Error")[-1]


def test_what_a_session_needs_in_3_1_1(false_broker, puppet):
    for options, text in (
        ({"client_id": "", "clean": False}, "expected one for a session that is kept"),
        ({"password": "secret"}, "password without user needs MQTT 5"),
    ):
        with pytest.raises(RuntimeError, match=text):
            puppet(false_broker.where, **options).call("state")


def test_password_without_user(false_broker_5, puppet):
    client = puppet(false_broker_5.where, 5, password="secret")
    number = client.start("connect")
    link = false_broker_5.accept()
    connect = link.packet()
    assert connect[9] == 0x42  # a password, no user, a clean start
    assert connect.endswith(b"\0\x06secret")
    link.send(false_broker_5.wire.connack())
    assert client.result(number) is False


def test_closed_without_a_connack(either_false_broker, puppet, version):
    client = puppet(either_false_broker.where, version)
    number = client.start("connect")
    link = either_false_broker.accept()
    link.packet()
    link.close()
    name = "3.1.1" if version == 4 else "5"
    with pytest.raises(RemoteError, match=f"perhaps it speaks no MQTT {name}"):
        client.result(number)


def test_code_of_a_disconnect_needs_mqtt_5(false_broker, puppet):
    client = puppet(false_broker.where)
    connected(client, false_broker)
    for values in ((4,), (0, 60)):
        with pytest.raises(RemoteError, match=r"ValueError: .*MQTT 5"):
            client.call("disconnect", *values)
    assert client.state()["error"] is None


def test_second_loop_at_the_same_time(false_broker, puppet):
    """An error for the second, and the first goes on; one after the other is fine."""
    client = puppet(false_broker.where)
    link = connected(client, false_broker)
    client.call("settle")
    with pytest.raises(RemoteError, match="RuntimeError: another task waits"):
        client.call("next_message")
    link.send(false_broker.wire.publish("a", b"for the first"))
    assert client.message().payload == "for the first"
    client.call("stop_listening")
    link.send(false_broker.wire.publish("a", b"for the second"))
    assert client.call("next_message") == "for the second"
