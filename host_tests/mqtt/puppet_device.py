# mypy: ignore-errors
# MicroPython, whose stubs this file does not see.
"""An MQTT client that a test drives.

On stdin comes [where, options] for `Puppet`, in JSON as all else, then a command a line: [number,
method, arguments...], of this file's classes or of the client.  Each runs as a task of its own, so
that several can be on their way.  Lines on stdout say what happened:
    [number, "done", result]        [number, "raised", class, text, code]
    ["message", topic, payload, qos, retain, properties]      the loop over the client has one
    ["routed", label, topic, payload, …]                      a router's handler has one
    ["change", null] or ["change", class, text, code]         on_change, and the client's error
    ["end"]                         the loop over the client is over
A payload or a binary property that is no text comes as {"hex": …}; a large message's payload, read
in pieces, as {"length": …, "sha256": …}; one that is left unread, as null.
"""

import array
import asyncio
import binascii
import gc
import hashlib
import json
import os
import struct
import sys
import time

import micropython
from puppet_base import Base, as_bytes, as_json, as_properties, describe, report


class Pieces:
    """The pieces of a large payload: the same for whoever knows both lengths."""

    def __init__(self, length, piece_len):
        self._length = length
        self._piece = bytearray(piece_len)

    def __call__(self):
        view = memoryview(self._piece)
        for start in range(0, self._length, len(view)):
            struct.pack_into(">I", self._piece, 0, start)
            yield view[: min(len(view), self._length - start)]


