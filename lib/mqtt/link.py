"""One connection of an MQTT client: packets in, packets out, and the error that ended it.

Knows streams and packets, and nothing of sessions.
"""

import asyncio
from time import ticks_diff, ticks_ms

from micropython import const

from . import codec
from .codec import MQTTError

_SLICE_MS = const(10)  # a task that sends without a pause keeps others waiting for so long


class MQTTConnectionError(MQTTError):
    """There is no connection, or none any more.  cause: the exception that ended it, or None."""

    def __init__(self, text, cause=None):
        super().__init__(text)
        self.cause = cause


class MQTTTimeoutError(MQTTConnectionError):
    """Something was not done in time; the connection is given up."""


def translate(error):
    """An MQTTError for any exception."""
    if isinstance(error, MQTTError):
        return error
    return MQTTConnectionError("%s: %s" % (type(error).__name__, error), error)


async def within(timeout_s, awaitable, failure):
    """The result of the awaitable; MQTTTimeoutError, with `failure` in it, if it takes longer."""
    try:
        return await asyncio.wait_for(awaitable, timeout_s)
    except asyncio.TimeoutError:
        raise MQTTTimeoutError("%s within %d s" % (failure, timeout_s))


class Link:
    """One connection: packets in, packets out, and the error that ended it."""

    def __init__(self, stream, buffer, timeout_s):
        self._reader, self._writer = stream
        self._buffer = buffer
        self._start = self._end = 0  # what of the buffer is received and not decoded
        self._timeout_s = timeout_s
        self._lock = asyncio.Lock()
        self._tasks = []
        self._closing = None  # the task that closes the streams
        self._pinged = self._sent = self.heard = ticks_ms()
        self._gave_way = self._sent  # when `send` last let other tasks run
        self.on_lost = None
        self.overrun = False  # a message at QoS 1 had to be left unacknowledged
        self.error = None

    def run(self, coroutine):
        """Run a coroutine as a task until the link ends; its exception ends the link."""
        self._tasks.append(asyncio.create_task(self._guard(coroutine)))

    async def _guard(self, coroutine):
        try:
            await coroutine
        except Exception as error:  # a MemoryError, too: `error` keeps it for all who ask
            self.fail(error)

    def fail(self, error):
        """End the link; returns its error, which is the first one, as an MQTTError."""
        if not self.error:
            self.error = translate(error)
            for task in self._tasks:
                if task is not asyncio.current_task():
                    task.cancel()
            self._closing = asyncio.create_task(self._close())
            if self.on_lost:
                self.on_lost()
        return self.error

    async def close(self):
        """End the link, and return when its streams are closed."""
        self.fail(MQTTConnectionError("closed"))
        await self._closing

    async def _close(self):
        self._writer.close()
        await self._writer.wait_closed()

    async def send(self, packet):
        """Send a packet, in one write and so in one TLS record."""
        async with self._lock:
            if self.error:
                raise self.error
            try:
                self._writer.write(packet)
                # The next write must not come before this is drained (mbedTLS loses data), and
                # a peer that stops reading must not hold us for ever.
                if self._writer.out_buf:
                    await within(self._timeout_s, self._writer.drain(), "packet not taken")
            except Exception as error:
                raise self.fail(error)
            except BaseException:  # cancelled in the middle of a packet
                self.fail(MQTTConnectionError("cancelled in the middle of a packet"))
                raise
            self._sent = ticks_ms()
        if ticks_diff(self._sent, self._gave_way) > _SLICE_MS:
            self._gave_way = self._sent
            await asyncio.sleep_ms(0)

    async def ping(self, now, silence_ms):
        """Send a PINGREQ if nothing was sent, or nothing heard nor asked, for so long."""
        unasked = ticks_diff(self.heard, self._pinged) >= 0
        if ticks_diff(now, self._sent) >= silence_ms or (
            unasked and ticks_diff(now, self.heard) >= silence_ms
        ):
            self._pinged = now
            await self.send(codec.PINGREQ_PACKET)

    async def receive(self):
        """The next packet, as `codec.decode` gives it; its payload holds until the next call."""
        while True:
            packet = codec.decode(self._buffer, self._start, self._end, len(self._buffer))
            if packet:
                self._start = packet[0]
                return packet
            await self._fill()

    async def _fill(self):
        """Receive more bytes.  There is room: a packet never exceeds the buffer."""
        rest = self._end - self._start
        if self._start:
            self._buffer[:rest] = self._buffer[self._start : self._end]
            self._start, self._end = 0, rest
        got = await self._reader.readinto(self._buffer[rest:])
        if got == 0:
            raise MQTTConnectionError("closed by the broker")
        if got:  # None: nothing there after all
            self._end += got
            self.heard = ticks_ms()
