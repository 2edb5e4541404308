"""mqtt.store under power cuts: the client's process ends at every single operation on its folder,
and the next one, with the same folder, goes on.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from host_tests.mqtt.broker import TIMEOUT_S, Observer
from host_tests.mqtt.false_broker import (
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    connected,
)
from host_tests.mqtt.power_cut import STATUS
from host_tests.mqtt.puppet import Puppet, RemoteError
from host_tests.mqtt.server_session import ServerSession

MakeClient = Callable[..., Puppet]


@pytest.fixture
def make(either_false_broker, puppet, version, tmp_path) -> MakeClient:
    """A function that starts a client with its folder; `cut` is for power_cut.py."""
    folder = tmp_path / "store"
    folder.mkdir()

    def make(**options: object) -> Puppet:
        where = either_false_broker.where
        client: Puppet = puppet(where, version, clean=False, store=str(folder), **options)
        return client

    return make


def files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "store").iterdir())


def is_emptied(tmp_path: Path) -> bool:
    """Whether the client removes all files, once the last acknowledgement is in."""
    end = time.monotonic() + TIMEOUT_S
    while files(tmp_path) and time.monotonic() < end:
        time.sleep(0.01)
    return not files(tmp_path)


def test_nothing_is_left(either_false_broker, make, tmp_path):
    """After messages both ways that were acknowledged."""
    session = ServerSession(either_false_broker)
    client = make()
    client.call("begin")
    numbers = [client.start("publish", "up", f"{n}", 1 + n % 2) for n in range(6)]
    session.to_send = [(n, b"d%d" % n) for n in range(1, 4)]
    session.serve(client, lambda: len(session.taken) == 6 and session.is_idle)
    for number in numbers:
        assert client.result(number) == 0
    assert client.payloads(3) == ["d1", "d2", "d3"]
    client.call("state")
    assert is_emptied(tmp_path)


def cuts_of(make: MakeClient, work: Callable[[Puppet], object]) -> list[str]:
    """The operations that a run without a cut makes."""
    client = make(cut=[0, "before"])
    work(client)
    return list(client.call("operations"))


def places(operations: list[str], when: str) -> Iterator[tuple[int, str]]:
    """Where power goes: the operations with their numbers; only a write can be half done."""
    for number, operation in enumerate(operations, 1):
        if when != "half" or operation == "write":
            yield number, operation


def ended(client: Puppet) -> bool:
    return client._process.poll() is not None


@pytest.mark.parametrize("when", ["before", "half", "after"])
def test_cut_while_publishing(either_false_broker, make, tmp_path, when):
    """What `post` said it has is delivered; at QoS 2 once, whatever is cut."""

    def publish(client: Puppet) -> list[bytes]:
        """Returns what the client has promised to deliver."""
        client.call("begin")
        promised = []
        try:
            for payload in ("one", "two", "three"):
                if client.call("post", "up", payload, 2):
                    promised.append(payload.encode())
        except RuntimeError:  # it ended
            return promised
        session.serve(client, lambda: len(session.taken) == 3 and session.is_idle)
        return promised

    session = ServerSession(either_false_broker)
    operations = cuts_of(make, publish)
    assert len(operations) >= 3 * 5
    assert is_emptied(tmp_path)
    for number, operation in places(operations, when):
        session = ServerSession(either_false_broker)
        client = make(cut=[number, when])
        promised = publish(client)
        assert client.end() == STATUS, operation
        client = make()
        client.call("begin")
        client.call("post", "up", "last", 2)
        session.serve_until_idle(client, b"last")
        assert len(set(session.taken)) == len(session.taken), (number, operation)
        assert set(promised) <= set(session.taken), (number, operation)
        order = [each for each in (b"one", b"two", b"three", b"last") if each in session.taken]
        assert session.taken == order
        assert is_emptied(tmp_path), (number, operation)
        client.kill()


@pytest.mark.parametrize("when", ["before", "half", "after"])
def test_cut_while_receiving(either_false_broker, make, tmp_path, when):
    """A message whose handler was done comes never again; one that was not, comes."""

    def receive(client: Puppet) -> list[str]:
        """Returns what the loop has got, up to the cut."""
        client.call("begin")
        session.to_send = [(1, b"one"), (2, b"two")]
        session.serve(client, lambda: session.is_idle)
        return taken(client)

    def taken(client: Puppet) -> list[str]:
        found = []
        try:
            while True:
                found += [news[2] for news in client.news("message")]
                return found
        except RuntimeError:  # it ended; what it reported before that is there
            return found + [news[2] for news in client._aside if news[0] == "message"]

    session = ServerSession(either_false_broker)
    operations = cuts_of(make, receive)
    assert len(operations) >= 2 * 2
    for number, operation in places(operations, when):
        session = ServerSession(either_false_broker)
        client = make(cut=[number, when])
        before = receive(client)
        assert client.end() == STATUS
        client = make()
        client.call("begin")
        session.serve_until_idle(client)
        after = taken(client)
        twice = set(before) & set(after)
        # Only the last one may: the cut fell before the next was asked for, or was in doing so.
        assert twice <= set(before[-1:]), (number, operation, before, after)
        assert set(before) | set(after) == {"one", "two"}
        client.call("state")
        assert is_emptied(tmp_path)
        client.kill()


def test_killed_between_messages(either_false_broker, make, tmp_path):
    """Taken and answered with PUBREC, then power is cut: a repeated PUBLISH is no new message."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = make()
    link = connected(client, broker)
    link.send(wire.publish("a", b"x", 2, 7))
    assert client.message().payload == "x"
    assert link.expect(PUBREC).packet_id == 7
    client.kill()
    client.end()
    assert len(files(tmp_path)) == 1
    client = make()
    link = connected(client, broker, session_present=True)
    link.send(wire.publish("a", b"x", 2, 7, dup=True))
    assert link.expect(PUBREC).packet_id == 7
    link.send(wire.ack(PUBREL, 7))
    assert link.expect(PUBCOMP).packet_id == 7
    assert client.heard("message") == 0
    assert is_emptied(tmp_path)


