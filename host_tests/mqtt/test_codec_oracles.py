"""The MQTT codecs against paho-mqtt: what paho writes, what it reads, and what both make of it."""

import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

import paho.mqtt.client as paho
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties, VariableByteIntegers
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from host_tests.mqtt.packets import (
    ours,
    packet_ids,
    payloads,
    properties_of,
    texts,
    topics,
    unpack,
)  # fmt: skip
from mqtt import codec, reasons, v5

LIMIT = 0x1000
VERSIONS = (311, 5)
# What a client may send, without enhanced authentication and what the codec puts in itself.
CONNECT_WITHOUT = {21, 22, 39}
PUBLISH_WITHOUT = {11, 35}

versions = pytest.mark.parametrize("version", VERSIONS)
options = st.sampled_from((0, v5.NO_LOCAL, v5.RETAIN_AS_PUBLISHED, v5.RETAIN_NEW, v5.RETAIN_NEVER))
filters = st.lists(st.sampled_from(("a", "", "+", "é", "$x")), min_size=2, max_size=5).map("/".join)


class Will(NamedTuple):
    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: dict[str, Any] | None = None


def protocol_of(version: int, **properties: Any) -> Any:
    return v5.V5(**properties) if version == 5 else codec.V311()


def connect(
    version: int, client_id: str, clean: bool, will: Will | None = None, *login: Any
) -> bytes:
    user, password = login or (None, None)
    arguments = (client_id, 10, clean, will, user, password, LIMIT)
    return bytes(protocol_of(version).encode_connect(*arguments))


def decoded(version: int, packet: bytes, limit: int = LIMIT) -> tuple[Any, ...]:
    buf = memoryview(packet + LIMIT * b"\xff")
    found = protocol_of(version).decode(buf, 0, len(packet), limit)
    assert found[0] == len(packet)
    return tuple(bytes(field) if type(field) is memoryview else field for field in found[1:])


def named(values: dict[str, Any]) -> dict[str, Any]:
    """Properties by our names; a client sends one subscription identifier, not a list."""
    found = {ours(name): value for name, value in values.items()}
    if "subscription_identifier" in found:
        found["subscription_identifier"] = found["subscription_identifier"][0]
    return found


class Parser:
    """A client's packet, taken apart by hand and by paho."""

    def __init__(self, packet: bytes, first: int) -> None:
        assert packet[0] == first
        length, size = VariableByteIntegers.decode(packet[1:])
        assert len(packet) == 1 + size + length
        self.rest = packet[1 + size :]

    def take(self, count: int) -> bytes:
        taken, self.rest = self.rest[:count], self.rest[count:]
        assert len(taken) == count
        return taken

    def number(self, count: int = 2) -> int:
        return int.from_bytes(self.take(count), "big")

    def data(self) -> bytes:
        return self.take(self.number())

    def properties(self, kind: int) -> dict[str, Any]:
        found, length = unpack(kind, self.rest)
        self.take(length)
        return found


def listed(properties: dict[str, Any] | None) -> dict[str, Any]:
    """As `unpack` gives them."""
    found = {name: value for name, value in (properties or {}).items() if value != []}
    if "subscription_identifier" in found:
        found["subscription_identifier"] = [found["subscription_identifier"]]
    return found


