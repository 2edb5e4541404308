"""MQTT 3.1.1 on the wire, what a client sends: bytes taken from the standard's own examples."""

import gc

from test_mqtt_codec import PUBACK, PUBCOMP, PUBREC, PUBREL, REMAINING_LENGTHS

from mqtt.codec import V311


class Will:
    def __init__(self, topic, payload, qos, retain, properties=None):
        self.topic, self.payload = topic, payload
        self.qos, self.retain, self.properties = qos, retain, properties


def connect(client_id="a", keepalive_s=1, clean=True, will=None, user=None, password=None):
    return V311().encode_connect(client_id, keepalive_s, clean, will, user, password, 2048)


def publish(topic, payload=b"", qos=0, retain=False, packet_id=0, properties=None):
    return V311().encode_publish(topic, payload, qos, retain, packet_id, properties)


# What the standard prints, non-normative examples of the sections named.
ENCODED = {
    "connect, figure 3.6 but for the texts": (
        connect("a", 10, True, Will("w", b"x", 1, False), "u", b"pw"),
        b"\x10\x1a\x00\x04MQTT\x04\xce\x00\x0a\x00\x01a\x00\x01w\x00\x01x\x00\x01u\x00\x02pw",
    ),
    "connect, no user": (
        connect("a", 10, True, Will("w", b"x", 1, False)),
        b"\x10\x13\x00\x04MQTT\x04\x0e\x00\x0a\x00\x01a\x00\x01w\x00\x01x",
    ),
    "connect, user without a password": (
        connect(user="é"),
        b"\x10\x11\x00\x04MQTT\x04\x82\x00\x01\x00\x01a\x00\x02\xc3\xa9",
    ),
    "connect, empty user and password": (
        connect(user="", password=b""),
        b"\x10\x11\x00\x04MQTT\x04\xc2\x00\x01\x00\x01a\x00\x00\x00\x00",
    ),
    "connect, persistent, will at QoS 2 and retained": (
        connect("a", 0x1234, False, Will("w", b"", 2, True)),
        b"\x10\x12\x00\x04MQTT\x04\x34\x12\x34\x00\x01a\x00\x01w\x00\x00",
    ),
    "connect, no will": (
        connect("a", 1, False),
        b"\x10\x0d\x00\x04MQTT\x04\x00\x00\x01\x00\x01a",
    ),
    "text, figure 1.1": (publish("A\U0002a6d4"), b"\x30\x07\x00\x05\x41\xf0\xaa\x9b\x94"),
    "publish, figure 3.11": (
        publish("a/b", b"", 1, False, 10),
        b"\x32\x07\x00\x03\x61\x2f\x62\x00\x0a",
    ),
    "publish, QoS 0, retained": (publish("a", b"xy", 0, True), b"\x31\x05\x00\x01axy"),
    "publish, largest packet id": (
        publish("a", b"", 1, True, 65535),
        b"\x33\x05\x00\x01a\xff\xff",
    ),
    "publish, QoS 2": (publish("a", b"x", 2, False, 2), b"\x34\x06\x00\x01a\x00\x02x"),
    "publish, text as payload": (publish("a", "é"), b"\x30\x05\x00\x01a\xc3\xa9"),
    "publish, payload in a memoryview": (
        publish("a", memoryview(b"xyz")[1:]),
        b"\x30\x05\x00\x01ayz",
    ),
    "publish, head only": (
        V311().encode_publish_head("a", 1000, 1, False, 7, None),
        b"\x32\xed\x07\x00\x01a\x00\x07",
    ),
    "puback, section 3.4": (V311().encode_ack(PUBACK, 0x1234), b"\x40\x02\x12\x34"),
    "pubrec, section 3.5": (V311().encode_ack(PUBREC, 1), b"\x50\x02\x00\x01"),
    "pubrel, section 3.6": (V311().encode_ack(PUBREL, 1), b"\x62\x02\x00\x01"),
    "pubcomp, section 3.7": (V311().encode_ack(PUBCOMP, 1), b"\x70\x02\x00\x01"),
    "subscribe, figure 3.23": (
        V311().encode_subscribe(10, "a/b", 1),
        b"\x82\x08\x00\x0a\x00\x03\x61\x2f\x62\x01",
    ),
    "subscribe, QoS 2": (
        V311().encode_subscribe(10, "c/d", 2),
        b"\x82\x08\x00\x0a\x00\x03c/d\x02",
    ),
    "unsubscribe, figure 3.30": (
        V311().encode_unsubscribe(10, "a/b"),
        b"\xa2\x07\x00\x0a\x00\x03\x61\x2f\x62",
    ),
}

BAD_ARGUMENTS = {
    "topic, empty": lambda: publish(""),
    "topic, +": lambda: publish("a/+"),
    "topic, #": lambda: publish("#"),
    "topic, NUL": lambda: publish("a\0"),
    "publish, QoS 3": lambda: publish("a", b"", 3, False, 1),
    "publish, QoS -1": lambda: publish("a", b"", -1),
    "publish, properties": lambda: publish("a", properties={"content_type": "b"}),
    "subscribe, QoS 3": lambda: V311().encode_subscribe(1, "a", 3),
    "subscribe, options": lambda: V311().encode_subscribe(1, "a", 0, 4),
    "subscribe, properties": lambda: V311().encode_subscribe(
        1, "a", 0, 0, {"subscription_identifier": 1}
    ),
    "filter, empty": lambda: V311().encode_subscribe(1, "", 0),
    "filter, # not last": lambda: V311().encode_subscribe(1, "#/a", 0),
    "filter, # in a level": lambda: V311().encode_subscribe(1, "a#", 0),
    "filter, + in a level": lambda: V311().encode_subscribe(1, "a/b+", 0),
    "filter, NUL": lambda: V311().encode_unsubscribe(1, "a\0"),
    "client id, NUL": lambda: connect("\0"),
    "user, NUL": lambda: connect(user="\0"),
    "will, topic": lambda: connect(will=Will("#", b"", 0, False)),
    "will, QoS": lambda: connect(will=Will("a", b"", 3, False)),
    "will, properties": lambda: connect(will=Will("a", b"", 0, False, {"content_type": "b"})),
    "length": lambda: V311().encode_publish_head("a", 268_435_453, 0, False, 0, None),
}

GOOD_FILTERS = ("a", "/", "+", "#", "a/#", "+/+", "/+/b/#", "$SYS/#", "a b")


def test_encoded():
    for name, (packet, expected) in ENCODED.items():
        assert bytes(packet) == expected, name


def test_encoded_remaining_length():
    for remaining, digits in REMAINING_LENGTHS.items():
        if 2 < remaining < 20000:  # what a small heap holds
            gc.collect()
            packet = publish("a", bytes(remaining - 3))
            assert bytes(packet[: 1 + len(digits)]) == b"\x30" + digits, remaining
            assert len(packet) == 1 + len(digits) + remaining, remaining


def test_bad_arguments():
    for name, call in BAD_ARGUMENTS.items():
        try:
            call()
        except ValueError:
            continue
        raise AssertionError(name)


def test_good_filters():
    for topic_filter in GOOD_FILTERS:
        assert topic_filter.encode() in V311().encode_subscribe(1, topic_filter, 1)
