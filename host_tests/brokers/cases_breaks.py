"""The conformance cases in which links break and brokers end, for MQTT 3.1.1 and 5."""

import signal
import time
from collections.abc import Iterator

from host_tests.brokers.bench import Bench, UnsupportedError, expect_qos
from host_tests.brokers.cases import COUNT, Case, numbered, wait_until_up_again
from host_tests.brokers.servers import wait_for
from host_tests.mqtt.puppet import Puppet


def keep_alive(bench: Bench) -> None:
    """Our pings keep a silent connection; each side notices when the other falls silent."""
    peer = bench.peer()
    peer.subscribe(f"{bench.topic}/will")
    device = bench.device(keepalive_s=2, will=[f"{bench.topic}/will", "gone", 1], timeout_s=5)
    device.call("connect")
    assert peer.rest(5) == []
    assert device.news("change") == [["change", None]]
    device.signal(signal.SIGSTOP)
    began = time.monotonic()
    assert peer.message().payload == b"gone"
    took_s = time.monotonic() - began
    device.signal(signal.SIGCONT)
    assert 1 < took_s < 6, f"the will came after {took_s:.1f} s"
    wait_until_up_again(device)


def dead_broker(bench: Bench) -> None:
    """The broker stands still for longer than 1.5 times the keep-alive, and goes on."""
    device = bench.connected(keepalive_s=2, timeout_s=5)
    device.call("subscribe", f"{bench.topic}/#", 1)
    bench.broker.pause()
    began = time.monotonic()
    try:
        device.wait_until_lost()
        took_s = time.monotonic() - began
    finally:
        bench.broker.resume()
    assert took_s <= 3.2, f"noticed after {took_s:.1f} s"
    device.wait_until_up()
    bench.peer().publish(f"{bench.topic}/a", "after")
    assert device.message().payload == "after"


def session_survives(bench: Bench) -> None:
    device = bench.connected()
    expect_qos(device.call("subscribe", f"{bench.topic}/#", 1), 1)
    peer = bench.peer()
    bench.hold(True)
    bench.cut()
    device.wait_until_lost()
    for payload in numbered():
        peer.publish(f"{bench.topic}/away", payload)
    bench.hold(False)
    device.wait_until_up()
    assert device.payloads(COUNT) == numbered()
    assert device.heard("message") == 0


def _subscribed(bench: Bench) -> Iterator[tuple[int, str, Puppet]]:
    """(QoS, topic, device) for as far as the broker goes, to QoS 1 and 2."""
    for qos in (1, 2):
        topic = f"{bench.topic}/{qos}"
        device = bench.device(client_id=f"{bench.client_id}q{qos}")
        device.call("connect")
        if device.call("subscribe", topic, qos) < qos:
            break
        yield qos, topic, device


def resent_to_us(bench: Bench) -> None:
    """The link breaks while a handler is busy: its message may come again at QoS 1, not at 2."""
    for qos, topic, device in _subscribed(bench):
        device.call("answers", "hold")
        with bench.late_peer() as peer:
            peer.publish(topic, "first", qos)
            assert device.message().payload == "first"
            bench.cut()
            wait_until_up_again(device)
            device.call("go")
            peer.publish(topic, "second", qos)
        payload = device.message().payload
        if qos == 1 and payload == "first":
            payload = device.message().payload
        assert payload == "second"
        bench.cut()
        wait_until_up_again(device)
        # At QoS 1 the cut may have come before its acknowledgement went out.
        assert device.heard("message") <= (qos == 1)
        device.call("disconnect")


def cut_while_messages_wait(bench: Bench) -> None:
    """Messages that are here and not taken, and those that come after: none is lost."""
    for qos, topic, device in _subscribed(bench):
        device.call("answers", 0, 0, "hold")
        with bench.late_peer() as peer:
            for payload in numbered()[:6]:
                peer.publish(topic, payload, qos)
            got = device.payloads(3)  # the last of these is being handled
            bench.cut()
            wait_until_up_again(device)
            for payload in numbered()[6:]:
                peer.publish(topic, payload, qos)
        device.call("go")
        while len(set(got)) < COUNT or device.heard("message"):
            got += device.payloads(1)
        assert sorted(set(got)) == numbered(), f"QoS {qos}: {got}"
        assert qos == 1 or len(got) == COUNT, f"QoS 2: {got}"
        device.call("disconnect")


def resent_by_us(bench: Bench) -> None:
    """What the broker did not acknowledge goes again; at QoS 2 it arrives once."""
    peer = bench.peer()
    granted = peer.subscribe(f"{bench.topic}/#")
    device = bench.connected(keepalive_s=60)
    for qos in range(1, granted + 1):
        bench.broker.pause()
        try:
            numbers = [
                device.start("publish", f"{bench.topic}/{qos}", f"{n}", qos) for n in range(5)
            ]
            time.sleep(0.2)  # they are written, and nothing is acknowledged
            bench.cut()
            device.wait_until_lost()
        finally:
            bench.broker.resume()
        device.wait_until_up()
        assert [device.result(number) for number in numbers] == [0] * 5
        seen = [each.payload.decode() for each in peer.rest(1)]
        assert set(seen) == set("01234")
        assert qos == 1 or seen == list("01234"), f"QoS 2: {seen}"


def restart(bench: Bench) -> None:
    """An orderly restart of the broker: the session is there, and so is what waits for us."""
    device = bench.connected()
    expect_qos(device.call("subscribe", f"{bench.topic}/#", 1), 1)
    bench.hold(True)
    bench.cut()
    device.wait_until_lost()
    with bench.late_peer() as peer:
        peer.publish(f"{bench.topic}/a", "kept")
    numbers = [device.start("publish", f"{bench.topic}/b", f"{n}", 1) for n in range(3)]
    bench.broker.stop()
    bench.broker.start()
    bench.hold(False)
    device.wait_until_up()
    for number in numbers:
        device.result(number)
    got = set(device.payloads(4))
    assert got == {"kept", "0", "1", "2"}


def killed(bench: Bench) -> None:
    """The broker loses power, and maybe all it knew: we subscribe again, and go on."""
    device = bench.connected()
    device.call("subscribe", f"{bench.topic}/#", 1)
    bench.broker.kill()
    device.wait_until_lost()
    number = device.start("publish", f"{bench.topic}/a", "ours", 1)
    bench.broker.start()
    device.wait_until_up()
    device.result(number)
    assert device.message().payload == "ours"
    bench.peer().publish(f"{bench.topic}/a", "theirs")
    assert device.message().payload == "theirs"


def taken_over(bench: Bench) -> None:
    """Another client with our id: the broker ends our connection; in MQTT 5 it says why."""
    device = bench.connected()
    bench.hold(True)
    bench.peer(client_id=bench.client_id)
    error = device.wait_until_lost()
    bench.hold(False)
    wait_for(lambda: device.call("state")["error"] is None, 10)
    if bench.version == 5 and "taken over" not in error:
        raise UnsupportedError(f"no DISCONNECT with a reason: {error}")


BREAKS: list[tuple[str, Case]] = [
    ("keep-alive", keep_alive),
    ("broker stands still", dead_broker),
    ("session survives a cut", session_survives),
    ("unacknowledged by us", resent_to_us),
    ("cut while messages wait", cut_while_messages_wait),
    ("unacknowledged by the broker", resent_by_us),
    ("taken over by another client", taken_over),
]
# At the end: they restart the broker.
RESTARTS: list[tuple[str, Case]] = [
    ("broker restarted", restart),
    ("broker killed", killed),
]