@settings(max_examples=200)
@given(data=st.data(), client_id=texts, clean=st.booleans(), keepalive_s=st.integers(0, 65535))
def test_connect_as_paho_reads_it(data, client_id, clean, keepalive_s):
    properties = named(data.draw(properties_of(PacketTypes.CONNECT, CONNECT_WITHOUT)))
    of_will = named(data.draw(properties_of(PacketTypes.WILLMESSAGE)))
    will = data.draw(
        st.none()
        | st.builds(Will, topics, payloads, st.integers(0, 2), st.booleans(), st.just(of_will))
    )
    user = data.draw(st.none() | texts)
    password = data.draw(st.none() | payloads) if user is not None else None
    protocol = v5.V5(**properties)
    packet = protocol.encode_connect(client_id, keepalive_s, clean, will, user, password, LIMIT)
    parser = Parser(bytes(packet), 0x10)
    assert parser.data() + parser.take(1) == b"MQTT\5"
    flags = parser.number(1)
    assert parser.number() == keepalive_s
    expected = listed(properties) | {"maximum_packet_size": LIMIT}
    assert parser.properties(PacketTypes.CONNECT) == expected
    assert parser.data() == client_id.encode()
    expected_flags = clean << 1
    if will:
        expected_flags |= 4 | will.qos << 3 | will.retain << 5
        assert parser.properties(PacketTypes.WILLMESSAGE) == listed(of_will)
        assert (parser.data(), parser.data()) == (will.topic.encode(), will.payload)
    if user is not None:
        expected_flags |= 0x80
        assert parser.data() == user.encode()
    if password is not None:
        expected_flags |= 0x40
        assert parser.data() == password
    assert (flags, parser.rest) == (expected_flags, b"")


@versions
@settings(max_examples=200)
@given(
    st.data(), topics, payloads, st.integers(0, 2), st.booleans(), packet_ids
)  # fmt: skip
def test_publish_as_paho_reads_it_and_back(version, data, topic, payload, qos, retain, packet_id):
    properties = None
    if version == 5:
        properties = named(data.draw(properties_of(PacketTypes.PUBLISH, PUBLISH_WITHOUT)))
    packet_id = packet_id if qos else 0
    protocol = protocol_of(version)
    packet = bytes(protocol.encode_publish(topic, payload, qos, retain, packet_id, properties))
    parser = Parser(packet, 0x30 | qos << 1 | retain)
    assert parser.data() == topic.encode()
    if qos:
        assert parser.number() == packet_id
    if version == 5:
        assert parser.properties(PacketTypes.PUBLISH) == listed(properties)
    assert parser.rest == payload
    head = protocol.encode_publish_head(topic, len(payload), qos, retain, packet_id, properties)
    assert bytes(head) + payload == packet
    expected = (3, topic, payload, qos, retain, packet_id, properties or None)
    assert decoded(version, packet) == expected


@versions
@settings(max_examples=200)
@given(st.data(), filters, st.integers(0, 2), options, packet_ids)
def test_subscribe_as_paho_reads_it(version, data, topic_filter, qos, option, packet_id):
    arguments: tuple[Any, ...] = (packet_id, topic_filter, qos)
    properties = {}
    if version == 5:
        properties = named(data.draw(properties_of(PacketTypes.SUBSCRIBE)))
        arguments += (option, properties)
    parser = Parser(bytes(protocol_of(version).encode_subscribe(*arguments)), 0x82)
    assert parser.number() == packet_id
    if version == 5:
        assert parser.properties(PacketTypes.SUBSCRIBE) == listed(properties)
    assert parser.data() == topic_filter.encode()
    if version == 5:
        found = SubscribeOptions()
        found.unpack(parser.rest)
        assert found.pack() == parser.rest == bytes((qos | option,))
    else:
        assert parser.rest == bytes((qos,))
    parser = Parser(bytes(protocol_of(version).encode_unsubscribe(packet_id, topic_filter)), 0xA2)
    assert parser.number() == packet_id
    if version == 5:
        assert parser.properties(PacketTypes.UNSUBSCRIBE) == {}
    assert (parser.data(), parser.rest) == (topic_filter.encode(), b"")


@versions
@given(kind=st.sampled_from((4, 5, 6, 7)), packet_id=packet_ids)
def test_acknowledgements_there_and_back(version, kind, packet_id):
    packet = bytes(protocol_of(version).encode_ack(kind, packet_id))
    assert Parser(packet, kind << 4 | 2 * (kind == 6)).number() == packet_id
    assert decoded(version, packet) == (kind, packet_id, 0)


