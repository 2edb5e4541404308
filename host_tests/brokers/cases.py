"""The conformance cases for MQTT 3.1.1 and 5: our client on one side, paho's on the other.

A case fails by any exception; `UnsupportedError` means that the broker says so itself.
"""

import hashlib
import struct
from collections.abc import Callable

from host_tests.brokers.bench import Bench, UnsupportedError, UntestedError, expect_qos
from host_tests.brokers.peer import RefusedError
from host_tests.mqtt.puppet import Puppet, RemoteError

COUNT = 20  # messages, where a few are not enough
LARGE_LEN = 1_000_000
_PIECE_LEN = 1024
_REFUSALS = (0x80, 0x87)  # Not authorized is MQTT 5's

Case = Callable[[Bench], None]


def numbered(count: int = COUNT) -> list[str]:
    return [f"{number:06}" for number in range(count)]


def wait_until_up_again(device: Puppet) -> None:
    """Wait for a loss, and for the connection after it."""
    device.wait_until_lost()
    device.wait_until_up()


def refusal(device: Puppet, method: str, *arguments: object) -> int | None:
    """The code of the MQTTRefusedError that a command raises; None if it raises nothing."""
    try:
        device.call(method, *arguments)
    except RemoteError as error:
        if error.name != "MQTTRefusedError":
            raise
        return error.code
    return None


def connect(bench: Bench) -> None:
    device = bench.device()
    assert device.call("connect") is False
    device.call("subscribe", bench.topic, 1)  # some keep no session without a subscription
    device.call("disconnect")
    assert device.call("connect") is True
    device.call("close")
    assert device.call("connect") is True
    device.call("disconnect")
    device = bench.device(clean=True)
    assert device.call("connect") is False


def publish_qos_0(bench: Bench) -> None:
    _publish(bench, 0)


def publish_qos_1(bench: Bench) -> None:
    _publish(bench, 1)


def publish_qos_2(bench: Bench) -> None:
    _publish(bench, 2)


def _publish(bench: Bench, qos: int) -> None:
    peer = bench.peer()
    expect_qos(peer.subscribe(f"{bench.topic}/#"), qos)
    device = bench.connected()
    device.call("publish_numbers", f"{bench.topic}/a", 0, COUNT, qos, 8 if qos else 1)
    device.call("publish", f"{bench.topic}/é", "", qos)
    device.call("publish", f"{bench.topic}/long", "ü" * 300, qos)
    seen = [peer.message() for _ in range(COUNT + 2)] + peer.rest()
    payloads = [*numbered(), "", "ü" * 300]
    assert [each.payload.decode() for each in seen] == payloads
    assert {each.topic for each in seen} == {f"{bench.topic}/{name}" for name in ("a", "é", "long")}
    assert [each.qos for each in seen] == [qos] * len(seen)
    assert device.news("change") == [["change", None]]


def receive_qos_0(bench: Bench) -> None:
    _receive(bench, 0)


def receive_qos_1(bench: Bench) -> None:
    _receive(bench, 1)


def receive_qos_2(bench: Bench) -> None:
    _receive(bench, 2)


def _receive(bench: Bench, qos: int) -> None:
    device = bench.connected(max_packet=4096)
    expect_qos(device.call("subscribe", f"{bench.topic}/+", qos), qos)
    peer = bench.peer()
    payloads = [*numbered(), "", "ü" * 300]
    sent = [peer.post(f"{bench.topic}/ä", payload, qos) for payload in payloads]
    for each in sent:
        each.wait_for_publish(10)
    got = [device.message() for _ in payloads]
    assert [each.payload for each in got] == payloads
    assert {(each.topic, each.qos, each.retain) for each in got} == {
        (f"{bench.topic}/ä", qos, False)
    }
    assert device.heard("message") == 0
    assert device.news("change") == [["change", None]]


def unsubscribe(bench: Bench) -> None:
    device = bench.connected()
    device.call("subscribe", f"{bench.topic}/#", 1)
    peer = bench.peer()
    peer.publish(f"{bench.topic}/a", "1")
    assert device.message().payload == "1"
    device.call("unsubscribe", f"{bench.topic}/#")
    peer.publish(f"{bench.topic}/a", "2")
    assert device.heard("message") == 0


def wildcards(bench: Bench) -> None:
    device = bench.connected()
    device.call("subscribe", f"{bench.topic}/+/c", 1)
    device.call("subscribe", f"{bench.topic}/d/#", 1)
    peer = bench.peer()
    matching = ("a/c", "/c", "d", "d/e/f")
    for name in ("a", "a/b/c", *matching, "dd"):
        peer.publish(f"{bench.topic}/{name}", name)
    assert device.payloads(len(matching)) == list(matching)
    assert device.heard("message") == 0


