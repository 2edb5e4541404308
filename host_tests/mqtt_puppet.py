# mypy: ignore-errors
# MicroPython, whose stubs this file does not see.
"""An MQTT client that a test drives.

On stdin comes [where, keywords] for `Puppet`, in JSON as all else, then a command a line: [number,
method, arguments...].  Each runs as a task of its own, so that several can be on their way.  Lines
on stdout say what happened:
    [number, "done", result]                    [number, "raised", class, text]
    ["message", topic, payload, retained]       ["lost"]
"""

import asyncio
import gc
import json
import os
import sys

import mtls
from mqtt.client import Client


def report(*line):
    print(json.dumps(line))


def read(path):
    with open(path, "rb") as file:
        return file.read()


class Puppet:
    """where: {"port": n} or {"host": …, "port": n, "certificate": path, "key": …, "ca": …}.

    With "send_buffer", the former's socket takes no more than that from us.
    """

    def __init__(self, where, keywords):
        self._where = where
        self._tasks = {}
        self._answers = []  # for each message: how long on_message takes, and how it ends
        self._turns = 0
        if "ca" in where:
            files = [read(where[name]) for name in ("certificate", "key", "ca")]
            self._context = mtls.client_context(*files)
        self.client = Client(self._open, "mp-1", on_message=self._take, **keywords)
        self.client.on_lost = lambda: report("lost")

    async def _open(self):
        where = self._where
        if "ca" in where:
            return await mtls.open_stream(where["host"], where["port"], self._context)
        reader, writer = await asyncio.open_connection("127.0.0.1", where["port"])
        if "send_buffer" in where:
            reader.s.setsockopt(1, 7, where["send_buffer"])  # SOL_SOCKET, SO_SNDBUF
        return reader, writer

    async def _take(self, topic, payload, retained):
        report("message", topic, payload.decode(), retained)
        pause_ms, end = self._answers.pop(0) if self._answers else (0, None)
        if pause_ms:
            await asyncio.sleep_ms(pause_ms)
        if end == "raise":
            raise ValueError("not today")
        if end == "publish":
            await self.client.publish("answer", payload, 1)

    def answers(self, *answers):
        self._answers.extend(answers)

    def publish_fast(self, topic, payload, count):
        """`count` messages at QoS 0, until one fails."""

        async def loop():
            for _ in range(count):
                await self.client.publish(topic, payload)

        return loop()

    def publish_zeros(self, topic, length, qos):
        """A payload that is too long for a command."""
        return self.client.publish(topic, bytes(length), qos)

    def cancel(self, number):
        self._tasks[number].cancel()

    def use_id_after(self, packet_id):
        self.client._last_id = packet_id

    def counts(self):
        """What must not grow: open files, and live heap."""
        gc.collect()
        return {
            "files": len(os.listdir("/proc/self/fd")),
            "heap": gc.mem_alloc(),
            "turns": self._turns,
            "dropped": self.client.dropped,
        }

    async def _turn(self):
        while True:
            await asyncio.sleep_ms(10)
            self._turns += 1

    async def _carry_out(self, number, name, arguments):
        try:
            result = getattr(self if hasattr(self, name) else self.client, name)(*arguments)
            if hasattr(result, "send"):  # a coroutine
                result = await result
            report(number, "done", result)
        except (Exception, asyncio.CancelledError) as error:
            report(number, "raised", type(error).__name__, str(error))
        del self._tasks[number]

    async def run(self):
        self._tasks[0] = asyncio.create_task(self._turn())
        commands = asyncio.StreamReader(sys.stdin)
        while True:
            line = await commands.readline()
            if not line:
                return
            number, name, *arguments = json.loads(line)
            self._tasks[number] = asyncio.create_task(self._carry_out(number, name, arguments))


# Not in argv, where the unix port ends with "FATAL: uncaught NLR" at more than 255 bytes.
asyncio.run(Puppet(*json.loads(sys.stdin.readline())).run())
