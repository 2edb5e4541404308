"""The conformance cases for MQTT 5 alone."""

import time

from host_tests.brokers.bench import Bench, UnsupportedError, expect_qos
from host_tests.brokers.cases import COUNT, Case, numbered, refusal

# Of a subscription, section 3.8.3.1.
NO_LOCAL, RETAIN_AS_PUBLISHED, RETAIN_NEW, RETAIN_NEVER = 0x04, 0x08, 0x10, 0x20

SUCCESS, NO_MATCHING_SUBSCRIBERS = 0x00, 0x10
LONGEST_LEN = 268_435_455  # that a packet can have
_PACKET_TOO_LARGE = 0x95


def user_properties(bench: Bench) -> None:
    device = bench.connected()
    device.call("subscribe", f"{bench.topic}/down", 1)
    peer = bench.peer()
    peer.subscribe(f"{bench.topic}/up")
    pairs = [["a", "1"], ["ä", ""], ["a", "2"]]
    ours = {"user_property": pairs, "content_type": "text/plain", "payload_format_indicator": 1}
    device.call("publish", f"{bench.topic}/up", "x", 1, False, ours)
    seen = peer.message().properties
    assert [list(pair) for pair in seen["UserProperty"]] == pairs
    assert (seen["ContentType"], seen["PayloadFormatIndicator"]) == ("text/plain", 1)
    theirs = [(key, value) for key, value in pairs]
    peer.publish(f"{bench.topic}/down", "y", UserProperty=theirs, ContentType="text/plain")
    got = device.message().properties or {}
    assert (got["user_property"], got["content_type"]) == (pairs, "text/plain")


def will_delay(bench: Bench) -> None:
    """The will comes after its delay, and not at all for who is back before."""
    peer = bench.peer()
    peer.subscribe(f"{bench.topic}/#")
    will = [f"{bench.topic}/will", "gone", 1, False, {"will_delay_interval": 2}]
    device = bench.device(will=will)
    device.call("connect")
    bench.cut()
    device.wait_until_lost()
    device.wait_until_up()
    assert peer.rest(3) == []
    device.kill()
    began = time.monotonic()
    assert peer.message().payload == b"gone"
    assert time.monotonic() - began > 1


def session_expiry(bench: Bench) -> None:
    device = bench.device({"session_expiry_interval": 2})
    assert device.call("connect") is False
    device.call("subscribe", bench.topic, 1)
    device.call("disconnect")
    assert device.call("connect") is True
    device.call("disconnect")
    time.sleep(4)
    assert device.call("connect") is False


def message_expiry(bench: Bench) -> None:
    device = bench.connected()
    device.call("subscribe", f"{bench.topic}/#", 1)
    device.call("disconnect")
    peer = bench.peer()
    peer.publish(f"{bench.topic}/a", "short", MessageExpiryInterval=1)
    peer.publish(f"{bench.topic}/a", "long", MessageExpiryInterval=600)
    time.sleep(2.5)
    device.call("connect")
    message = device.message()
    assert message.payload == "long"
    assert 590 <= (message.properties or {})["message_expiry_interval"] < 600


def our_receive_maximum(bench: Bench) -> None:
    """The broker leaves no more than 2 messages unacknowledged, else our client gives up."""
    device = bench.connected({"receive_maximum": 2})
    device.call("subscribe", f"{bench.topic}/#", 1)
    device.call("answers", 300, *[20] * COUNT)
    peer = bench.peer()
    for payload in numbered():
        peer.post(f"{bench.topic}/a", payload)
    assert device.payloads(COUNT) == numbered()
    assert device.news("change") == [["change", None]]


def their_receive_maximum(bench: Bench) -> None:
    """With a queue that is longer than the broker's limit, no more is on its way than that."""
    limit = bench.feature("ReceiveMaximum", 65535)
    device = bench.connected(queue=64, heap="128wK")
    peer = bench.peer()
    peer.subscribe(f"{bench.topic}/#")
    device.call("publish_numbers", f"{bench.topic}/a", 0, 200, 1, 64)
    assert [payload.decode() for payload in peer.payloads(200)] == numbered(200)
    assert device.news("change") == [["change", None]]
    if limit > 64:
        raise UnsupportedError(f"sets no limit below {limit}")


def our_packet_limit(bench: Bench) -> None:
    """A packet that is larger than we take is not sent to us; the next one is."""
    device = bench.connected(max_packet=512)
    device.call("subscribe", f"{bench.topic}/#", 1)
    peer = bench.peer()
    peer.publish(f"{bench.topic}/a", "x" * 2000)
    peer.publish(f"{bench.topic}/a", "small")
    assert device.message().payload == "small"
    assert device.news("change") == [["change", None]]


def their_packet_limit(bench: Bench) -> None:
    """What is larger than the broker takes is refused here, and the connection goes on."""
    limit = bench.feature("MaximumPacketSize", 0)
    if limit in (0, LONGEST_LEN):
        raise UnsupportedError("sets no limit")
    device = bench.connected()
    code = refusal(device, "publish_large", f"{bench.topic}/a", limit, 1024, 1)
    assert code == _PACKET_TOO_LARGE
    device.call("publish", f"{bench.topic}/a", "small", 1)
    assert device.news("change") == [["change", None]]