def test_names_of_reason_codes_as_paho_has_them():
    """But for three, where the standard's table 2-6 says otherwise."""
    differing = {}
    no_answer = (1, 2, 4, 0x18, 0x19)  # no acknowledgement, and no refusal
    for code, names in ReasonCode.names.items():
        if code in no_answer:
            continue
        name = reasons.name(code)
        if name.lower() not in [each.lower() for each in names]:
            differing[code] = name
    assert differing == {
        0x11: "No subscription existed",
        0x9E: "Shared Subscriptions not supported",
        0xA2: "Wildcard Subscriptions not supported",
    }


@pytest.mark.parametrize(
    "call",
    [
        lambda protocol: protocol.encode_publish("a" * 65536, b""),
        lambda protocol: protocol.encode_publish("é" * 32768, b""),
        lambda protocol: protocol.encode_subscribe(1, "a" * 65536, 0),
        lambda protocol: protocol.encode_connect("a" * 65536, 1, True, None, None, None, 1),
        lambda protocol: protocol.encode_connect("a", 1, True, None, "u" * 65536, None, 1),
        lambda protocol: protocol.encode_connect("a", 1, True, None, "u", bytes(65536), 1),
        lambda protocol: protocol.encode_connect(
            "a", 1, True, Will("a", bytes(65536), 0, False), None, None, 1
        ),
    ],
)
@versions
def test_texts_and_wills_have_a_limit(version, call):
    with pytest.raises(ValueError, match="65536 bytes, expected up to 65535"):
        call(protocol_of(version))


@versions
def test_the_longest_texts(version):
    packet = bytes(protocol_of(version).encode_publish("a" * 65535, b"b"))
    assert decoded(version, packet, 70_000)[1:3] == ("a" * 65535, b"b")


# On the wire


class Wire:
    """The other end of a paho client: what it sends, and answers to it."""

    def __init__(self, client: paho.Client, server: socket.socket, **arguments: Any) -> None:
        client.connect("127.0.0.1", server.getsockname()[1], keepalive=10, **arguments)
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


def paho_client(version: int, client_id: str, clean: bool) -> paho.Client:
    if version == 5:
        return paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5)
    return paho.Client(CallbackAPIVersion.VERSION2, client_id, clean, protocol=paho.MQTTv311)


def connected(version: int, server: socket.socket) -> tuple[paho.Client, Wire]:
    client = paho_client(version, "a", True)
    wire = Wire(client, server)
    wire.sent()
    wire.answer(b"\x20\x03\x00\x00\x00" if version == 5 else b"\x20\x02\x00\x00")
    return client, wire


def paho_properties(kind: int, **values: Any) -> Properties:
    properties = Properties(kind)
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


@pytest.mark.parametrize("login", [(), ("me", None), ("me", b"secret\0\xff"), ("", b"")])
@pytest.mark.parametrize(
    "will",
    [
        None,
        Will("a/will", b"", 0, False),
        Will("a/will", b"gone", 2, True),
        Will("é", b"\0\xff", 1, False),
    ],
)
@pytest.mark.parametrize("clean", [False, True])
def test_connect_as_paho_writes_it(server, clean, will, login):
    client = paho_client(311, "dev-0001", clean)
    if will:
        client.will_set(*will[:4])
    if login:
        client._username = login[0].encode()
        client._password = login[1]
    wire = Wire(client, server)
    assert wire.sent() == connect(311, "dev-0001", clean, will, *login)
    wire.close()


@pytest.mark.parametrize("clean", [False, True])
def test_connect_as_paho_writes_it_with_properties(server, clean):
    client = paho_client(5, "dev-0001", clean)
    of_will = paho_properties(
        PacketTypes.WILLMESSAGE, ContentType="t", WillDelayInterval=7, UserProperty=("k", "v")
    )
    client.will_set("a/will", b"gone", 1, True, of_will)
    client.username_pw_set("me", "secret")
    properties = paho_properties(
        PacketTypes.CONNECT, SessionExpiryInterval=3600, ReceiveMaximum=8, TopicAliasMaximum=4,
        MaximumPacketSize=LIMIT,
    )  # fmt: skip
    wire = Wire(client, server, clean_start=clean, properties=properties)
    expected = {"content_type": "t", "will_delay_interval": 7, "user_property": [("k", "v")]}
    will = Will("a/will", b"gone", 1, True, expected)
    protocol = v5.V5(session_expiry_interval=3600, receive_maximum=8, topic_alias_maximum=4)
    packet = protocol.encode_connect("dev-0001", 10, clean, will, "me", b"secret", LIMIT)
    # All the same but for the order of the properties.
    paho_parser, parser = Parser(wire.sent(), 0x10), Parser(bytes(packet), 0x10)
    assert paho_parser.take(10) == parser.take(10)
    of_connect = parser.properties(PacketTypes.CONNECT)
    assert paho_parser.properties(PacketTypes.CONNECT) == of_connect
    assert len(of_connect) == 4
    assert paho_parser.rest == parser.rest
    wire.close()