class Puppet(Base):
    """The commands."""

    def __init__(self, where, options):
        self._answers = []  # for each message: what is done before the next one is asked for
        self._go = asyncio.Event()
        self._ahead_ms = 0
        self._piece = bytearray(1024)
        super().__init__(where, options)

    # The client's own, with arguments as JSON has them

    async def connect(self, listen=True):
        session_present = await self.client.connect()
        if listen:
            self._run_loop()
        return session_present

    async def within(self, topic, payload, fails):
        async with self.client:
            await self.client.publish(topic, payload.encode(), 1)
            if fails:
                raise ValueError("not today")

    def begin(self):
        """The client's `start`."""
        self.client.start()
        self._run_loop()

    async def begin_and_close(self, turns):
        """Close after so many turns of asyncio."""
        self.client.start()
        for _ in range(turns):
            await asyncio.sleep_ms(0)
        await self.client.close()

    async def begin_and_close_late(self):
        """Close in the turn in which the time for connecting is over; returns whether it was."""
        timeout_s, self.client.timeout_s = self.client.timeout_s, 0.3
        began = time.ticks_ms()
        self.client.start()
        await self.settle()
        is_early = time.ticks_diff(time.ticks_ms(), began) < 300
        time.sleep_ms(300)
        await self.client.close()
        self.client.timeout_s = timeout_s
        return is_early

    def listen(self):
        self._run_loop()

    def publish(self, topic, payload, qos=0, retain=False, properties=None):
        return self.client.publish(topic, as_bytes(payload), qos, retain, as_properties(properties))

    def publish_raw(self, *arguments):
        """What JSON has, as it is."""
        return self.client.publish(*arguments)

    def publish_bytes_topic(self, topic, qos):
        return self.client.publish(topic.encode(), b"", qos)

    def publish_array(self, numbers, qos):
        """As 16-bit integers."""
        payload = array.array("H", numbers)
        return self.client.publish("a", payload, qos) if qos else self.client.post("a", payload)

    def limit(self, size):
        self.client.protocol.limit = size

    def post(self, topic, payload, qos=0, retain=False, properties=None):
        return self.client.post(topic, as_bytes(payload), qos, retain, as_properties(properties))

    def subscribe(self, topic_filter, qos=0, options=0, properties=None):
        return self.client.subscribe(topic_filter, qos, options, as_properties(properties))

    # Messages

    async def _take(self, message):
        report("message", *await self._describe(message))
        await self._answer(message)

    async def _describe(self, message):
        payload = message.payload
        how = self._answers[0] if self._answers else None
        if payload is None and how != "unread":
            digest, length = hashlib.sha256(), 0
            while True:
                got = await message.readinto(self._piece)
                digest.update(memoryview(self._piece)[:got])
                length += got
                if not got or how == "part":
                    break
                if how == "slow":
                    await asyncio.sleep(2)
            digest = binascii.hexlify(digest.digest()).decode()
            payload = {"length": length, "sha256": digest, "announced": message.length}
        return as_json((message.topic, payload, message.qos, message.retain, message.properties))

    async def _answer(self, message):
        what = self._answers.pop(0) if self._answers else None
        if isinstance(what, int):
            for _ in range(-what):
                await asyncio.sleep_ms(0)
            await asyncio.sleep_ms(max(what, 0))
        elif what in ("hold", "let go"):
            payload = message.payload
            if what == "let go":
                message.payload = b""
            self._go.clear()
            await self._go.wait()
            message.payload = payload
        elif what == "raise":
            raise ValueError("not today")
        elif what == "publish":
            await self.client.publish("answer", message.payload, 1)
        elif what == "close":
            await self.client.close()

    def answers(self, *answers):
        """What follows the next messages: a pause in ms, or of so many turns if it is negative,
        "hold" until `go` ("let go": without the payload), "raise", "publish" the payload, "close"
        the client.  If it is large, it is left "unread", only a "part" is read, or it is read in
        "slow" pieces, all of up to 1024 bytes.
        """
        self._answers.extend(answers)

    def go(self):
        self._go.set()

    async def next_message(self):
        async for message in self.client:
            return message.payload.decode()

    async def stop_listening(self):
        """Cancel the loop in the middle of whatever it does."""
        if self._runner:
            self._runner.cancel()

    # Many and large messages

    async def publish_fast(self, topic, payload, count):
        """`count` messages at QoS 0, until one fails."""
        payload = payload.encode()
        for _ in range(count):
            await self.client.publish(topic, payload)

    async def hold_up(self, pause_ms):
        """Do something else so often that nothing comes at once after what it waited for."""
        while True:
            time.sleep_ms(pause_ms)
            await asyncio.sleep_ms(0)

    async def post_each(self, topic, payload, count):
        """`count` messages, each as soon as the network may have room for it."""
        for _ in range(count):
            while not self.client.post(topic, payload):
                await asyncio.sleep_ms(0)

    async def publish_numbers(self, topic, first, count, qos, window=1):
        """`count` messages "000000", "000001", … of which `window` are on their way at once."""
        numbers = iter(range(first, first + count))

        async def work():
            for number in numbers:
                await self.client.publish(topic, b"%06d" % number, qos)

        await asyncio.gather(*[work() for _ in range(window)])

    async def post_locked(self, topic, length, count):
        """Post at QoS 0 with the heap locked; returns how many were written."""
        payload = bytearray(length)
        for _ in range(3):
            self.client.post(topic, payload)
        await asyncio.sleep_ms(50)
        post = self.client.post
        written = 0
        micropython.heap_lock()
        try:
            for number in range(count):
                payload[0] = number & 0x7F
                if post(topic, payload):
                    written += 1
        finally:
            micropython.heap_unlock()
        return written

    def publish_large(self, topic, length, piece_len, qos=0, given=None, properties=None):
        """given: how long the pieces are together, if not `length`."""
        from mqtt import large

        pieces = Pieces(length if given is None else given, piece_len)
        properties = as_properties(properties)
        return large.publish(self.client, topic, length, pieces, qos, properties=properties)

    # Routing and calls

    def route(self, label, topic_filter, *arguments):
        async def handler(message):
            report("routed", label, *await self._describe(message))
            await self._answer(message)

        return self.router.subscribe(topic_filter, handler, *arguments)

    def unmatched(self):
        return self.router.unmatched

    async def start_caller(self, response_topic):
        from mqtt.rpc import Caller

        self._caller = Caller(self.client, self.router, response_topic)
        await self._caller.start()

    async def call(self, topic, payload, qos=1, timeout_s=10):
        message = await self._caller.call(topic, as_bytes(payload), qos, timeout_s)
        return as_json((message.payload, message.properties))

    def serve(self, topic_filter, prefix, qos=1):
        """Answer with the prefix and the request, or fail if that is "fail"."""
        from mqtt import rpc

        async def handler(message):
            if message.payload == b"fail":
                raise ValueError("not today")
            return prefix.encode() + bytes(message.payload)

        return rpc.serve(self.router, topic_filter, handler, qos)

    # Time

    async def pass_time(self, seconds):
        """Have the clock that the client and asyncio go by jump ahead, and what is due happen."""
        self._ahead_ms += int(seconds * 1000)
        sys.modules["asyncio.core"].ticks = self._ticks_ms
        for name in ("blame", "client", "drain", "full", "large", "link"):  # loaded, if it is not
            __import__("mqtt." + name, None, None, ("ticks_ms",)).ticks_ms = self._ticks_ms
        await self.settle()

    def _ticks_ms(self):
        return time.ticks_add(time.ticks_ms(), self._ahead_ms)

    async def settle(self):
        """Return when every task has done what it can, with all that the network has brought."""
        for _ in range(20):  # asyncio asks the network before each turn
            await asyncio.sleep_ms(0)

    # Looking inside

    def skip_pauses(self, count=1000000):
        """Have the next pauses of the supervisor take no time; `pauses` still has them."""
        from mqtt import client

        self._history = 200

        class Hasty:
            def __getattr__(self, name):
                return getattr(asyncio, name)

            def sleep(self, seconds):
                nonlocal count
                count -= seconds > 0
                return asyncio.sleep(seconds if count < 0 else 0)

        client.asyncio = Hasty()

    def cancel(self, number):
        self._tasks[number].cancel()

    def use_id_after(self, packet_id):
        self.client._last_id = packet_id

    def state(self):
        """The client's attributes, and what must not grow: open files, and live heap."""
        gc.collect()
        client = self.client
        return {
            "files": len(os.listdir("/proc/self/fd")),
            "heap": gc.mem_alloc(),
            "turns": self._turns,
            "tasks": len(self._tasks),
            "dropped": client.dropped,
            "discarded": getattr(client, "discarded", None),
            "skipped": client.skipped,
            "refused": client.refused,
            "pause_s": client.pause_s,
            "error": list(describe(client.error)) if client.error else None,
            "opens": self.opens,
            "pauses": [each / 1000 for each in self.pauses],
        }


def main():
    # Not in argv, where the unix port ends with "FATAL: uncaught NLR" at more than 255 bytes.
    asyncio.run(Puppet(*json.loads(sys.stdin.readline())).run())
