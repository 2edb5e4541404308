"""The MQTT codec against paho-mqtt's packets, and against arbitrary bytes."""

import socket
import tracemalloc
from collections.abc import Iterator

import paho.mqtt.client as paho
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion

from mqtt import codec
from mqtt.codec import MQTTError, MQTTProtocolError

LIMIT = 512
TOPICS = st.text(st.characters(exclude_characters="\0+#", codec="utf-8"), min_size=1, max_size=40)
PACKET_IDS = st.integers(1, 65535)
# Bytes that have the form of a packet reach further into the decoder than arbitrary ones.
LIKELY_PACKETS = st.builds(
    lambda first, length, body: bytes((first, length)) + body,
    st.sampled_from((0x20, 0x30, 0x31, 0x32, 0x33, 0x3A, 0x40, 0x90, 0xB0, 0xD0)),
    st.integers(0, 127),
    st.binary(max_size=140),
)
STREAMS = st.one_of(st.binary(max_size=200), st.lists(LIKELY_PACKETS, max_size=4).map(b"".join))


def decode_all(stream: bytes, limit: int = LIMIT) -> list[tuple[object, ...]]:
    """What the client's loop makes of a stream that ends."""
    view, at, packets = memoryview(stream), 0, []
    while packet := codec.decode(view, at, len(stream), limit):
        assert at < packet[0] <= len(stream)
        assert packet[0] - at <= limit
        packets.append((packet[1], *(bytes(x) if type(x) is memoryview else x for x in packet[2:])))
        at = packet[0]
    return packets


@settings(max_examples=1000)
@given(STREAMS)
def test_arbitrary_bytes_are_decoded_or_refused(stream):
    reason = "decoded"
    try:
        decode_all(stream)
    except MQTTProtocolError as error:
        reason = str(error)
    assert 0 < len(reason) < 200


@settings(max_examples=1000)
@given(STREAMS, st.data())
def test_the_cut_between_reads_changes_nothing(stream, data):
    """A prefix is never refused for what is missing, nor decoded to something else."""
    try:
        whole = decode_all(stream)
    except MQTTProtocolError:
        return
    part = decode_all(stream[: data.draw(st.integers(0, len(stream)))])
    assert part == whole[: len(part)]


@given(st.binary(max_size=60))
def test_topics_are_utf8_as_cpython_has_it(raw):
    packet = codec.encode_publish("t", b"")[:1] + bytes((2 + len(raw), 0, len(raw))) + raw
    try:
        topic = raw.decode()
        acceptable = bool(topic) and not set(topic) & set("\0+#")
    except UnicodeDecodeError:
        acceptable = False
    if acceptable:
        assert decode_all(packet) == [(codec.PUBLISH, topic, b"", 0, False, 0)]
    else:
        with pytest.raises(MQTTProtocolError):
            decode_all(packet)


@given(TOPICS, st.binary(max_size=300), st.integers(0, 1), st.booleans(), PACKET_IDS)
def test_publish_there_and_back(topic, payload, qos, retain, packet_id):
    packet = bytes(codec.encode_publish(topic, payload, qos, retain, packet_id))
    assert decode_all(packet) == [
        (codec.PUBLISH, topic, payload, qos, retain, packet_id if qos else 0)
    ]


def test_a_large_announced_length_allocates_nothing():
    header = memoryview(b"\x30\xff\xff\xff\x7f")
    tracemalloc.start()
    try:
        with pytest.raises(MQTTProtocolError):
            codec.decode(header, 0, len(header), LIMIT)
        assert codec.decode(header, 0, len(header), 1 << 30) is None
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "call",
    [
        lambda: codec.encode_publish("a" * 65536, b""),
        lambda: codec.encode_publish("é" * 32768, b""),
        lambda: codec.encode_subscribe(1, "a" * 65536, 0),
        lambda: codec.encode_connect("a", 1, True, ("a", bytes(65536), 0, False)),
    ],
)
def test_texts_and_wills_have_a_limit(call):
    with pytest.raises(ValueError, match="expected up to 65535"):
        call()


def test_the_longest_topic():
    packet = bytes(codec.encode_publish("a" * 65535, b""))
    assert decode_all(packet, 1 << 20) == [(codec.PUBLISH, "a" * 65535, b"", 0, False, 0)]


def test_one_family_of_errors():
    assert issubclass(MQTTProtocolError, MQTTError)


class Wire:
    """The other end of a paho client: what it sends, and answers to it."""

    def __init__(self, client: paho.Client, server: socket.socket) -> None:
        client.connect("127.0.0.1", server.getsockname()[1], keepalive=10)
        self._client = client
        self._connection = server.accept()[0]
        self._connection.settimeout(5)

    def sent(self) -> bytes:
        self._client.loop_misc()
        while self._client.want_write():
            self._client.loop_write()
        return self._connection.recv(4096)

    def answer(self, packet: bytes) -> None:
        self._connection.sendall(packet)
        self._client.loop_read()

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def paho_client(client_id: str, clean: bool) -> paho.Client:
    return paho.Client(CallbackAPIVersion.VERSION2, client_id, clean, protocol=paho.MQTTv311)


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize(
    "will",
    [None, ("a/will", b"", 0, False), ("a/will", b"gone", 1, True), ("é", b"\0\xff", 1, False)],
)
def test_connect_as_paho_writes_it(server, clean, will):
    client = paho_client("dev-0001", clean)
    if will:
        client.will_set(*will)
    wire = Wire(client, server)
    assert wire.sent() == codec.encode_connect("dev-0001", 10, clean, will)
    wire.close()


def test_packets_as_paho_writes_them(server):
    client = paho_client("a", True)
    wire = Wire(client, server)
    wire.sent()
    wire.answer(b"\x20\x02\x00\x00")

    client.publish("a/b", b"x" * 200, 0, True)
    assert wire.sent() == codec.encode_publish("a/b", b"x" * 200, 0, True)

    packet_id = client.publish("é", b"", 1).mid
    packet = wire.sent()
    assert packet == codec.encode_publish("é", b"", 1, False, packet_id)
    assert decode_all(packet) == [(codec.PUBLISH, "é", b"", 1, False, packet_id)]
    wire.answer(codec.encode_puback(packet_id))

    packet_id = client.subscribe("a/+/#", 1)[1] or 0
    assert wire.sent() == codec.encode_subscribe(packet_id, "a/+/#", 1)

    packet_id = client.unsubscribe("a/+/#")[1] or 0
    assert wire.sent() == codec.encode_unsubscribe(packet_id, "a/+/#")

    wire.answer(bytes(codec.encode_publish("a", b"x", 1, False, 258)))
    packet = wire.sent()
    assert packet == codec.encode_puback(258)
    assert decode_all(packet) == [(codec.PUBACK, 258)]

    client.disconnect()
    assert wire.sent() == codec.DISCONNECT_PACKET
    wire.close()


def test_paho_takes_what_the_codec_writes(server):
    client = paho_client("a", True)
    received = []
    client.on_message = lambda _client, _userdata, message: received.append(
        (message.topic, message.payload, message.qos, message.retain)
    )
    wire = Wire(client, server)
    wire.sent()
    wire.answer(b"\x20\x02\x00\x00")
    messages = [("a/b", b"", 0, True), ("é", b"\0" * 300, 0, False), ("A\U0002a6d4", b"x", 1, True)]
    for topic, payload, qos, retain in messages:
        wire.answer(bytes(codec.encode_publish(topic, payload, qos, retain, 1)))
    assert received == messages
    wire.close()
