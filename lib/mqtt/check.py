"""The ends of a client: what it is made of, and its goodbye.  Imported for a moment, as `setup`."""

import struct

from micropython import const

from . import codec
from .codec import MQTTError

_MAX_KEEPALIVE_S = const(65535)
_LEAST_PACKET = const(16)  # bytes; less has no room for an answer in MQTT 5
# Of a DISCONNECT, those that are a client's: section 3.14.2.1.
_OUR_REASONS = const(b"\x00\x04\x80\x81\x82\x83\x90\x93\x94\x95\x96\x97\x98\x99")
_NEVER_S = const(0xFFFFFFFF)


def check(client):
    """ValueError or TypeError for what no client can be made of, and no CONNECT."""
    _, keepalive_s, _, will, _, _, max_packet = client.options
    for name, value, least, kind in (
        ("keepalive_s", keepalive_s, 1, int),
        ("max_packet", max_packet, _LEAST_PACKET, int),
        ("queue", client.queue, 1, int),
        ("timeout_s", client.timeout_s, 0, float),
        ("backoff_cap_s", client.backoff_cap_s, 0, float),
    ):
        if not isinstance(value, (kind, int)):
            raise TypeError("%s %r, expected a number" % (name, value))
        if value < least:
            raise ValueError("%s %r, expected at least %d" % (name, value, least))
    if keepalive_s > _MAX_KEEPALIVE_S:
        raise ValueError("keepalive_s %d, expected up to %d" % (keepalive_s, _MAX_KEEPALIVE_S))
    for each in client.brokers or (None,):
        if not callable(each):
            raise TypeError("brokers %r, expected a function or some" % (client.brokers,))
    if not hasattr(client.protocol, "level"):
        raise TypeError("protocol %r, expected V311() or V5()" % (client.protocol,))
    if will is not None and not hasattr(will, "payload"):
        raise TypeError("will %r, expected a Message" % (will,))
    client.protocol.encode_connect(*client.options)


async def disconnect(client, code, expiry_s):
    """`Client.disconnect`."""
    packet = b"\xe0\x00"
    if code or expiry_s is not None:
        packet = _disconnect(client.protocol, code, expiry_s)
    try:
        if not client.error:
            await client._link.send(packet)
            await client._link.get_room()
    except MQTTError:
        pass  # lost just now: closed all the same
    await client.close()


def _disconnect(protocol, code, expiry_s):
    """DISCONNECT of MQTT 5, section 3.14."""
    if protocol.level == 4:
        raise ValueError("a code or an expiry of a DISCONNECT needs MQTT 5")
    if code not in _OUR_REASONS:
        raise ValueError("reason code %r, expected one that a client may give" % code)
    properties = b""
    if expiry_s is not None:
        if not 0 <= expiry_s <= _NEVER_S:
            raise ValueError("expiry_s %r, expected 0 to %d" % (expiry_s, _NEVER_S))
        if expiry_s and not protocol._of_connect.get(
            "session_expiry_interval"
        ):  # section 3.14.2.2.2
            raise ValueError("expiry_s %d, expected 0: the session ends as it was begun" % expiry_s)
        properties = struct.pack(">BI", 0x11, expiry_s)
    return codec._packet(0xE0, bytes((code, len(properties))) + properties)
