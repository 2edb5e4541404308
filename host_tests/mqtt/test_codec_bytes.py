"""The MQTT decoders against whatever a server might send: right, wrong, cut, in pieces."""

import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host_tests.mqtt.packets import KINDS, Sent, frame, packets, sized, streams, varint
from mqtt import codec, v5
from mqtt.codec import MQTTProtocolError

LIMIT = 2048
ALIASES = 3
VERSIONS = (311, 5)

versions = pytest.mark.parametrize("version", VERSIONS)
every_kind = pytest.mark.parametrize(
    ("version", "kind"), [(version, kind) for version in VERSIONS for kind in KINDS[version]]
)


def protocol_of(version: int) -> Any:
    protocol = v5.V5(topic_alias_maximum=ALIASES) if version == 5 else codec.V311()
    protocol.encode_connect("a", 10, True, None, None, None, LIMIT)
    return protocol


def plain(packet: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(bytes(field) if type(field) is memoryview else field for field in packet[1:])


def decode_all(version: int, stream: bytes) -> list[tuple[Any, ...]]:
    """What the client makes of a stream that is there as a whole, and ends."""
    protocol, view, at, found = protocol_of(version), memoryview(stream + LIMIT * b"\xff"), 0, []
    while packet := protocol.decode(view, at, len(stream), LIMIT):
        assert at < packet[0] <= at + LIMIT
        found.append(plain(packet))
        at = packet[0]
    return found


def decode_cut(
    version: int, stream: bytes, cuts: list[int], size: int = LIMIT
) -> list[tuple[Any, ...]]:
    """The same by way of a buffer, with these reads: what lies behind them is not there yet."""
    protocol, memory, found = protocol_of(version), bytearray(b"\xff" * size), []
    start = end = 0
    bounds = sorted({*cuts, len(stream)})
    for begin, stop in zip([0, *bounds], bounds, strict=False):
        memory[: end - start] = memory[start:end]
        start, end = 0, end - start
        memory[end : end + stop - begin] = stream[begin:stop]
        end += stop - begin
        assert len(memory) == size
        while packet := protocol.decode(memoryview(memory), start, end, LIMIT):
            found.append(plain(packet))
            start = packet[0]
    return found


def outcome(version: int, stream: bytes) -> list[tuple[Any, ...]] | None:
    try:
        return decode_all(version, stream)
    except MQTTProtocolError as error:
        reason = str(error)
    assert 0 < len(reason) < 200
    return None


def joined(sent: list[Sent]) -> bytes:
    return b"".join(each.raw for each in sent)


@every_kind
@settings(max_examples=200)
@given(data=st.data())
def test_every_packet_as_an_independent_codec_writes_it(version, kind, data):
    sent = data.draw(packets(version, kind))
    assert decode_all(version, sent.raw) == [sent.decoded]


@every_kind
@settings(max_examples=20)
@given(data=st.data())
def test_every_truncation_waits_for_the_rest(version, kind, data):
    sent = data.draw(packets(version, kind))
    for length in range(len(sent.raw)):
        assert decode_all(version, sent.raw[:length]) == []


@every_kind
@settings(max_examples=20)
@given(data=st.data())
def test_every_length_that_is_too_short_or_too_long(version, kind, data):
    """The same body under another length: decoded to what is wholly in it, or refused."""
    sent = data.draw(packets(version, kind))
    body = sent.raw[2 if sent.raw[1] < 128 else 3 :]
    for length in range(len(body)):
        found = outcome(version, frame(sent.raw[0], body[:length]))
        # What may be left out at the end: a payload; a code and properties.
        assert found is None or found[0][:2] == sent.decoded[:2] or kind == 14
    if kind not in (3, 9, 11):  # of an answer about filters, it is one code more
        assert outcome(version, frame(sent.raw[0], body + b"\0")) is None or len(body) < 4


@every_kind
@settings(max_examples=15)
@given(data=st.data())
def test_every_bit_flip(version, kind, data):
    sent = data.draw(packets(version, kind))
    for bit in range(8 * len(sent.raw)):
        raw = bytearray(sent.raw)
        raw[bit // 8] ^= 1 << bit % 8
        outcome(version, bytes(raw))
        outcome(version, bytes(raw) + b"\xd0\x00" * 20)


@versions
@settings(max_examples=150)
@given(data=st.data())
def test_a_packet_never_spoils_the_next(version, data):
    """Packets in a row, read in pieces of any length, also byte by byte."""
    sent = data.draw(streams(version))
    stream, expected = joined(sent), [each.decoded for each in sent]
    assert decode_all(version, stream) == expected
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    assert decode_cut(version, stream, cuts) == expected
    assert decode_cut(version, stream, list(range(len(stream)))) == expected
    for cut in range(len(stream)):
        assert decode_cut(version, stream, [cut]) == expected


@versions
@settings(max_examples=300)
@given(data=st.data())
def test_a_wrong_packet_does_not_change_those_before_it(version, data):
    sent = data.draw(streams(version))
    stream = joined(sent) + data.draw(st.binary(min_size=1, max_size=40))
    protocol, view, found = protocol_of(version), memoryview(stream + LIMIT * b"\xff"), []
    at = 0
    try:
        while packet := protocol.decode(view, at, len(stream), LIMIT):
            found.append(plain(packet))
            at = packet[0]
    except MQTTProtocolError:
        pass
    assert found[: len(sent)] == [each.decoded for each in sent]


@versions
@settings(max_examples=1000)
@given(stream=st.binary(max_size=200))
def test_arbitrary_bytes_are_decoded_or_refused(version, stream):
    outcome(version, stream)


@versions
@settings(max_examples=1000)
@given(data=st.data())
def test_arbitrary_bodies_are_decoded_or_refused(version, data):
    """Bytes that have the form of a packet reach further into the decoder."""
    kind = data.draw(st.sampled_from(KINDS[version]))
    flags = data.draw(st.integers(0, 15)) if kind == 3 else 2 * (kind == 6)
    head = b""
    if kind == 3:
        head = sized(data.draw(st.binary(max_size=5))) + data.draw(st.sampled_from((b"", b"\0\1")))
    elif kind not in (2, 14):
        head = b"\0\7"
    body = data.draw(st.binary(max_size=60))
    if version == 5 and data.draw(st.booleans()):
        body = varint(len(body)) + body + data.draw(st.binary(max_size=2))
    outcome(version, frame(kind << 4 | flags, head + body))


@versions
@given(raw=st.binary(max_size=60))
def test_topics_are_utf8_as_cpython_has_it(version, raw):
    try:
        topic = raw.decode()
        is_good = bool(topic) and not set(topic) & set("\0+#")
    except UnicodeDecodeError:
        is_good = False
    body = sized(raw) + (b"\0" if version == 5 else b"")
    found = outcome(version, frame(0x30, body))
    assert found == ([(3, topic, b"", 0, False, 0, None)] if is_good else None)


alias_steps = st.tuples(
    st.none() | st.text("ab/", max_size=2), st.none() | st.integers(0, ALIASES + 1)
)


@settings(max_examples=500)
@given(st.lists(alias_steps, max_size=12))
def test_topic_aliases(steps):
    """Section 3.3.2.3.4, against a model."""
    known: dict[int, str] = {}
    stream, expected, is_good = b"", [], True
    for topic, alias in steps:
        if not is_good:
            break
        properties = b"\0" if alias is None else b"\3\x23" + alias.to_bytes(2, "big")
        stream += frame(0x30, sized((topic or "").encode()) + properties)
        if alias is not None:
            is_good = 0 < alias <= ALIASES
            if topic and is_good:
                known[alias] = topic
            topic = topic or known.get(alias)
        is_good = is_good and bool(topic)
        expected.append((3, topic, b"", 0, False, 0, None))
    assert outcome(5, stream) == (expected if is_good else None)


def test_a_large_announced_length_allocates_nothing():
    for version in VERSIONS:
        header = memoryview(b"\x30\xff\xff\xff\x7f" + bytes(10))
        protocol = protocol_of(version)
        tracemalloc.start()
        try:
            with pytest.raises(MQTTProtocolError):
                protocol.decode(header, 0, 5, LIMIT)
            assert protocol.decode(header, 0, 5, 1 << 30) is None
            assert tracemalloc.get_traced_memory()[1] < 10_000
        finally:
            tracemalloc.stop()


# What is costly to keep: many small properties, long texts, many aliases of long topics.
COSTLY = {
    "user properties": b"\x26\0\0\0\0" * 400,
    "long user properties": (b"\x26" + sized(b"k" * 30) + sized(b"v" * 30)) * 30,
    "subscription identifiers": b"\x0b\x01" * 1000,
    "text": b"\x03" + sized(b"x" * 2000),
    "text of four bytes a character": b"\x03" + sized("\U0001f600".encode() * 500),
    "binary": b"\x09" + sized(bytes(2000)),
}


@pytest.mark.parametrize("name", COSTLY)
def test_memory_is_bounded_by_the_limit(name):
    """By a small multiple of it: CPython's objects are larger than MicroPython's."""
    properties = COSTLY[name]
    body = sized(b"t") + varint(len(properties)) + properties
    packet = frame(0x30, body)
    assert len(packet) <= LIMIT
    protocol, view = protocol_of(5), memoryview(packet + LIMIT * b"\xff")
    tracemalloc.start()
    try:
        decoded = protocol.decode(view, 0, len(packet), LIMIT)
        assert decoded[0] == len(packet)
        assert tracemalloc.get_traced_memory()[1] < 4 * LIMIT + 4096
    finally:
        tracemalloc.stop()
