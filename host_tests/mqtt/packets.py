"""Packets that a server may send, with what a client is to make of them: strategies for hypothesis.

An independent codec: frames are put together here from the standards' tables, and properties by
paho-mqtt.  Nothing here imports the code under test.
"""

import re
from typing import Any, NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

# Nothing goes by the clock, and a failure prints what makes it again.
settings.register_profile(
    "signet", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("signet")

KINDS = {
    311: (2, 3, 4, 5, 6, 7, 9, 11, 13),
    5: (2, 3, 4, 5, 6, 7, 9, 11, 13, 14),
}
# What a server that knows this client does not send, although table 2-4 has it.
_NOT_SENT = {
    PacketTypes.CONNACK: {21, 22},  # enhanced authentication
    PacketTypes.PUBLISH: {35},  # topic aliases: test_codec_bytes.py
    PacketTypes.DISCONNECT: {17},  # MQTT-3.14.2-2
}
_NOT_ZERO = {"SubscriptionIdentifier", "ReceiveMaximum", "TopicAlias", "MaximumPacketSize"}
_GREATEST = {"Byte": 1, "Two Byte Integer": 65535, "Variable Byte Integer": 268_435_455}
# paho takes no greater MaximumPacketSize, and no U+FEFF in what it unpacks.
_GREATEST_SIZE = 268_435_455

texts = st.text(st.characters(exclude_characters="\0\ufeff", codec="utf-8"), max_size=20)
topics = st.text(
    st.characters(exclude_characters="\0+#\ufeff", codec="utf-8"), min_size=1, max_size=30
)
packet_ids = st.integers(1, 65535)
payloads = st.binary(max_size=100)


class Sent(NamedTuple):
    """raw: on the wire; decoded: what `decode` returns behind the position, payload as bytes."""

    raw: bytes
    decoded: tuple[Any, ...]


def varint(value: int) -> bytes:
    """Section 1.5.5, the algorithm that the standard prints."""
    encoded = bytearray()
    while True:
        value, digit = divmod(value, 128)
        encoded.append(digit | (128 if value else 0))
        if not value:
            return bytes(encoded)


def frame(first: int, body: bytes) -> bytes:
    return bytes((first,)) + varint(len(body)) + body


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def ours(name: str) -> str:
    """paho's MaximumQoS is our maximum_qos."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.replace("QoS", "Qos")).lower()


def _value_of(name: str, form: str) -> st.SearchStrategy[Any]:
    if name == "ResponseTopic":
        return topics
    if form == "Binary Data":
        return st.binary(max_size=20)
    if form == "UTF-8 Encoded String":
        return texts
    if form == "UTF-8 String Pair":
        return st.lists(st.tuples(texts, texts), min_size=1, max_size=4)
    least = int(name in _NOT_ZERO)
    greatest = _GREATEST.get(form, 0xFFFFFFFF)
    if name == "MaximumPacketSize":
        greatest = _GREATEST_SIZE
    numbers = st.integers(least, greatest) | st.sampled_from((least, greatest))
    if name == "SubscriptionIdentifier":
        return st.lists(numbers, min_size=1, max_size=4)
    return numbers


def properties_of(
    kind: int,
    without: set[int] = frozenset(),  # type: ignore[assignment]
) -> st.SearchStrategy[dict[str, Any]]:
    """Dicts with paho's names, of what paho says that a packet of this kind may have."""
    table = Properties(kind)
    values = {}
    for spaced, number in table.names.items():
        form, kinds = table.properties[number]
        if kind in kinds and number not in without:
            name = spaced.replace(" ", "")
            values[name] = _value_of(name, table.types[form])
    return st.fixed_dictionaries({}, optional=values)


def pack(kind: int, values: dict[str, Any]) -> bytes:
    properties = Properties(kind)
    for name, value in values.items():
        setattr(properties, name, value)
    return bytes(properties.pack())


def unpack(kind: int, data: bytes) -> tuple[dict[str, Any], int]:
    """(properties by our names, how many bytes they are)."""
    properties, length = Properties(kind).unpack(data)
    names = (name.replace(" ", "") for name in properties.names)
    return {ours(n): getattr(properties, n) for n in names if hasattr(properties, n)}, length


def reason_codes(kind: int) -> st.SearchStrategy[int]:
    """Those that table 2-6 has for the packet, and a server sends."""
    codes = [
        code
        for code, names in ReasonCode.names.items()
        if any(kind in kinds for kinds in names.values())
    ]
    if kind == PacketTypes.DISCONNECT:
        codes.remove(4)  # only a client's
    return st.sampled_from(codes)


@st.composite
def publishes(draw: st.DrawFn, version: int) -> Sent:
    topic, payload, packet_id = draw(topics), draw(payloads), draw(packet_ids)
    qos, retain, dup = draw(st.integers(0, 2)), draw(st.booleans()), draw(st.booleans())
    body = sized(topic.encode())
    if qos:
        body += packet_id.to_bytes(2, "big")
    else:
        packet_id, dup = 0, False
    properties = None
    if version == 5:
        values = draw(properties_of(PacketTypes.PUBLISH, _NOT_SENT[PacketTypes.PUBLISH]))
        body += pack(PacketTypes.PUBLISH, values)
        properties = {ours(name): value for name, value in values.items()} or None
    raw = frame(0x30 | dup << 3 | qos << 1 | retain, body + payload)
    return Sent(raw, (3, topic, payload, qos, retain, packet_id, properties))


@st.composite
def acknowledgements_311(draw: st.DrawFn, kind: int) -> Sent:
    packet_id = draw(packet_ids)
    body, code = packet_id.to_bytes(2, "big"), 0
    if kind == 9:
        code = draw(st.sampled_from((0, 1, 2, 0x80)))
        body += bytes((code,))
    return Sent(frame(kind << 4 | 2 * (kind == 6), body), (kind, packet_id, code))


@st.composite
def others_5(draw: st.DrawFn, kind: int) -> Sent:
    """Everything of MQTT 5 but PUBLISH and PINGRESP, in all the lengths that are allowed."""
    code = draw(reason_codes(kind))
    values = draw(properties_of(kind, _NOT_SENT.get(kind, set())))
    packed = pack(kind, values)
    properties = {ours(name): value for name, value in values.items()} or None
    if kind == 2:
        session = draw(st.booleans()) and not code
        return Sent(frame(0x20, bytes((session, code)) + packed), (2, session, code, properties))
    if properties is None and kind not in (9, 11) and draw(st.booleans()):
        packed = b""  # sections 3.4.2.2.1 and 3.14.2.2.1
    reason = bytes((code,))
    if not packed and not code and draw(st.booleans()):
        reason = b""  # sections 3.4.2.1 and 3.14.2.1
    if kind == 14:
        return Sent(frame(0xE0, reason + packed), (14, code, properties))
    packet_id = draw(packet_ids)
    body = packed + reason if kind in (9, 11) else reason + packed
    body = packet_id.to_bytes(2, "big") + body
    return Sent(frame(kind << 4 | 2 * (kind == 6), body), (kind, packet_id, code))


@st.composite
def connacks_311(draw: st.DrawFn) -> Sent:
    code = draw(st.integers(0, 5))
    session = draw(st.booleans()) and not code
    return Sent(frame(0x20, bytes((session, code))), (2, session, code, None))


def packets(version: int, kind: int) -> st.SearchStrategy[Sent]:
    """Packets of one type."""
    if kind == 3:
        return publishes(version)
    if kind == 13:
        return st.just(Sent(b"\xd0\x00", (13,)))
    if version == 5:
        return others_5(kind)
    return connacks_311() if kind == 2 else acknowledgements_311(kind)


def streams(version: int) -> st.SearchStrategy[list[Sent]]:
    return st.lists(st.one_of([packets(version, kind) for kind in KINDS[version]]), max_size=5)
