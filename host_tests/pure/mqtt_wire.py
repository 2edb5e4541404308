"""How the tests of the MQTT codecs decode, and what is said of what is refused."""

from mqtt.codec import MQTTProtocolError


def decode(packet, protocol, limit):
    """Decode a packet that lies somewhere in a buffer, as it does in the client's."""
    buffer = memoryview(b"\xaa" + packet + limit * b"\xff")
    return protocol.decode(buffer, 1, 1 + len(packet), limit)


def refusal(packet, protocol, limit):
    """What MQTTProtocolError says, or what was decoded instead."""
    try:
        return "accepted: %r" % (decode(packet, protocol, limit),)
    except MQTTProtocolError as error:
        return str(error)


def says(text, reason):
    """Whether a message has these parts, which are apart by "…"."""
    return all(part in text for part in reason.split("…"))