def our_aliases(bench: Bench) -> None:
    limit = bench.feature("TopicAliasMaximum", 0)
    device = bench.connected()
    peer = bench.peer()
    peer.subscribe(f"{bench.topic}/#")
    topics = [f"{bench.topic}/{number % 3}" for number in range(COUNT)]
    for topic in topics:
        device.call("publish", topic, topic)
    bench.cut()  # aliases end with the connection
    device.wait_until_lost()
    device.wait_until_up()
    for topic in topics:
        device.call("publish", topic, topic)
    seen = [peer.message() for _ in range(2 * COUNT)]
    assert [each.topic for each in seen] == topics * 2
    assert all(each.topic == each.payload.decode() for each in seen)
    if not limit:
        raise UnsupportedError("takes no aliases")


def their_aliases(bench: Bench) -> None:
    device = bench.connected({"topic_alias_maximum": 2})
    device.call("subscribe", f"{bench.topic}/#", 1)
    peer = bench.peer()
    topics = [f"{bench.topic}/{number % 3}" for number in range(COUNT)]
    for topic in topics:
        peer.publish(topic, topic)
    got = [device.message() for _ in topics]
    assert [each.topic for each in got] == topics
    assert [each.payload for each in got] == topics


def reason_codes(bench: Bench) -> None:
    """Of an acknowledgement, and of a refusal."""
    device = bench.connected()
    nobody = device.call("publish", f"{bench.topic}/nobody", "x", 1)
    assert nobody in (SUCCESS, NO_MATCHING_SUBSCRIBERS), hex(nobody)
    bench.peer().subscribe(f"{bench.topic}/#")
    assert device.call("publish", f"{bench.topic}/a", "x", 1) == SUCCESS
    if nobody == SUCCESS:
        raise UnsupportedError("no 0x10, No matching subscribers")


def response_topic(bench: Bench) -> None:
    """We call, and are called."""
    device = bench.device(router=True)
    device.call("connect")
    device.call("start_caller", f"{bench.topic}/answers")
    device.call("serve", f"{bench.topic}/echo", "echo ")
    peer = bench.peer()
    peer.subscribe(f"{bench.topic}/ask")
    peer.subscribe(f"{bench.topic}/reply")
    number = device.start("call", f"{bench.topic}/ask", "2+2")
    asked = peer.message()
    correlation = bytes.fromhex(asked.properties["CorrelationData"])
    assert asked.properties["ResponseTopic"] == f"{bench.topic}/answers"
    peer.publish(f"{bench.topic}/answers", "4", CorrelationData=correlation)
    assert device.result(number)[0] == "4"
    peer.publish(
        f"{bench.topic}/echo",
        "hello",
        ResponseTopic=f"{bench.topic}/reply",
        CorrelationData=b"\x00\xff7",
    )
    reply = peer.message()
    assert reply.payload == b"echo hello"
    assert bytes.fromhex(reply.properties["CorrelationData"]) == b"\x00\xff7"


def no_local(bench: Bench) -> None:
    device = bench.connected()
    device.call("subscribe", f"{bench.topic}/#", 1, NO_LOCAL)
    device.call("publish", f"{bench.topic}/a", "ours", 1)
    bench.peer().publish(f"{bench.topic}/a", "theirs")
    assert device.message().payload == "theirs"


def retain_options(bench: Bench) -> None:
    topic = f"{bench.topic}/kept"
    device = bench.connected()
    peer = bench.peer()
    peer.publish(topic, "old", 1, True)
    device.call("subscribe", topic, 1, RETAIN_NEVER)
    assert device.heard("message") == 0
    device.call("subscribe", topic, 1, RETAIN_NEW)  # it is there already
    assert device.heard("message") == 0
    device.call("unsubscribe", topic)
    device.call("subscribe", topic, 1, RETAIN_NEW | RETAIN_AS_PUBLISHED)
    assert device.message().payload == "old"
    peer.publish(topic, "new", 1, True)
    message = device.message()
    peer.publish(topic, "", 1, True)
    assert (message.payload, message.retain) == ("new", True)


def subscription_identifier(bench: Bench) -> None:
    if not bench.feature("SubscriptionIdentifierAvailable", 1):
        raise UnsupportedError("CONNACK: not available")
    device = bench.connected()
    topic = f"{bench.topic}/a"
    expect_qos(device.call("subscribe", topic, 1, 0, {"subscription_identifier": 300}), 1)
    bench.peer().publish(topic, "x")
    assert (device.message().properties or {})["subscription_identifier"] == [300]


V5: list[tuple[str, Case]] = [
    ("user properties", user_properties),
    ("will delay", will_delay),
    ("session expiry", session_expiry),
    ("message expiry", message_expiry),
    ("our receive maximum", our_receive_maximum),
    ("the broker's receive maximum", their_receive_maximum),
    ("our maximum packet size", our_packet_limit),
    ("the broker's maximum packet size", their_packet_limit),
    ("topic aliases, ours", our_aliases),
    ("topic aliases, the broker's", their_aliases),
    ("reason codes of acknowledgements", reason_codes),
    ("request and response", response_topic),
    ("no local", no_local),
    ("retain handling, retain as published", retain_options),
    ("subscription identifiers", subscription_identifier),
]
