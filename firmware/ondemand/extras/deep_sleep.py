"""device.deep_sleep(seconds): all that is to be said and done first, and then the sleep.

What waits to be sent is with the broker then, and what the broker had for the board was carried
out; or the broker cannot be reached, and was waited for long enough.  An order is carried out
instead of the sleep.  A version on trial does not sleep before it is confirmed: it is within five
minutes, or the agent restarts it, which costs it a try.
"""

import asyncio
import sys
import time

import machine
from micropython import const

from firmware.ondemand import opening, rtc, store
from firmware.ondemand.timekeeping import now

_MOST_S = const(2073600)  # 24 days: more milliseconds than 31 bits are too many for the port
_LIMIT_S = const(30)
_BUSY_S = const(300)  # while an order or a message is worked on
_STEP_MS = const(100)
_FAREWELL = const(50)  # times 10 ms, for the broker to close the connection
_REASON_LEN = const(200)


def make(device):
    async def deep_sleep(seconds, connect=True, limit_s=_LIMIT_S):
        """Sleep for 1 to 2,073,600 s; what follows is a start.

        connect: False, to sleep at once, unless there is something that the operator has to know,
        or the board has not connected for a day.  limit_s: how long the broker is waited for, 5 to
        300.  What `device.rtc` is then, bytes, the next start finds there.
        """
        for name, value, least, most in (
            ("seconds", seconds, 1, _MOST_S),
            ("limit_s", limit_s, 5, _BUSY_S),
        ):
            if not isinstance(value, (int, float)) or not least <= value <= most:
                raise ValueError("%s %r, expected %d to %d" % (name, value, least, most))
        data = device.rtc
        if not isinstance(data, (bytes, bytearray)) or len(data) > rtc.LIMIT:
            raise ValueError("device.rtc: expected up to %d bytes" % rtc.LIMIT)
        await _Sleep(device._agent, seconds, data).run(connect, limit_s)

    return deep_sleep


class _Sleep:
    def __init__(self, agent, seconds, data):
        self._agent = agent
        self._seconds = seconds
        self._record = rtc.Record(agent.held[1:])
        self._record.data = data

    async def run(self, connect, limit_s):
        """Wait until the session has let the board sleep, or for as long as that is worth."""
        agent = self._agent
        if self._is_worth_it(connect):
            agent.close = self.part
            started = time.ticks_ms()
            waited_ms = 0
            while waited_ms < limit_s * 1000 or self._is_busy(waited_ms):
                agent.device.beat()
                agent.wake.set()  # that the session looks whether there is nothing left
                await asyncio.sleep_ms(_STEP_MS)
                if agent.on_trial or agent.restart_reason:  # both come to an end; then all has time
                    started = time.ticks_ms()
                waited_ms = time.ticks_diff(time.ticks_ms(), started)
            self._record.miss(now(), int(self._seconds))
        self._sleep()

    def _is_worth_it(self, connect):
        agent = self._agent
        record = self._record
        if agent.on_trial or agent.restart_reason or "time" in agent.state:  # it was published
            return True
        if not record.is_due(now()):
            return False
        if connect or not agent.heard or store.exists(store.ORDER_PATH):
            return True
        return any(entry[2] for entry in agent.outbox)

    def _is_busy(self, waited_ms):
        """Whether to go on waiting although the broker has had its time."""
        if waited_ms >= _BUSY_S * 1000:
            return False
        return self._agent.message[0] or store.exists(store.ORDER_PATH)

    async def part(self, session):
        """What the session calls when all is said: say goodbye and sleep, if there is nothing left.

        What the broker has for the board it has sent before it acknowledges the goodbye.
        """
        agent = self._agent
        client = session.client
        kept = agent.device._kept
        if kept:
            kept.start()
        if client.error or client._backlog or (kept and kept._sender):
            return
        state = agent.state
        state["online"] = False
        state["until"] = now() + int(self._seconds)
        state["awake_ms"] = _awake_ms(agent)
        try:
            await opening.publish_state(session)
        finally:
            state["online"] = True
            del state["until"], state["awake_ms"]
        if client.error or client._backlog or agent.outbox or agent.restart_reason:
            return
        client.on_change = None
        # Not `disconnect`, which does not wait: what is on its way ends with the radio.
        await client._link.send(b"\xe0\x00")
        for _ in range(_FAREWELL):
            if client.error:
                break
            await asyncio.sleep_ms(10)
        self._record.hit()
        self._sleep()

    def _sleep(self):
        agent = self._agent
        record = self._record
        record.timed = agent.timed or agent.heard or 0
        agent.held = record.pack()
        agent.restarts = 0
        if agent.device._kept:
            agent.device._kept.flush()
        agent.note(*agent.message)
        memory = machine.RTC()
        memory.memory(memory.memory() + self._unsent()[:_REASON_LEN].encode())
        print("signet: asleep for %d s, awake for %d ms" % (self._seconds, _awake_ms(agent)))
        machine.deepsleep(int(self._seconds * 1000))

    def _unsent(self):
        """What the next start is to report of messages at QoS 1 that nobody has."""
        lost = [entry[1] for entry in self._agent.outbox if entry[2]]
        # The oldest first: there is room for some.
        reasons = [message["reason"] for message in lost if message.get("reason")]
        if lost:
            reasons.append("asleep with %d messages not sent" % len(lost))
        return "; ".join(reasons)


def _awake_ms(agent):
    """Since the start; a virtual board's ticks are the host's."""
    return time.ticks_ms() if sys.platform == "esp32" else agent.supervisor.uptime_ms
