"""A message that is larger than the client takes is read and thrown away; imported when one comes.

Else any publisher could keep a client offline: a message that is retained, or waits in a session,
comes again on each connection.
"""

from time import ticks_diff

from micropython import const

from .codec import malformed, read_text, read_varint

_PUBLISH = const(3)
_PUBACK = const(4)
_PUBREC = const(5)
_DUP = const(0x08)
_TOPIC_LEN = const(128)  # bytes of it that are kept, to be reported


async def drain(client, link, error):
    """Pass over the packet that the decoder refused with `error`, if it is such a message.

    It is acknowledged, counted in `client.dropped`, and stands in `client.skipped`.  Memory: none
    but the receive buffer and a short topic.  Whatever else is wrong raises `error`.
    """
    buf = link._buffer
    flags = buf[link._start] & 15
    remaining, at = read_varint(buf, link._start + 1, link._end)
    size = (remaining or 0) + at - link._start
    if buf[link._start] >> 4 != _PUBLISH or size <= len(buf):
        raise error
    link._start = at
    qos = flags >> 1 & 3
    if qos > 2 or (flags & _DUP and not qos):
        raise malformed(_PUBLISH, "flags", flags)
    left = remaining - 2
    length = int.from_bytes(await _take(client, link, 2), "big")
    left -= length + (2 if qos else 0)
    if left < 0:
        raise malformed(_PUBLISH, "size", remaining)
    topic = await _take(client, link, min(length, _TOPIC_LEN))
    if length > _TOPIC_LEN:
        await _pass(client, link, length - _TOPIC_LEN)
        while topic[-1] & 0xC0 == 0x80:  # the last character may be cut
            topic = topic[:-1]
        topic = topic[:-1]
    topic = read_text(topic)
    packet_id = int.from_bytes(await _take(client, link, 2 if qos else 0), "big")
    await _pass(client, link, left)
    if qos and not packet_id:
        raise malformed(_PUBLISH, "id", 0)
    if client.protocol.level == 5:
        client.protocol._topics.clear()  # one may have got another meaning with this message
    client.dropped += 1
    client.skipped = topic, size
    if qos > client.max_qos:
        raise malformed(_PUBLISH, "QoS", qos)
    if qos and not link.overrun:  # else it comes again, with those before it
        await _acknowledge(client, link, (None, _PUBACK, _PUBREC)[qos], packet_id)


async def _acknowledge(client, link, kind, packet_id):
    """Behind those of the messages before it, as MQTT-4.6.0-2 and -3 have it."""
    packet = client.protocol.encode_ack(kind, packet_id)
    for message in reversed(client._backlog):
        if message.qos and message.link is link:
            message.rest += packet
            return
    await link.send(packet)


async def _take(client, link, length):
    """So many of the next bytes."""
    data = b""
    while len(data) < length:
        data += bytes(await _some(client, link, length - len(data)))
    return data


async def _pass(client, link, length):
    while length:
        length -= len(await _some(client, link, length))


async def _some(client, link, most):
    """Up to so many of the next bytes, but one at least; they hold until the next call."""
    while link._start == link._end:
        link._start = link._end = 0
        link._end = await link.readinto(link._buffer)
        # An answer may have to wait behind all this: from here on, it has all its time.
        due = client.deadline()
        for request in client._requests:
            if request.deadline and ticks_diff(due, request.deadline) > 0:
                request.deadline = due
    start = link._start
    link._start = min(link._end, start + most)
    return link._buffer[start : link._start]
