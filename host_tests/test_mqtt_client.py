"""lib/mqtt's client under MicroPython: with a real mosquitto, mostly over mutual TLS, and with
brokers that are silent, broken or hostile.
"""

import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from host_tests.mqtt_certificates import Authority
from host_tests.mqtt_support import (
    Broker,
    FalseBroker,
    FalseLink,
    Observer,
    Puppet,
    RemoteError,
)
from mqtt import codec

CONNACK = b"\x20\x02\x00\x00"
PINGREQ = b"\xc0\x00"
DISCONNECT = b"\xe0\x00"
MakePuppet = Callable[..., Puppet]


@pytest.fixture
def broker(mosquitto: Path, tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(mosquitto, tmp_path)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def observer(broker: Broker) -> Iterator[Observer]:
    with Observer(broker.port) as observer:
        observer.subscribe("up/#")
        yield observer


@pytest.fixture
def false_broker() -> Iterator[FalseBroker]:
    with FalseBroker() as false_broker:
        yield false_broker


@pytest.fixture
def puppet(micropython: Path) -> Iterator[MakePuppet]:
    """A function that makes a client; clean sessions, unless told otherwise."""
    puppets = []

    def make(where: dict[str, Any], **keywords: object) -> Puppet:
        keywords.setdefault("clean", True)
        puppets.append(Puppet(micropython, where, **keywords))
        return puppets[-1]

    yield make
    for each in puppets:
        each.__exit__()


def connected(
    client: Puppet, false_broker: FalseBroker, session_present: bool = False
) -> FalseLink:
    """Connect a puppet to a false broker."""
    number = client.start("connect")
    link = false_broker.welcome(session_present)
    assert client.result(number) is session_present
    return link


# With mosquitto


def test_publish(broker, observer, puppet):
    client = puppet(broker.where)
    assert client.call("connect") is False
    client.call("publish", "up/zero", "a")
    client.call("publish", "up/one", "b", 1)
    client.call("publish", "up/kept", "c", 1, True)
    client.call("publish", "up/empty", "", 1)
    client.call("publish", "up/é", "ü" * 1000, 1)
    assert [observer.message() for _ in range(5)] == [
        ("up/zero", "a", 0, False),
        ("up/one", "b", 1, False),
        ("up/kept", "c", 1, False),
        ("up/empty", "", 1, False),
        ("up/é", "ü" * 1000, 1, False),
    ]
    with Observer(broker.port) as late:
        late.subscribe("up/kept")
        assert late.message() == ("up/kept", "c", 1, True)


def test_subscribe(broker, observer, puppet):
    client = puppet(broker.where, max_packet=4096)
    client.call("connect")
    observer.publish("down/kept", "before", retain=True)
    assert client.call("subscribe", "down/+", 1) == 1
    assert client.call("subscribe", "down/zero/#") == 0
    assert client.message() == ("down/kept", "before", True)
    for topic, payload, qos in (
        ("down/a", "x", 1),
        ("down/b", "", 0),
        ("down/c", "é" * 2000, 1),
        ("down/zero/z", "y", 1),
    ):
        observer.publish(topic, payload, qos)
        assert client.message() == (topic, payload, False)
    client.call("unsubscribe", "down/+")
    observer.publish("down/a", "unseen")
    assert client.heard("message") == 0


def test_disconnect_keeps_the_will_back(broker, observer, puppet):
    client = puppet(broker.where, will=("up/will", "gone", 1, False))
    client.call("connect")
    client.call("disconnect")
    assert observer.is_quiet()
    assert client.heard("lost") == 0
    with pytest.raises(RemoteError, match="MQTTConnectionError: not connected"):
        client.call("check")
    with pytest.raises(RemoteError, match="MQTTConnectionError: not connected"):
        client.call("publish", "up/a", "b")
    client.call("disconnect")  # again: nothing happens


@pytest.mark.parametrize("end", ["close", "kill"])
def test_will(broker, observer, puppet, end):
    client = puppet(broker.where, will=("up/will", "gone", 1, True))
    client.call("connect")
    client.kill() if end == "kill" else client.call("close")
    assert observer.message() == ("up/will", "gone", 1, False)
    with Observer(broker.port) as late:
        late.subscribe("up/will")
        assert late.message() == ("up/will", "gone", 1, True)


def test_session_survives(broker, observer, puppet):
    client = puppet(broker.where, clean=False)
    assert client.call("connect") is False
    client.call("subscribe", "down/#", 1)
    client.call("close")
    for payload in "abc":
        observer.publish("down/x", payload)
    assert client.call("connect") is True
    assert [client.message()[1] for _ in range(3)] == ["a", "b", "c"]
    client.call("disconnect")
    assert client.call("connect") is True
    assert client.heard("message") == 0  # all were acknowledged
    client.call("disconnect")


def test_broker_dies(broker, puppet):
    """What it took and did not acknowledge is published again, to the one that comes after it."""
    client = puppet(broker.where, clean=False)
    client.call("connect")
    client.call("publish", "up/x", "before", 1)
    broker.signal(signal.SIGSTOP)
    numbers = [client.start("publish", "up/x", payload, 1) for payload in "abc"]
    client.call("publish", "up/x", "QoS 0: gone")
    broker.kill()
    for number in numbers:
        with pytest.raises(RemoteError, match="MQTTUnacknowledgedError"):
            client.result(number)
    client.wait_until_lost()
    with pytest.raises(RemoteError, match=r"MQTTConnectionError: .*ECONNREFUSED"):
        client.call("connect")
    broker.start()
    with Observer(broker.port) as observer:
        observer.subscribe("up/#")
        client.call("connect")
        client.call("publish", "up/x", "after", 1)
        assert [observer.message()[1] for _ in range(4)] == ["a", "b", "c", "after"]


@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "publishing"])
def test_stopped_broker_is_noticed(broker, puppet, is_busy):
    """Within 1.5 times keep-alive, although its sockets take all that is written to them."""
    keepalive_s = 2
    client = puppet(broker.where, keepalive_s=keepalive_s)
    client.call("connect")
    broker.signal(signal.SIGSTOP)
    try:
        start = time.monotonic()
        while is_busy and not client.heard("lost"):
            client.start("publish", "up/x", "y")
        reason = client.wait_until_lost()
        assert keepalive_s <= time.monotonic() - start <= keepalive_s * 1.5 + 0.3
        assert "nothing heard within 2 s" in reason
    finally:
        broker.signal(signal.SIGCONT)
    assert client.call("connect") is False


