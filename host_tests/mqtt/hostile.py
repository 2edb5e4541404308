"""What a client meets with a hostile broker, and that it is none the worse for it."""

import contextlib
import re
import time
from collections.abc import Iterator

import pytest

from host_tests.mqtt.false_broker import (
    CONNECT,
    DISCONNECT,
    PUBACK,
    SUBSCRIBE,
    UNSUBSCRIBE,
    FalseBroker,
    FalseLink,
    connected,
)
from host_tests.mqtt.puppet import Puppet, RemoteError

HEAP_SLACK = 6000  # bytes; what a puppet's own lists and strings may take
FAMILY = (
    "MQTTError",
    "MQTTProtocolError",
    "MQTTRefusedError",
    "MQTTConnectionError",
    "MQTTTimeout",
)


@contextlib.contextmanager
def unharmed(client: Puppet, broker: FalseBroker) -> Iterator[None]:
    """Whatever happens inside, the client has leaked nothing and is as good as new."""
    client.call("pass_time", 0)  # loads what it needs
    before = client.state()
    yield
    client.call("close")
    after = client.state()
    end = time.monotonic() + 5
    while after["files"] != before["files"] and time.monotonic() < end:
        after = client.state()  # `wait_for` does not wait for what it cancels: streams that open
    assert after["files"] == before["files"]
    assert after["heap"] < before["heap"] + HEAP_SLACK
    for each in client.news("change") + client.news("end"):
        assert len(each) == 1 or each[1] is None or each[1].startswith(FAMILY), each
    assert client.news("printed") == []
    link = connected(client, broker)
    number = client.start("subscribe", "after", 1)
    topic_filter = ""
    while topic_filter != "after":  # what was subscribed to before is subscribed to again
        packet = link.expect(SUBSCRIBE)
        topic_filter = packet.text
        link.send(broker.wire.suback(packet.packet_id, 1))
    assert client.result(number) == 1
    link.send(broker.wire.publish("after", b"fine", 1, 1))
    while client.message().payload != "fine":
        pass  # received before
    assert link.expect(PUBACK).packet_id == 1
    client.call("close")


def answer_connect(
    client: Puppet, broker: FalseBroker, name: str, answer: bytes | None, expected: str
) -> None:
    """Answer CONNECT with bytes, None for silence, or b"" for the end; the error is raised."""
    number = client.start("connect")
    link = broker.accept()
    link.expect(CONNECT)
    if answer:
        link.send(answer)
    elif answer == b"":
        link.close()
    if "within" in expected:
        client.call("pass_time", 10)
    with pytest.raises(RemoteError) as caught:
        client.result(number)
    assert re.match(expected, str(caught.value)), (name, caught.value)
    if answer != b"":
        assert hangs_up(link), name
    assert client.change(), name


def make_mistake(
    client: Puppet, broker: FalseBroker, name: str, packet: bytes | None, expected: str
) -> None:
    """Send what a client that waits for SUBACK 1 does not expect, None for a reset, or b"" for the
    end: it hangs up, and the subscription goes again on the next connection.
    """
    link = connected(client, broker)
    client.call("use_id_after", 0)
    number = client.start("subscribe", "a")
    link.expect(SUBSCRIBE)
    if packet:
        link.send(packet)
    else:
        link.reset() if packet is None else link.close()
    try:
        error = client.wait_until_lost()
    except TimeoutError:
        pytest.fail(f"{name}: the client does not mind")
    assert re.match(expected, error), (name, error)
    if packet:
        assert hangs_up(link), name
    link = broker.welcome()
    link.send(broker.wire.suback(link.expect(SUBSCRIBE).packet_id))
    assert client.result(number) == 0
    number = client.start("unsubscribe", "a")
    link.send(broker.wire.unsuback(link.expect(UNSUBSCRIBE).packet_id))
    client.result(number)
    client.call("close")
    client.news("change")


def hangs_up(link: FalseLink) -> bool:
    """Whether the client's end comes; in MQTT 5 it may say so before."""
    raw = link.packet()
    if link.wire.version == 5 and raw and raw[0] >> 4 == DISCONNECT:
        return link.is_ended()
    return not raw
