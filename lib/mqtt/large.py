"""Messages that do not fit into memory, for `full.FullClient`.

Out:    await publish(client, "log", length, lambda: pieces_of(file), qos=1)
In:     async for message in client:
            while await message.readinto(buf): …      (where message.payload is None)
"""

import asyncio
from time import ticks_add, ticks_ms

from micropython import const

from .client import Message
from .codec import MQTTError

_FOR_NOW_MS = const(1 << 28)  # three days: the network's own limit ends it long before
_SKIP_LEN = const(128)


async def publish(client, topic, length, chunks, qos=0, retain=False, properties=None):
    """Publish `length` bytes in pieces; returns the code of the acknowledgement.

    chunks: function without arguments that gives a new iterator of bytes each time: a message that
    was not acknowledged is sent again.  ValueError if they are not `length` bytes together: the
    connection is then given up.  Not kept in a store.  At QoS 0, too, waits for a connection.
    """
    await client.get_room()
    client._check()
    packet_id = client._new_id(qos) if qos else 0
    head = client.protocol.encode_publish_head(topic, length, qos, retain, packet_id, properties)
    request = client._new_request(qos, packet_id, head)
    request.chunks = (length, chunks)
    return await client._answer(client._submit(request))


def send(client, request, send_head):
    """Begin to send a message if there is room for it; returns whether there was."""
    if not send_head(request):
        return False
    if request.error:  # refused
        return True
    request.deadline = ticks_add(ticks_ms(), _FOR_NOW_MS)
    request.link.held = True
    request.link.run(_stream(client, request.link, request))
    return True


async def _stream(client, link, request):
    length, chunks = request.chunks
    try:
        for chunk in chunks():
            length -= len(chunk)
            if length < 0:
                break
            await link.get_room(True)
            link.write(chunk)
            link.heard = link.sent  # a broker that takes data is there
        if length:
            raise ValueError("payload: expected %d bytes more" % length)
        await link.get_room(True)
    except MQTTError:
        raise
    except Exception as error:  # the iterator's: to send it again would not help
        request.error = error
        client._settle(request, 0)
        raise
    link.held = False
    link.wake()
    request.deadline = client.deadline()
    if request.kind is None:
        client._settle(request, 0)


class LargeMessage(Message):
    """A message that is still being received.

    payload: None; length: bytes of it.  Has to be read within the keep-alive interval, and before
    the next message is asked for; meanwhile nothing else is received, acknowledgements neither.
    """

    def __init__(self, message, link):
        super().__init__(message.topic, None, message.qos, message.retain, message.properties)
        self.link = link
        self.packet_id = message.packet_id
        self.size = message.size
        self.length = len(message.payload) + link.rest
        self._first = memoryview(message.payload)
        self._buf = None  # where the next piece is wanted
        self._wanted = asyncio.Event()
        self._ready = asyncio.Event()  # it is there, or the connection is lost

    async def readinto(self, buf):
        """Read up to len(buf) bytes; returns their number, 0 at the end of the payload."""
        first = self._first
        if first:
            got = min(len(buf), len(first))
            buf[:got] = first[:got]
            self._first = first[got:]
            return got
        link = self.link
        if link.error:
            raise link.error
        if not link.rest or not buf:
            return 0
        before = link.rest
        self._buf = memoryview(buf)[: min(len(buf), before)]
        self._ready.clear()
        self._wanted.set()
        await self._ready.wait()
        if link.error:
            raise link.error
        return before - link.rest

    async def skip(self):
        """Read what is left."""
        try:
            while await self.readinto(bytearray(_SKIP_LEN)):
                pass
        except MQTTError:
            pass  # it comes again, if that was promised

    async def receive(self):
        """Serve `readinto` until all is received."""
        link = self.link
        try:
            while link.rest:
                await self._wanted.wait()
                self._wanted.clear()
                while True:
                    got = await link.readinto(self._buf)
                    if got:
                        break
                link.rest -= got
                self._ready.set()
        finally:
            self._ready.set()


async def receive(backlog, is_new, link, more):
    """Have the message that came last read piece by piece; if it is not new, skip it."""
    if is_new:
        message = LargeMessage(backlog.pop(), link)
        backlog.append(message)
        await message.receive()
    else:
        scratch = memoryview(bytearray(_SKIP_LEN))
        while link.rest:
            link.rest -= await link.readinto(scratch[: min(_SKIP_LEN, link.rest)])
    if more:
        await more