def test_idle_client_is_kept(broker, puppet):
    """mosquitto drops a client that is silent for 1.5 times keep-alive."""
    client = puppet(broker.where, keepalive_s=1)
    client.call("connect")
    time.sleep(4)
    client.call("check")
    assert client.heard("lost") == 0


def test_oversized_message_is_refused(broker, observer, puppet):
    client = puppet(broker.where, max_packet=256)
    client.call("connect")
    client.call("subscribe", "down/#")
    observer.publish("down/x", "y" * 245)  # 11 bytes go before it
    assert client.message()[1] == "y" * 245
    observer.publish("down/x", "y" * 246)
    assert "packet of 257 bytes, expected up to 256" in client.wait_until_lost()
    assert client.call("connect") is False
    client.call("subscribe", "down/#")
    observer.publish("down/x", "small")
    assert client.message()[1] == "small"


def test_refusal_by_mosquitto(mosquitto, tmp_path, puppet):
    broker = Broker(mosquitto, tmp_path, anonymous=False)
    broker.start()
    try:
        client = puppet({"port": broker.port})
        with pytest.raises(RemoteError, match=r"MQTTRefusedError: .* refused: not authorized"):
            client.call("connect")
    finally:
        broker.stop()


def test_slow_handler_loses_nothing(broker, observer, puppet):
    """What exceeds the backlog at QoS 1 comes again; the client asks for it by reconnecting."""
    client = puppet(broker.where, clean=False, max_packet=256)
    client.call("connect")
    client.call("subscribe", "down/#", 1)
    client.call("answers", *[(20, None)] * 100)
    for number in range(30):
        observer.publish("down/x", f"{number:0200}")
    received: list[int] = []
    reconnects = 0
    while len(received) < 30:
        kind, *message = client.event()
        if kind == "message":
            received.append(int(message[1]))
        else:
            assert "backlog full" in client.reason()
            assert client.call("connect") is True
            reconnects += 1
    assert received == list(range(30))
    assert reconnects
    time.sleep(0.1)  # the last one is acknowledged when its handler is done
    client.call("disconnect")
    client.call("connect")
    assert client.heard("message") == 0