def test_states_are_restored(either_false_broker, make):
    """PUBLISH at QoS 1 and 2 and PUBREL, in order, and with ids that are not given twice."""
    broker, wire = either_false_broker, either_false_broker.wire
    client = make()
    link = connected(client, broker)
    for payload, qos in (("a", 1), ("b", 2), ("c", 2), ("d", 1)):
        assert client.call("post", "up", payload, qos) is True
    ids = [link.expect(PUBLISH).packet_id for _ in range(4)]
    link.send(wire.ack(PUBREC, ids[1]))
    link.expect(PUBREL)
    client.call("state")
    client.kill()
    client.end()
    client = make()
    link = connected(client, broker, session_present=True)
    found = [link.next() for _ in range(4)]
    assert [each.kind for each in found] == [PUBLISH, PUBREL, PUBLISH, PUBLISH]
    assert [each.packet_id for each in found] == ids
    assert [each.payload for each in found] == [b"a", b"", b"c", b"d"]
    assert [each.dup for each in found if each.kind == PUBLISH] == [True] * 3
    client.call("use_id_after", ids[0] - 1)
    client.call("post", "up", "e", 1)
    packet = link.expect(PUBLISH)
    assert packet.payload == b"e"
    assert packet.packet_id not in ids


def test_session_lost_while_power_was_off(either_false_broker, make, tmp_path):
    broker, wire = either_false_broker, either_false_broker.wire
    client = make()
    link = connected(client, broker)
    for payload in "ab":
        client.call("post", "up", payload, 2)
    ids = [link.expect(PUBLISH).packet_id for _ in range(2)]
    link.send(wire.ack(PUBREC, ids[0]), wire.publish("a", b"x", 2, 9))
    link.expect(PUBREL)
    client.message()
    link.expect(PUBREC)
    client.kill()
    client.end()
    client = make()
    link = connected(client, broker, session_present=False)
    packet = link.expect(PUBLISH)
    assert (packet.payload, packet.dup) == (b"b", False)
    link.send(wire.publish("a", b"new", 2, 9))
    assert client.message().payload == "new"


