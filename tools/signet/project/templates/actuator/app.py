"""The application: a relay that is switched by commands, and opens by itself.

The agent runs `run(device)` as a task. The task has to come by `device.sleep` at least every 60 s;
a task that ends, raises or falls silent restarts the board, and a restart opens the relay.
"""

from relay import Relay

_PIN = 26
_REPORT_S = 30
# What comes with the command, and what it may be. Nobody who lost the connection can leave the
# relay closed for longer.
FOR_S = {"for_s": (int, 1, 3600)}


def open_pin():
    """The relay's pin; a virtual board has none, so nothing is switched there."""
    try:
        from machine import Pin
    except ImportError:
        return lambda value: None
    return Pin(_PIN, Pin.OUT, value=0)


async def run(device):
    """Take commands, open the relay in time, and report each change."""
    relay = Relay(open_pin())
    device.commands["on"] = (lambda device, args: switch_on(relay, device, args["for_s"])), FOR_S
    device.commands["off"] = (lambda device, args: switch_off(relay)), {}
    was_on, next_s = None, 0
    while True:
        now_s = device.uptime_s()
        left_s = relay.left_s(now_s)
        if relay.is_on != was_on or now_s >= next_s:
            was_on, next_s = relay.is_on, now_s + _REPORT_S
            device.telemetry({"on": relay.is_on, "left_s": left_s})
        await device.sleep(1)


def switch_on(relay, device, for_s):
    """{"command": "on", "args": {"for_s": 60}}. What is returned is the answer."""
    relay.switch_on(device.uptime_s(), for_s)
    return {"on": True, "left_s": for_s}


def switch_off(relay):
    relay.switch_off()
    return {"on": False, "left_s": 0}


async def self_test(device):
    """Before a new version is confirmed: raise if it is not fit to stay."""