def test_overrun(false_broker, puppet):
    """The order of messages is kept: after one that does not fit, none is taken."""
    client = puppet(false_broker.where, max_packet=256)
    link = connected(client, false_broker)
    large = b"\x32\xcd\x01\x00\x01a\x00\x01" + b"x" * 200
    for _ in range(20):  # these leave nothing behind
        link.send(large)
        client.message()
        assert link.packet() == b"\x40\x02\x00\x01"
    client.call("answers", (300, None))
    link.send(large)
    client.message()
    link.send(large + b"\x32\x06\x00\x01a\x00\x02y")  # these fit
    link.send(large + b"\x32\x06\x00\x01a\x00\x03z" + b"\x30\x04\x00\x01az")
    assert client.event()[2] == "x" * 200
    assert client.event()[2] == "y"
    assert client.event() == ["lost"]
    assert [link.packet()[3] for _ in range(3)] == [1, 1, 2]
    assert client.call("counts")["dropped"] == 1


def test_slow_handler_drops_qos_0(broker, observer, puppet):
    client = puppet(broker.where, max_packet=256)
    client.call("connect")
    client.call("subscribe", "down/#")
    client.call("answers", (500, None))
    for number in range(100):
        observer.publish("down/x", str(number), 0)
    assert client.message()[1] == "0"
    time.sleep(0.6)
    counts = client.call("counts")
    received = 1 + client.heard("message")
    assert counts["dropped"] > 50
    assert received + counts["dropped"] == 100
    client.call("check")


def test_burst_does_not_overrun_a_quick_handler(broker, observer, puppet):
    """Twenty is what mosquitto sends without waiting for an acknowledgement."""
    client = puppet(broker.where, clean=False, max_packet=512)
    client.call("connect")
    client.call("subscribe", "down/#", 1)
    client.call("disconnect")
    for number in range(20):
        observer.publish("down/x", f"{number:0300}")
    client.call("connect")
    assert [int(client.event()[2]) for _ in range(20)] == list(range(20))
    assert client.heard("lost") == 0


def test_busy_client_lets_other_tasks_run(broker, puppet):
    client = puppet(broker.where)
    client.call("connect")
    turns = client.call("counts")["turns"]
    start = time.monotonic()
    client.call("publish_fast", "other/x", "y", 20000)
    possible = (time.monotonic() - start) / 0.01
    assert client.call("counts")["turns"] - turns > possible / 4


def test_handler_may_publish(broker, observer, puppet):
    """While others wait in the backlog: their acknowledgements must get past them."""
    client = puppet(broker.where)
    client.call("connect")
    client.call("subscribe", "down/#", 1)
    client.call("subscribe", "answer", 1)
    client.call("answers", *[(0, "publish")] * 10)
    for number in range(10):
        observer.publish("down/x", str(number))
    found = [client.message()[:2] for _ in range(20)]
    assert [payload for topic, payload in found if topic == "answer"] == list("0123456789")


# With a broker that does as it is told


@pytest.fixture
def false_tls_broker(tmp_path: Path) -> Iterator[FalseBroker]:
    with FalseBroker(Authority(tmp_path, "false-ca")) as false_broker:
        yield false_broker


def test_busy_broker_lets_other_tasks_run(false_tls_broker, puppet):
    client = puppet(false_tls_broker.where)
    link = connected(client, false_tls_broker)
    turns = client.call("counts")["turns"]
    start = time.monotonic()
    link.send(b"\xd0\x00" * 200_000 + b"\x30\x07\x00\x01alast")
    assert client.message()[1] == "last"
    possible = (time.monotonic() - start) / 0.01
    assert client.call("counts")["turns"] - turns > possible / 4