def retained(bench: Bench) -> None:
    topic = f"{bench.topic}/kept"
    device = bench.connected()
    device.call("publish", topic, "ours", 1, True)
    with bench.late_peer() as peer:
        peer.subscribe(topic)
        seen = peer.message()
        assert (seen.payload, seen.retain) == (b"ours", True)
        peer.publish(topic, "theirs", 1, True)
    device.call("subscribe", topic, 1)
    message = device.message()
    assert (message.payload, message.retain) == ("theirs", True)
    device.call("publish", topic, "", 1, True)  # clears it
    assert (device.message().payload, device.heard("message")) == ("", 0)
    with bench.late_peer() as peer:
        peer.subscribe(topic)
        assert peer.rest() == []


def will(bench: Bench) -> None:
    peer = bench.peer()
    peer.subscribe(f"{bench.topic}/#")
    will = [f"{bench.topic}/will", "gone", 1, True]
    device = bench.device(will=will)
    device.call("connect")
    device.call("disconnect")
    assert peer.rest() == []
    device.call("connect")
    device.kill()
    seen = peer.message()
    assert (seen.topic, seen.payload, seen.qos) == (f"{bench.topic}/will", b"gone", 1)
    with bench.late_peer() as late:
        late.subscribe(f"{bench.topic}/will")
        assert late.message().retain
        late.publish(f"{bench.topic}/will", "", 1, True)


def subscription_refused(bench: Bench) -> None:
    """What the broker's rules forbid is an error with a code, and no reason to reconnect."""
    if not bench.broker.forbidden:
        raise UntestedError
    device = bench.connected()
    code = refusal(device, "subscribe", bench.broker.forbidden, 1)
    if code is None:
        raise UnsupportedError("grants what its rules forbid")
    assert code in _REFUSALS
    assert device.call("subscribe", bench.topic, 1) == 1
    assert device.news("change") == [["change", None]]


def shared_subscription(bench: Bench) -> None:
    device = bench.connected()
    shared = f"$share/g{bench.topic}/{bench.topic}/#"
    if bench.version == 5 and not bench.feature("SharedSubscriptionAvailable", 1):
        raise UnsupportedError("CONNACK: not available")
    try:
        device.call("subscribe", shared, 1)
    except RemoteError as error:
        raise UnsupportedError(f"SUBACK {error.code}") from error
    member, peer = bench.peer(client_id=f"{bench.client_id}m"), bench.peer()
    try:
        member.subscribe(shared, 1)
    except RefusedError as error:
        raise UnsupportedError(str(error)) from error
    for payload in numbered():
        peer.publish(f"{bench.topic}/a", payload)
    theirs = [seen.payload.decode() for seen in member.rest(1)]
    ours = [line[2] for line in device.news("message")]
    if not theirs and not ours and bench.version == 4:
        raise UnsupportedError("takes it for a common filter")
    assert sorted(theirs + ours) == numbered()
    assert theirs
    assert ours


def large_publish(bench: Bench) -> None:
    peer = bench.peer()
    peer.subscribe(f"{bench.topic}/large", 1)
    device = bench.connected(timeout_s=20)
    device.call("publish_large", f"{bench.topic}/large", LARGE_LEN, _PIECE_LEN, 1)
    seen = peer.message()
    assert seen.payload == _pattern()
    assert device.news("change") == [["change", None]]


def large_receive(bench: Bench) -> None:
    device = bench.connected(max_message=LARGE_LEN + 1024, timeout_s=20)
    device.call("subscribe", f"{bench.topic}/large", 1)
    payload = _pattern()
    bench.peer().publish(f"{bench.topic}/large", payload)
    expected = {
        "length": LARGE_LEN,
        "announced": LARGE_LEN,
        "sha256": hashlib.sha256(payload).hexdigest(),
    }
    assert device.message().payload == expected
    device.call("publish", f"{bench.topic}/large", "small", 1)
    assert device.message().payload == "small"


def _pattern() -> bytes:
    """What the puppet publishes as a large message."""
    pieces = range(0, LARGE_LEN, _PIECE_LEN)
    return b"".join(struct.pack(">I", at).ljust(_PIECE_LEN, b"\0") for at in pieces)[:LARGE_LEN]


COMMON: list[tuple[str, Case]] = [
    ("connect, session present", connect),
    ("publish at QoS 0", publish_qos_0),
    ("publish at QoS 1", publish_qos_1),
    ("publish at QoS 2", publish_qos_2),
    ("receive at QoS 0", receive_qos_0),
    ("receive at QoS 1", receive_qos_1),
    ("receive at QoS 2", receive_qos_2),
    ("unsubscribe", unsubscribe),
    ("subscription refused", subscription_refused),
    ("wildcards", wildcards),
    ("retained", retained),
    ("will", will),
    ("shared subscriptions", shared_subscription),
    ("1 MB published", large_publish),
    ("1 MB received", large_receive),
]
