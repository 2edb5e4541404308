"""What a client does seldom: packets that begin a connection, and all about subscriptions.

Apart from `codec` and `client`, so that whoever is short of memory can drop it: each use imports it
anew.  Section numbers are those of MQTT 3.1.1; `protocol` is a V311, which may be a V5.
"""

import struct

from micropython import const

from . import codec
from .codec import malformed, refusal, sized, text

_CONNECT = const(1)
_CONNACK = const(2)
_PUBACK = const(4)
_SUBSCRIBE = const(8)
_SUBACK = const(9)
_UNSUBSCRIBE = const(10)
_UNSUBACK = const(11)

_FAILURE = const(0x80)  # the first code that means a failure
_MAX_KEEPALIVE_S = const(65535)


def encode_connect(protocol, client_id, keepalive_s, clean, will, user, password, max_packet):
    flags = 0x02 if clean else 0
    rest = protocol._properties(_CONNECT, max_packet) + text(client_id)
    if will:
        flags |= 0x04 | codec._qos(will.qos) << 3 | (0x20 if will.retain else 0)
        rest += protocol._properties(0, will.properties)
        rest += codec._topic(will.topic) + sized(will.payload)
    if user is not None:
        flags |= 0x80
        rest += text(user)
        if password is not None:  # MQTT-3.1.2-22: not without a user
            flags |= 0x40
            rest += sized(password)
    head = struct.pack(">H4sBBH", 4, b"MQTT", protocol.level, flags, keepalive_s)
    return codec._packet(0x10, head + rest)


def decode_connack(flags, code, stop):
    """Section 3.2, in the form of `V311.decode`; not MQTT 5's."""
    # MQTT-3.2.2-4: no session where there is no connection
    if flags > 1 or code > 5 or (flags and code):
        raise malformed(_CONNACK, "code", (flags, code))
    return stop, _CONNACK, bool(flags), code, None


def check_connack(packet):
    code = packet[3]
    if code:  # section 3.2.2.3; MQTT 5 has names for the same
        raise refusal("connection", code, b"\x84\x85\x88\x86\x87"[code - 1])
    return packet[2]


def encode_subscribe(protocol, packet_id, topic_filter, qos, options=0, properties=None):
    if options and protocol.level == 4:
        raise ValueError("subscription options need MQTT 5")
    head = struct.pack(">H", packet_id) + protocol._properties(_SUBSCRIBE, properties)
    rest = _filter(topic_filter) + bytes((codec._qos(qos) | options,))
    return codec._packet(0x82, head + rest)


def encode_unsubscribe(protocol, packet_id, topic_filter):
    head = struct.pack(">H", packet_id) + protocol._properties(_UNSUBSCRIBE, None)
    return codec._packet(0xA2, head + _filter(topic_filter))


def _filter(topic_filter):
    """Section 4.7.1: a wildcard is a whole level, and # the last one."""
    data = text(topic_filter)
    levels = topic_filter.split("/")
    for level in levels:
        if not topic_filter or (len(level) > 1 and ("+" in level or "#" in level)):
            break
    else:
        if "#" not in levels[:-1]:
            return data
    raise ValueError("topic filter %r: + and # are whole levels, # the last" % topic_filter[:40])


def check(client):
    """ValueError for options with which no CONNECT can be made."""
    keepalive_s = client.options[1]
    if not 1 <= keepalive_s <= _MAX_KEEPALIVE_S:
        raise ValueError("keepalive_s %r, expected 1 to 65535" % keepalive_s)
    client.protocol.encode_connect(*client.options)


def subscribe(client, topic_filter, *details):
    """A new request: to subscribe with (qos, options, properties), without them to unsubscribe."""
    from .client import Request

    kind = _SUBACK if details else _UNSUBACK
    packet_id = client._new_id(details[0] if details else 0)
    protocol = client.protocol
    encode = protocol.encode_subscribe if details else protocol.encode_unsubscribe
    packet = encode(packet_id, topic_filter, *details)
    return client._submit(Request(kind, packet_id, packet, (topic_filter, details)))


def settle(client, request, code):
    """Note how a subscription stands now that it is answered; returns its filter."""
    name, details = request.wanted
    client._wanted.pop(name, None)
    client.refused.pop(name, None)
    if code >= _FAILURE:
        client.refused[name] = code
    elif request.kind == _SUBACK:
        client._wanted[name] = details
    return name


def end(client):
    """The rest of `Client.close`."""
    from .link import MQTTConnectionError

    client.error = MQTTConnectionError("closed")
    client.pause_s = 0
    for request in client._requests:
        request.error = client.error
        request.done.set()
    client._requests = [each for each in client._requests if not each.wanted]
    client._room.set()
    client._arrived.set()


def cancel(client, request):
    """Take a request back whose caller does not wait for it any more, as far as that goes.

    What was not sent leaves the queue.  A message at QoS 1 that was sent holds its packet id until
    it is answered or the connection ends, and is not sent again.  A message at QoS 2 that was
    sent goes on, as the broker may hold its id; so does a subscription.
    """
    requests = client._requests
    if request not in requests or (request.link and request.kind not in (_PUBACK, None)):
        return
    if request.link and request.link is client._link and not client.error:
        request.packet = None
    elif request.wanted:
        requests.remove(request)
        client._room.set()
    else:
        client._settle(request, 0)