def test_packets_do_not_wait_for_each_other(false_tls_broker, puppet):
    """Nagle's algorithm holds a small packet back until the one before it is acknowledged."""
    client = puppet(false_tls_broker.where)
    link = connected(client, false_tls_broker)
    for _ in range(20):
        link.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        start = time.monotonic()
        client.start("publish_fast", "a", "x", 3)
        for _ in range(3):
            link.packet()
        assert time.monotonic() - start < 0.035  # Linux acknowledges after 40 ms at the earliest


def test_reset_over_tls(false_tls_broker, puppet):
    client = puppet(false_tls_broker.where)
    number = client.start("connect")
    false_tls_broker.accept().reset()
    with pytest.raises(RemoteError, match=r"MQTTConnectionError: TLSError: .* broke off \(104\)"):
        client.result(number)
    connected(client, false_tls_broker).reset()
    assert client.wait_until_lost() == ("MQTTConnectionError: OSError: [Errno 104] ECONNRESET")


def test_broken_tls_record(false_tls_broker, puppet):
    client = puppet(false_tls_broker.where)
    link = connected(client, false_tls_broker)
    os.write(link.socket.fileno(), b"nonsense")
    assert "TLS error -29184" in client.wait_until_lost()


def test_failed_handshakes_leave_nothing_behind(false_tls_broker, puppet):
    """No open file; and none that the garbage collector closes when its number is in use again."""
    client = puppet(false_tls_broker.where, timeout_s=1)
    before = client.call("counts")
    for _ in range(3):  # silent
        number = client.start("connect")
        link = false_tls_broker.accept(handshake=False)
        with pytest.raises(RemoteError, match="no connection within 1 s"):
            client.result(number)
    for _ in range(3):  # closed
        number = client.start("connect")
        false_tls_broker.accept(handshake=False).close()
        with pytest.raises(RemoteError, match="broke off"):
            client.result(number)
    link = connected(client, false_tls_broker)
    during = client.call("counts")
    assert during["files"] == before["files"] + 1
    client.start("publish", "a", "x", 1)
    assert publications(link, 1)
    client.call("close")
    after = client.call("counts")
    assert after["files"] == before["files"]
    assert after["heap"] < before["heap"] + 8000


def test_untrusted_servers_leave_nothing_behind(broker, tmp_path, puppet):
    other = Authority(tmp_path, "other-ca")
    client = puppet({**broker.where, "ca": str(other.path)})
    before = client.call("counts")
    for _ in range(3):
        with pytest.raises(RemoteError, match=r"TLSError: .* not correctly signed"):
            client.call("connect")
    assert client.call("counts")["files"] == before["files"]


def test_silent_tls_server_stops_nothing_else(false_broker, broker, puppet):
    client = puppet({**broker.where, **false_broker.where}, timeout_s=1)
    turns = client.call("counts")["turns"]
    start = time.monotonic()
    with pytest.raises(RemoteError, match="MQTTTimeoutError: no connection within 1 s"):
        client.call("connect")
    assert 0.9 < time.monotonic() - start < 1.5
    assert client.call("counts")["turns"] - turns > 50


REFUSALS = {
    1: "protocol version",
    2: "client id",
    3: "server unavailable",
    4: "user name or password",
    5: "not authorized",
}
ANSWERS_TO_CONNECT = {
    "nothing": (None, "MQTTTimeoutError: no CONNACK within 1 s"),
    "half a CONNACK": (b"\x20\x02\x00", "MQTTTimeoutError: no CONNACK within 1 s"),
    "the end": (b"", "MQTTConnectionError: closed by the broker"),
    "HTTP": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "MQTTProtocolError: packet type 4: flags 8"),
    "zeros": (bytes(100), "MQTTProtocolError: packet type 0"),
    "another packet": (b"\xd0\x00", "MQTTProtocolError: packet type 13, expected CONNACK"),
    "a message first": (b"\x30\x03\x00\x01a" + CONNACK, "MQTTProtocolError: packet type 3"),
    "greatest length": (b"\x30\xff\xff\xff\x7f", "MQTTProtocolError: packet of 268435460 bytes"),
    "session of a clean client": (b"\x20\x02\x01\x00", "MQTTProtocolError: CONNACK: session"),
    "reserved code": (b"\x20\x02\x00\x06", "MQTTProtocolError: CONNACK: return code 6"),
    **{
        reason: (
            b"\x20\x02\x00" + bytes((code,)),
            f"MQTTRefusedError: connection refused: {reason}",
        )
        for code, reason in REFUSALS.items()
    },
}


