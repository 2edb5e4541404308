"""What a client does seldom: packets that begin a connection, and all about subscriptions.

Apart from `codec` and `client`, so that whoever is short of memory can drop it: each use imports it
anew.  Section numbers are those of MQTT 3.1.1; `protocol` is a V311, which may be a V5.
"""

import struct

from micropython import const

from . import codec
from .codec import MQTTProtocolError, malformed, refusal, sized, text

_CONNECT = const(1)
_CONNACK = const(2)
_PUBACK = const(4)
_SUBSCRIBE = const(8)
_SUBACK = const(9)
_UNSUBSCRIBE = const(10)
_UNSUBACK = const(11)

_FAILURE = const(0x80)  # the first code that means a failure


def encode_connect(protocol, client_id, keepalive_s, clean, will, user, password, max_packet):
    flags = 0x02 if clean else 0
    rest = protocol._properties(_CONNECT, max_packet) + text(client_id)
    if will:
        flags |= 0x04 | codec._qos(will.qos) << 3 | (0x20 if will.retain else 0)
        rest += protocol._properties(0, will.properties)
        rest += codec._topic(will.topic) + sized(will.payload)
    if not client_id and not clean and protocol.level == 4:  # MQTT-3.1.3-7
        raise ValueError("client_id '', expected one for a session that is kept, or clean=True")
    if user is not None:
        flags |= 0x80
        rest += text(user)
    if password is not None:
        if user is None and protocol.level == 4:  # MQTT-3.1.2-22
            raise ValueError("password without user needs MQTT 5")
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


def decode_suback(buf, at, stop):
    """Section 3.9, in the form of `V311.decode`; not MQTT 5's."""
    codes = buf[at + 2 : stop]
    for code in codes:
        if code > 2 and code != _FAILURE:  # MQTT-3.9.3-2
            raise malformed(_SUBACK, "code", code)
    return stop, _SUBACK, codec._packet_id(buf, at), code if len(codes) == 1 else bytes(codes)


def check_connack(packet):
    code = packet[3]
    if code:  # section 3.2.2.3; MQTT 5 has names for the same
        raise refusal("connection", code, b"\x84\x85\x88\x86\x87"[code - 1])
    return packet[2]


def encode_subscribe(protocol, packet_id, topic_filter, qos, options=0, properties=None):
    if options and protocol.level == 4:
        raise ValueError("subscription options need MQTT 5")
    head = struct.pack(">H", packet_id) + protocol._properties(_SUBSCRIBE, properties)
    how = bytes((codec._qos(qos) | options,))
    return codec._packet(
        0x82, head + b"".join([_filter(each) + how for each in wanted(topic_filter)])
    )


def encode_unsubscribe(protocol, packet_id, topic_filter):
    head = struct.pack(">H", packet_id) + protocol._properties(_UNSUBSCRIBE, None)
    return codec._packet(0xA2, head + b"".join([_filter(each) for each in wanted(topic_filter)]))


def wanted(topic_filter):
    """Filters: of one, or of several in a list or tuple."""
    if isinstance(topic_filter, str):
        return (topic_filter,)
    if not topic_filter:
        raise ValueError("topic filters %r, expected one at least" % (topic_filter,))
    return tuple(topic_filter)


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


def subscribe(client, topic_filter, *details):
    """A new request: to subscribe with (qos, options, properties), without them to unsubscribe."""
    from .client import Request

    kind = _SUBACK if details else _UNSUBACK
    packet_id = client._new_id(details[0] if details else 0)
    protocol = client.protocol
    encode = protocol.encode_subscribe if details else protocol.encode_unsubscribe
    packet = encode(packet_id, topic_filter, *details)
    return client._submit(Request(kind, packet_id, packet, (wanted(topic_filter), details)))


def settle(client, request, code):
    """Note how subscriptions stand now that they are answered.

    code: for all of them, or bytes with one for each.  Returns the filter that was refused, and the
    code; if there is none, the first.
    """
    filters, details = request.wanted
    kept_session = request.kind == _UNSUBACK and client.protocol.level == 4  # one answer for all
    if isinstance(code, int) and (len(filters) == 1 or code >= _FAILURE or kept_session):
        code = bytes((code,) * len(filters))
    if isinstance(code, int) or len(code) != len(filters):
        raise MQTTProtocolError("filters: %d, answered by %r" % (len(filters), code))
    worst = 0
    for number, name in enumerate(filters):
        client._wanted.pop(name, None)
        client.refused.pop(name, None)
        if code[number] >= _FAILURE:
            client.refused[name] = code[number]
            if code[worst] < _FAILURE:
                worst = number
        elif request.kind == _SUBACK:
            client._wanted[name] = details
    return filters[worst], code[worst]


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
