"""One connection of an MQTT client: packets in, packets out, and the error that ended it.

Knows streams and packets, and nothing of sessions.  One task, the one that calls `flush`,
waits for the network; for all others a packet is one `write`, or waits until there is room.
"""

import asyncio
from time import ticks_diff, ticks_ms

from micropython import const

import deadline

from .codec import MQTTError

_PIECE_LEN = const(1024)  # bytes for which the network has the time-out
_SLICE_MS = const(10)  # a task that sends without a pause keeps others waiting for so long


class MQTTConnectionError(MQTTError):
    """There is no connection, or none any more.  cause: the exception that ended it, or None."""

    def __init__(self, text, cause=None):
        super().__init__(text)
        self.cause = cause


class MQTTTimeoutError(MQTTConnectionError):
    """Something was not done in time; the connection is given up."""


async def within(timeout_s, coroutine, text):
    """The result of a coroutine; MQTTTimeoutError, with `text` in it, if it takes longer."""
    try:
        return await deadline.within(timeout_s, coroutine)
    except asyncio.TimeoutError:
        raise MQTTTimeoutError("%s within %d s" % (text, timeout_s))


class Link:
    """One connection.

    sent, heard: ticks of the last write and the last read.  error: what has ended it, or None.
    pump: async function (link), run as a task when there is something to flush; it sets `running`
    to False when it is done.
    """

    _start = _end = 0  # what of the buffer is received and not decoded
    running = False
    held = False  # a packet is being written in pieces
    rest = 0  # bytes of a large payload that are still to be received
    error = None
    quota = 0  # PUBLISHes at QoS 1 and 2 that the server takes now
    pending = 0  # and those of the server that are not acknowledged
    overrun = False  # one of them had to be left unacknowledged

    def __init__(self, decode, buffer, max_packet, timeout_s, pump):
        """decode: of the protocol; buffer: memoryview; max_packet: bytes, and more is an error."""
        self.decode = decode
        self._pump = pump
        self.max_packet = max_packet
        self._buffer = buffer
        self.timeout_s = timeout_s
        self.stream = None  # (reader, writer)
        self._tasks = []
        self._room = asyncio.Event()  # a packet may be written again
        self.sent = self.heard = self._gave_way = ticks_ms()

    def run(self, coroutine):
        """Run a coroutine as a task until the link ends; its exception ends the link."""
        self._tasks.append(asyncio.create_task(self._guard(coroutine)))

    def wake(self):
        if not self.running:
            self.running = True
            self.run(self._pump(self))

    async def serve(self, coroutine):
        """Run a coroutine in this task; returns when the link has ended."""
        self._tasks.append(asyncio.current_task())
        try:
            await coroutine
        except asyncio.CancelledError:  # by `fail`, or for good
            if not self.error:
                raise
        except Exception as error:
            self.fail(error)

    async def _guard(self, coroutine):
        try:
            await coroutine
            self._tasks.remove(asyncio.current_task())
        except Exception as error:  # a MemoryError, too: `error` keeps it for all who ask
            self.fail(error)

    def fail(self, error):
        """End the link; returns its error, which is the first one, as an MQTTError."""
        if not self.error:
            if not isinstance(error, MQTTError):
                error = MQTTConnectionError("%s: %s" % (type(error).__name__, error), error)
            self.error = error
            for task in self._tasks:
                if task is not asyncio.current_task():
                    task.cancel()
            self._tasks = []  # their frames may hold the requests, and so the link before
            self._room.set()
        return self.error

    async def close(self):
        """End the link, and return when its stream is closed."""
        self.fail(MQTTConnectionError("closed"))
        stream, self.stream = self.stream, None
        if stream:
            stream[1].close()
            await stream[1].wait_closed()

    def is_full(self):
        """Whether a packet cannot be written now; raises the error of a link that has ended."""
        if self.error:
            raise self.error
        # The next write must not come before the last one is drained: mbedTLS loses data.
        return self.held or self.stream[1].out_buf

    async def get_room(self, held=False):
        """Wait until a packet can be written; now and then, let other tasks run first.

        held: for who is writing a packet in pieces.
        """
        if ticks_diff(self.sent, self._gave_way) > _SLICE_MS:
            self._gave_way = self.sent
            await asyncio.sleep_ms(0)
        while self.stream[1].out_buf if held else self.is_full():
            self._room.clear()
            await self._room.wait()

    async def send(self, packet):
        await self.get_room()
        self.write(packet)

    def write(self, data):
        """Send a packet, in one write and so in one TLS record; only if the link is not full."""
        writer = self.stream[1]
        try:
            writer.write(data)
        except Exception as error:
            raise self.fail(error)
        self.sent = ticks_ms()
        if writer.out_buf:
            self.wake()

    async def flush(self):
        """Wait until the network has taken all; a peer that stops reading must not hold us."""
        writer = self.stream[1]
        while writer.out_buf:  # again: others write as soon as it is empty, before this task runs
            # Not in pieces: mbedTLS wants again what it was given before.
            times = 1 + len(writer.out_buf) // _PIECE_LEN
            await within(self.timeout_s * times, writer.drain(), "packet not taken")
            if times > 1:
                self.heard = ticks_ms()  # a broker that takes data is there
        self._room.set()

    def next(self):
        """As `receive`, of what is here already; None if that is not a whole packet."""
        packet = self.decode(self._buffer, self._start, self._end, self.max_packet)
        if packet:
            self._start = min(packet[0], self._end)
            self.rest = packet[0] - self._start
        return packet

    async def receive(self):
        """The next packet, as `codec` decodes it; its payload holds until the next call.

        Of one that is larger than the buffer, `rest` bytes are still to be read.
        """
        while True:
            packet = self.next()
            if packet:
                return packet
            # There is room for more: a packet never exceeds the buffer.
            rest = self._end - self._start
            if rest and self._start:
                self._buffer[:rest] = self._buffer[self._start : self._end]
            self._start = 0
            self._end = rest + await self.readinto(self._buffer[rest:])

    async def readinto(self, buf):
        """Receive up to len(buf) bytes; returns their number, 0 if there were none after all."""
        got = await self.stream[0].readinto(buf)
        if got == 0:
            raise MQTTConnectionError("closed by the broker", EOFError())
        self.heard = ticks_ms()
        return got or 0