def test_answers_to_connect(false_broker, puppet):
    """One client meets them all, and is none the worse for it."""
    client = puppet(false_broker.where, timeout_s=1)
    before = client.call("counts")
    for name, (answer, expected) in ANSWERS_TO_CONNECT.items():
        number = client.start("connect")
        link = false_broker.accept()
        link.packet()
        if answer:
            link.send(answer)
        elif answer == b"":
            link.close()
        with pytest.raises(RemoteError) as caught:
            client.result(number)
        assert str(caught.value).startswith(expected), name
        if answer != b"":
            assert link.packet() == b"", name  # the client has closed
    after = client.call("counts")
    assert after["files"] == before["files"]
    assert after["heap"] < before["heap"] + 4000
    assert client.heard("lost") == 0  # it never had a connection
    connected(client, false_broker)


LATER_MISTAKES = {
    "a second CONNACK": (CONNACK, "a second CONNACK"),
    "unknown PUBACK": (b"\x40\x02\x12\x34", "packet type 4 for unknown id 4660"),
    "unknown SUBACK": (b"\x90\x03\x12\x34\x00", "packet type 9 for unknown id 4660"),
    "unknown UNSUBACK": (b"\xb0\x02\x12\x34", "packet type 11 for unknown id 4660"),
    "PUBACK for a SUBSCRIBE": (b"\x40\x02\x00\x01", "packet type 4 for unknown id 1"),
    "QoS 2": (b"\x34\x05\x00\x01a\x00\x01", "PUBLISH: QoS 2"),
    "topic with a wildcard": (b"\x30\x03\x00\x01#", "topic '#'"),
    "topic in malformed UTF-8": (b"\x30\x05\x00\x03\xed\xa0\x80", "not UTF-8"),
    "a mistake after a message": (b"\x30\x03\x00\x01a\xf0", "packet type 15"),
    "the end": (b"", "closed by the broker"),
    "a reset": (None, "MQTTConnectionError: OSError: [Errno 104] ECONNRESET"),
}


def test_later_mistakes(false_broker, puppet):
    client = puppet(false_broker.where)
    for name, (packet, expected) in LATER_MISTAKES.items():
        link = connected(client, false_broker)
        client.call("use_id_after", 0)
        number = client.start("subscribe", "a")
        link.packet()
        if packet:
            link.send(packet)
        else:
            link.reset() if packet is None else link.close()
        assert expected in client.wait_until_lost(), name
        with pytest.raises(RemoteError, match=re.escape(expected)):
            client.result(number)


def test_one_byte_at_a_time(false_broker, puppet):
    client = puppet(false_broker.where)
    number = client.start("connect")
    link = false_broker.accept()
    link.packet()
    stream = CONNACK + b"\x30\x83\x01\x00\x01a" + b"x" * 128 + b"\xd0\x00" + b"\x30\x04\x00\x01by"
    for index in range(len(stream)):
        link.send(stream[index : index + 1])
        time.sleep(0.001)
    assert client.result(number) is False
    assert client.message() == ("a", "x" * 128, False)
    assert client.message() == ("b", "y", False)


@pytest.mark.parametrize("qos", [0, 1])
def test_packets_that_share_a_read(false_broker, puppet, qos):
    """More at a time than the backlog holds; the handler is quick, so none is left out."""
    client = puppet(false_broker.where, max_packet=2048)
    link = connected(client, false_broker)
    packets = (
        codec.encode_publish("a", str(number), qos, False, number + 1) for number in range(150)
    )
    link.send(b"".join(packets))
    for number in range(150):
        assert client.event() == ["message", "a", str(number), False]
    assert client.heard("lost") == 0


def test_message_is_acknowledged_after_the_handler(false_broker, puppet):
    client = puppet(false_broker.where)
    link = connected(client, false_broker)
    client.call("answers", (300, None))
    link.send(b"\x32\x06\x00\x01a\x12\x34x")
    assert client.message() == ("a", "x", False)
    assert link.is_silent(0.2)
    assert link.packet() == b"\x40\x02\x12\x34"