def test_bounds_hold_over_restarts(either_false_broker, make, tmp_path):
    """The queue's bound is that of the folder, too; what is dropped leaves it."""
    client = make(queue=3)
    client.call("begin")
    assert [client.call("post", "up", f"{n}", 1) for n in range(5)] == [True] * 5
    assert client.state()["discarded"] == 2
    assert len(files(tmp_path)) == 3
    client.kill()
    client.end()
    either_false_broker.listen_again(either_false_broker.where["port"])
    client = make(queue=3)
    client.call("begin")
    assert client.call("post", "up", "5", 1) is True
    assert len(files(tmp_path)) == 3
    link = either_false_broker.welcome()
    assert [link.expect(PUBLISH).payload for _ in range(3)] == [b"3", b"4", b"5"]


def test_torn_and_foreign_files(either_false_broker, make, tmp_path):
    """Leftover temporary files go; a file that is no message is an error, or is ignored."""
    client = make()
    client.call("begin")
    client.call("post", "up", "kept", 1)
    (name,) = files(tmp_path)
    client.kill()
    client.end()
    data = (tmp_path / "store" / name).read_bytes()
    either_false_broker.listen_again(either_false_broker.where["port"])
    client = make(cut=[3, "half"])
    try:
        client.call("begin")
        client.call("post", "up", "torn", 1)
        client.call("post", "up", "torn", 1)
    except RuntimeError:
        pass
    client.kill()
    client.end()
    either_false_broker.listen_again(either_false_broker.where["port"])
    client = make()
    link = connected(client, either_false_broker, session_present=True)
    assert link.expect(PUBLISH).payload == b"kept"
    assert (tmp_path / "store" / name).read_bytes() == data


def test_folder_that_fails(either_false_broker, puppet, version, tmp_path):
    """A file system that does not do it is an error of the store's own."""
    where = either_false_broker.where
    (tmp_path / "file").touch()
    client = puppet(where, version, clean=False, store=str(tmp_path / "file/folder"))
    with pytest.raises((RuntimeError, RemoteError), match="MQTTStoreError"):
        client.call("post", "a", "x", 1)


def test_device_restarts_with_mosquitto(broker, puppet, version, tmp_path):
    """The client is killed again and again while it publishes and receives: each comes once."""
    folder = tmp_path / "store"
    folder.mkdir()
    # Room for all: the broker may have answered none by the time that the client is killed.
    options = {"clean": False, "store": str(folder), "queue": 64}
    received: list[str] = []
    with Observer(broker.port, client_id="observer", persistent=True) as observer:
        observer.subscribe("up/#", 2)
        client = puppet(broker.where, version, **options)
        client.call("connect")
        client.call("subscribe", "down/#", 2)
        for round_number in range(6):
            for n in range(10):
                assert client.call("post", "up/n", f"{round_number * 10 + n:03d}", 2) is True
                observer.publish_later("down/n", f"{round_number * 10 + n:03d}", 2)
            client.kill()
            client.end()
            received += client.payloads_before_the_end()
            client = puppet(broker.where, version, **options)
            client.call("connect")
        client.call("publish", "up/n", "done", 2)
        observer.publish("down/n", "done", 2)
        while received[-1:] != ["done"]:
            received.append(client.message().payload)
        sent = observer.payloads(61)
        assert sorted(sent) == [f"{n:03d}" for n in range(60)] + ["done"]
        # One message a kill may come twice: that which the loop had and was not done with.
        assert sorted(set(received)) == [f"{n:03d}" for n in range(60)] + ["done"]
        assert len(received) <= 61 + 6
