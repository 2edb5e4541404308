"""The application: a relay that is switched by commands, and is off whenever in doubt.

It is off after every start, whatever that was: power, a watchdog, an update, a crash. It goes off
when there has been no connection for `offline_s`, and at the end of a pulse. The agent's watchdog
sees to it that a loop which hangs is such a start.
"""

import time

from relay import Relay

_PIN = 26  # one that stays low while the chip starts; beside it a resistor to ground
_LOOK_S = 0.05
_REPORT_S = 60
CONFIG = {"offline_s": (30, 5, 3600)}
PULSE = {"ms": (int, 50, 60000)}


def open_pin():
    """The relay's pin, low; a virtual board has none, so nothing is switched there."""
    try:
        from machine import Pin
    except ImportError:
        return lambda value: None
    return Pin(_PIN, Pin.OUT, value=0)


pin = open_pin()  # as soon as there is an application at all


async def run(device):
    """Take commands, switch off in time, and report each change."""
    relay = Relay(pin, 0)
    device.configure(CONFIG)
    clock = Clock()
    device.commands["on"] = lambda device, args: switch_on(relay, clock()), {}
    device.commands["off"] = lambda device, args: switch_off(relay), {}
    device.commands["pulse"] = lambda device, args: switch_on(relay, clock(), args["ms"]), PULSE
    reporter = Reporter(relay, device)
    try:
        while True:
            relay.offline_ms = device.config["offline_s"] * 1000
            relay.look(clock(), device.online())
            reporter.look()
            await device.sleep(_LOOK_S)
    finally:  # a mistake in here restarts the board in a moment: not with the relay on
        relay.switch_off("failure")


def switch_on(relay, now_ms, length_ms=None):
    relay.switch_on(now_ms, length_ms)
    return state(relay)


def switch_off(relay):
    relay.switch_off()
    return state(relay)


def state(relay):
    return {"on": relay.is_on, "why": relay.why}


class Clock:
    """Milliseconds since it was made. To be asked more often than the ticks wrap, every 6 days."""

    def __init__(self):
        self._last = time.ticks_ms()
        self._now_ms = 0

    def __call__(self):
        ticks = time.ticks_ms()
        self._now_ms += time.ticks_diff(ticks, self._last)
        self._last = ticks
        return self._now_ms


class Reporter:
    """Sends the state when it has changed, and now and then."""

    def __init__(self, relay, device):
        self._relay = relay
        self._device = device
        self._sent = None
        self._next_s = 0

    def look(self):
        found = state(self._relay)
        now_s = self._device.uptime_s()
        if found == self._sent and now_s < self._next_s:
            return
        if found != self._sent:
            print("relay: %s, %s" % ("on" if found["on"] else "off", found["why"]))
            if found["why"] == "no connection":
                self._device.event("fail-safe", **found)  # it waits until there is a connection
        self._sent = found
        self._next_s = now_s + _REPORT_S
        self._device.telemetry(found)