def test_message_is_not_acknowledged_when_the_handler_fails(false_broker, puppet):
    client = puppet(false_broker.where)
    link = connected(client, false_broker)
    client.call("answers", (0, "raise"))
    link.send(b"\x32\x06\x00\x01a\x00\x01x")
    assert "ValueError: not today" in client.wait_until_lost()
    assert link.packet() == b""


def test_handler_that_outlives_its_connection(false_broker, puppet):
    """It is left to finish; its message is not acknowledged to the next connection."""
    client = puppet(false_broker.where)
    link = connected(client, false_broker)
    client.call("answers", (300, None))
    link.send(b"\x32\x06\x00\x01a\x00\x01x" + b"\x32\x06\x00\x01a\x00\x02y")
    assert client.message()[1] == "x"
    link.close()
    client.wait_until_lost()
    link = connected(client, false_broker)
    link.send(b"\x32\x06\x00\x01a\x00\x03z")
    assert client.message()[1] == "z"
    assert link.packet() == b"\x40\x02\x00\x03"
    assert client.heard("message") == 0


def test_first_error_stays(false_broker, puppet):
    client = puppet(false_broker.where)
    link = connected(client, false_broker)
    client.call("answers", (300, "raise"))
    link.send(b"\x32\x06\x00\x01a\x00\x01x")
    client.message()
    link.close()
    assert "closed by the broker" in client.wait_until_lost()
    time.sleep(0.3)
    assert client.heard("lost") == 0
    assert "closed by the broker" in client.reason()


def publications(link: FalseLink, count: int) -> list[tuple[int, int, bytes]]:
    """The next `count` packets, all "PUBLISH a" at QoS 1: (flags, packet id, payload)."""
    found = []
    for _ in range(count):
        packet = link.packet()
        assert packet[:1] in (b"\x32", b"\x3a")
        _, at_topic, rest = packet.partition(b"\x00\x01a")
        assert at_topic
        found.append((packet[0] & 15, rest[0] << 8 | rest[1], rest[2:]))
    return found


@pytest.mark.parametrize(("session_present", "flags"), [(True, 0x0A), (False, 0x02)])
def test_unacknowledged_messages_are_sent_again(false_broker, puppet, session_present, flags):
    client = puppet(false_broker.where, clean=False)
    link = connected(client, false_broker)
    numbers = [client.start("publish", "a", payload, 1) for payload in "xyz"]
    assert publications(link, 3) == [(2, 1, b"x"), (2, 2, b"y"), (2, 3, b"z")]
    link.send(b"\x40\x02\x00\x02")
    client.result(numbers[1])
    link.close()
    for number in (numbers[0], numbers[2]):
        with pytest.raises(RemoteError, match="MQTTUnacknowledgedError: closed by the broker"):
            client.result(number)

    link = connected(client, false_broker, session_present)
    assert publications(link, 2) == [(flags, 1, b"x"), (flags, 3, b"z")]
    link.send(b"\x40\x02\x00\x01")
    number = client.start("publish", "a", "new", 1)
    assert publications(link, 1) == [(2, 4, b"new")]
    link.send(b"\x40\x02\x00\x04")
    client.result(number)
    link.close()
    client.wait_until_lost()

    link = connected(client, false_broker, True)
    assert publications(link, 1) == [(0x0A, 3, b"z")]
    link.close()
    client.wait_until_lost()

    link = connected(client, false_broker, False)
    assert publications(link, 1) == [(0x02, 3, b"z")]
    link.send(b"\x40\x02\x00\x03")
    assert link.is_silent(0.2)


def test_message_sent_again_has_all_its_time_again(false_broker, puppet):
    client = puppet(false_broker.where, clean=False, timeout_s=1, keepalive_s=4)
    link = connected(client, false_broker)
    client.start("publish", "a", "x", 1)
    publications(link, 1)
    link.close()
    client.wait_until_lost()
    time.sleep(1)
    link = connected(client, false_broker, True)
    publications(link, 1)
    time.sleep(0.7)
    link.send(b"\x40\x02\x00\x01")
    assert client.heard("lost") == 0


