"""Feeds the watchdog, and only while every task is healthy.

A task is healthy while it is running and has called `beat` in time.  One that
ends, raises or falls silent ends `run` with the reason, and with it the agent:
the board restarts, and the reason is reported after it.  A task that blocks the
whole event loop stops the feeding itself; then the watchdog restarts the board.
"""

import asyncio
import time

from micropython import const

_PERIOD_MS = const(1000)


class TaskError(Exception):
    """A task ended, raised or fell silent."""


class Supervisor:
    """uptime_ms: since the start; unlike ticks_ms it does not wrap."""

    def __init__(self, watchdog):
        self._watchdog = watchdog
        self.uptime_ms = 0
        self._tasks = {}  # name -> [task, limit in ms, deadline in ticks_ms]

    def start(self, name, coroutine, limit_s):
        """Run a coroutine as a task that beats at least every `limit_s` seconds; 0: it need not."""
        self._tasks[name] = [None, limit_s * 1000, 0]
        self.beat(name)
        self._tasks[name][0] = asyncio.create_task(_named(name, coroutine))

    def beat(self, name, ahead_s=0):
        """Report progress; with `ahead_s`, that the task will be silent that much longer."""
        entry = self._tasks[name]
        entry[2] = time.ticks_add(time.ticks_ms(), entry[1] + int(ahead_s * 1000))

    async def check(self):
        """Raise TaskError unless every task is running and has beaten in time."""
        for name, (task, limit, deadline) in self._tasks.items():
            if task.done():
                await task  # raises what the task raised; `_named` raises in any case
            if limit and time.ticks_diff(deadline, time.ticks_ms()) < 0:
                raise TaskError("%s: no progress" % name)

    async def run(self):
        """Feed the watchdog until a task fails; raises TaskError."""
        ticks = time.ticks_ms()
        while True:
            now = time.ticks_ms()
            self.uptime_ms += time.ticks_diff(now, ticks)
            ticks = now
            await self.check()
            self._watchdog.feed()
            await asyncio.sleep_ms(_PERIOD_MS)


async def _named(name, coroutine):
    try:
        await coroutine
    except Exception as error:
        raise TaskError("%s: %s: %s" % (name, type(error).__name__, error))
    raise TaskError("%s: ended" % name)
