"""The application: yours.  This one reports the board's health and can blink on command.

The agent imports this module and runs `run(device)` as a task.  The task has to come
by `device.sleep` (or `device.beat`) at least every 60 s; a task that ends, raises or
falls silent restarts the board, and on trial, after three times, brings back the
version before.
"""

import gc


async def run(device):
    """Send telemetry every `interval_s` seconds (a setting of down/config)."""
    device.commands["identify"] = identify
    while True:
        gc.collect()
        device.telemetry({"uptime_s": device.uptime_s(), "heap_live_bytes": gc.mem_alloc()})
        interval_s = device.config.get("interval_s")
        usable = isinstance(interval_s, int) and 1 <= interval_s <= 3600
        await device.sleep(interval_s if usable else 10)


async def self_test(device):
    """Before a new version is confirmed: raise if it is not fit to stay."""


def identify(device, args):
    """down/command {"id": 1, "command": "identify"}: answers who this is."""
    return {"device": device.id, "version": device.version}