def test_close_wakes_those_who_wait(false_broker, puppet):
    client = puppet(false_broker.where)
    link = connected(client, false_broker)
    publish = client.start("publish", "a", "x", 1)
    subscribe = client.start("subscribe", "a")
    link.packet()
    link.packet()
    client.call("close")
    with pytest.raises(RemoteError, match="MQTTUnacknowledgedError: closed"):
        client.result(publish)
    with pytest.raises(RemoteError, match="MQTTConnectionError: closed"):
        client.result(subscribe)
    link = connected(client, false_broker)
    assert publications(link, 1) == [(2, 1, b"x")]
    assert link.is_silent(0.2)  # only messages are sent again


def test_window(false_broker, puppet):
    client = puppet(false_broker.where)
    link = connected(client, false_broker)
    numbers = [client.start("publish", "a", str(i), 1) for i in range(10)]
    assert [packet_id for _, packet_id, _ in publications(link, 8)] == list(range(1, 9))
    assert link.is_silent(0.2)
    link.send(b"\x40\x02\x00\x05" + b"\x40\x02\x00\x01")
    assert publications(link, 2) == [(2, 9, b"8"), (2, 10, b"9")]
    for packet_id in (2, 3, 4, 6, 7, 8, 9, 10):
        link.send(b"\x40\x02\x00" + bytes((packet_id,)))
    for number in numbers:
        client.result(number)


def test_packet_ids_wrap_and_skip_those_in_use(false_broker, puppet):
    client = puppet(false_broker.where)
    link = connected(client, false_broker)
    client.start("publish", "a", "x", 1)
    client.start("publish", "a", "x", 1)
    client.call("use_id_after", 65533)
    for _ in range(3):
        client.start("publish", "a", "x", 1)
    assert [packet_id for _, packet_id, _ in publications(link, 5)] == [1, 2, 65534, 65535, 3]


def test_missing_acknowledgement_ends_the_connection(false_broker, puppet):
    client = puppet(false_broker.where, timeout_s=1, keepalive_s=60)
    link = connected(client, false_broker)
    number = client.start("publish", "a", "x", 1)
    publications(link, 1)
    assert "no answer within 1 s" in client.wait_until_lost()
    with pytest.raises(RemoteError, match="MQTTUnacknowledgedError: no answer"):
        client.result(number)
    assert link.packet() == b""


def test_refused_subscription(false_broker, puppet):
    client = puppet(false_broker.where)
    link = connected(client, false_broker)
    number = client.start("subscribe", "secret/#", 1)
    assert link.packet() == b"\x82\x0d\x00\x01\x00\x08secret/#\x01"
    link.send(b"\x90\x03\x00\x01\x80")
    with pytest.raises(RemoteError, match="MQTTRefusedError: subscription to 'secret/#' refused"):
        client.result(number)
    client.call("check")


def test_broker_that_takes_nothing(false_broker, puppet):
    """A socket that is full for too long ends the connection, for all who wait for it."""
    client = puppet(false_broker.where, timeout_s=1, keepalive_s=60)
    connected(client, false_broker)
    numbers = [client.start("publish_fast", "a", "x" * 2000, 100000) for _ in range(3)]
    start = time.monotonic()
    for number in numbers:
        with pytest.raises(RemoteError, match="MQTTTimeoutError: packet not taken within 1 s"):
            client.result(number)
    assert time.monotonic() - start < 5
    assert "packet not taken" in client.wait_until_lost()
    connected(client, false_broker)


def test_pings(false_broker, puppet):
    """Half of keep-alive after the last packet; and when nothing is heard, although we send."""
    client = puppet(false_broker.where, keepalive_s=2)
    link = connected(client, false_broker)
    start = time.monotonic()
    assert link.packet() == PINGREQ
    assert 0.9 < time.monotonic() - start < 1.5
    link.send(b"\xd0\x00")
    assert link.packet() == PINGREQ
    assert 1.9 < time.monotonic() - start < 2.9
    link.send(b"\xd0\x00")
    for _ in range(9):
        client.call("publish", "a", "x")
        time.sleep(0.2)
    found = []
    while not link.is_silent(0.05):
        found.append(link.packet()[0])
    assert (found.count(0x30), found.count(PINGREQ[0])) == (9, 1)