@versions
def test_packets_as_paho_writes_them(server, version):
    client, wire = connected(version, server)
    protocol = protocol_of(version)

    client.publish("a/b", b"x" * 200, 0, True)
    assert wire.sent() == protocol.encode_publish("a/b", b"x" * 200, 0, True)

    packet_id = client.publish("é", b"", 1).mid
    packet = wire.sent()
    assert packet == protocol.encode_publish("é", b"", 1, False, packet_id)
    assert decoded(version, packet) == (3, "é", b"", 1, False, packet_id, None)
    wire.answer(protocol.encode_ack(4, packet_id))

    packet_id = client.publish("b", b"twice", 2).mid
    assert wire.sent() == protocol.encode_publish("b", b"twice", 2, False, packet_id)
    wire.answer(protocol.encode_ack(5, packet_id))
    packet = wire.sent()
    assert packet == protocol.encode_ack(6, packet_id)
    assert decoded(version, packet) == (6, packet_id, 0)
    wire.answer(protocol.encode_ack(7, packet_id))

    packet_id = client.unsubscribe("a/+/#")[1] or 0
    assert wire.sent() == protocol.encode_unsubscribe(packet_id, "a/+/#")

    for qos, kinds in ((1, (4,)), (2, (5, 7))):
        wire.answer(bytes(protocol.encode_publish("a", b"x", qos, False, 258)))
        for kind in kinds:
            packet = wire.sent()
            assert packet == protocol.encode_ack(kind, 258)
            assert decoded(version, packet) == (kind, 258, 0)
            if kind == 5:
                wire.answer(protocol.encode_ack(6, 258))

    client.disconnect()
    assert wire.sent() == b"\xe0\x00"
    wire.close()


def test_subscriptions_as_paho_writes_them(server):
    client, wire = connected(311, server)
    packet_id = client.subscribe("a/+/#", 1)[1] or 0
    assert wire.sent() == codec.V311().encode_subscribe(packet_id, "a/+/#", 1)
    wire.close()
    client, wire = connected(5, server)
    option = SubscribeOptions(2, True, True, SubscribeOptions.RETAIN_DO_NOT_SEND)
    of_packet = paho_properties(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=300)
    packet_id = client.subscribe("a/#", options=option, properties=of_packet)[1] or 0
    options = v5.NO_LOCAL | v5.RETAIN_AS_PUBLISHED | v5.RETAIN_NEVER
    properties = {"subscription_identifier": 300}
    packet = v5.V5().encode_subscribe(packet_id, "a/#", 2, options, properties)
    assert wire.sent() == packet
    wire.close()


@versions
def test_paho_takes_what_the_codec_writes(server, version):
    client, wire = connected(version, server)
    protocol = protocol_of(version)
    received = []
    client.on_message = lambda _client, _userdata, message: received.append(
        (message.topic, message.payload, message.qos, message.retain)
    )
    messages = [("a/b", b"", 0, True), ("é", b"\0" * 300, 0, False), ("A\U0002a6d4", b"x", 1, True)]
    for topic, payload, qos, retain in messages:
        wire.answer(bytes(protocol.encode_publish(topic, payload, qos, retain, 1)))
    assert received == messages
    wire.close()


def test_the_versions_are_those_of_the_standards():
    assert (codec.V311.level, v5.V5.level) == (MQTTProtocolVersion.MQTTv311, 5)