def test_cancelled_publish(false_broker, puppet):
    """It gives up waiting; the message is on its way and its acknowledgement is expected."""
    client = puppet(false_broker.where)
    link = connected(client, false_broker)
    number = client.start("publish", "a", "x", 1)
    publications(link, 1)
    client.call("cancel", number)
    with pytest.raises(RemoteError, match="CancelledError"):
        client.result(number)
    link.send(b"\x40\x02\x00\x01")
    assert client.heard("lost") == 0
    client.call("check")


def stuck(client: Puppet) -> int:
    """Publish until the broker's socket takes no more; returns the number of that command."""
    number = client.start("publish_fast", "a", "x" * 2000, 3000)
    time.sleep(0.3)
    return number


def test_cancelled_publish_that_waits_for_its_turn(false_broker, puppet):
    """Nothing of it is sent, nor awaited."""
    client = puppet(false_broker.where, timeout_s=2, keepalive_s=4)
    link = connected(client, false_broker)
    busy = stuck(client)
    number = client.start("publish", "a", "cancelled", 1)
    client.call("cancel", number)
    with pytest.raises(RemoteError, match="CancelledError"):
        client.result(number)
    for _ in range(3000):
        assert link.packet()[0] == 0x30
    client.result(busy)
    client.start("publish", "a", "next", 1)
    assert publications(link, 1) == [(2, 2, b"next")]
    link.send(b"\x40\x02\x00\x02")
    time.sleep(3)
    assert client.heard("lost") == 0


def test_cancelled_publish_that_is_half_sent(false_broker, puppet):
    """The connection is beyond repair; the message is sent again."""
    false_broker.shrink()
    client = puppet(false_broker.where)
    connected(client, false_broker)
    number = client.start("publish_zeros", "a", 12000, 1)
    waiting = client.start("subscribe", "a")
    client.call("cancel", number)
    with pytest.raises(RemoteError, match="CancelledError"):
        client.result(number)
    assert "cancelled in the middle of a packet" in client.wait_until_lost()
    with pytest.raises(RemoteError, match="MQTTConnectionError: cancelled in the middle"):
        client.result(waiting)
    number = client.start("connect")
    link = false_broker.welcome()
    assert publications(link, 1) == [(2, 1, bytes(12000))]
    client.result(number)


def test_cancelled_connect(false_broker, puppet):
    client = puppet(false_broker.where)
    number = client.start("connect")
    link = false_broker.accept()
    link.packet()
    client.call("cancel", number)
    with pytest.raises(RemoteError, match="CancelledError"):
        client.result(number)
    assert link.packet() == b""
    connected(client, false_broker)


def test_connect_again_closes_the_old_connection(false_broker, puppet):
    client = puppet(false_broker.where)
    link = connected(client, false_broker)
    connected(client, false_broker)
    assert link.packet() == b""
    assert client.heard("lost") == 0


def test_disconnect(false_broker, puppet):
    client = puppet(false_broker.where)
    link = connected(client, false_broker)
    client.call("disconnect")
    assert link.packet() == DISCONNECT
    assert link.packet() == b""


def test_bad_arguments(false_broker, puppet):
    client = puppet(false_broker.where)
    link = connected(client, false_broker)
    for method, *arguments in (
        ("publish", "a/#", "x"),
        ("publish", "", "x", 1),
        ("publish", "a", "x", 2),
        ("subscribe", "a/#/b"),
        ("unsubscribe", "a+"),
    ):
        with pytest.raises(RemoteError, match="ValueError"):
            client.call(method, *arguments)
    client.start("publish", "a", "x", 1)
    assert publications(link, 1)[0][0] == 2  # and nothing was sent before it


@pytest.mark.parametrize("keepalive_s", [0, 65536])
def test_keepalive_has_limits(false_broker, puppet, keepalive_s):
    client = puppet(false_broker.where, keepalive_s=keepalive_s)
    with pytest.raises(RuntimeError, match="keepalive_s"):
        client.call("check")
