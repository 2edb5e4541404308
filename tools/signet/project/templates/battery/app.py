"""The application: measures often, reports seldom, and says when its battery is low.

The agent runs `run(device)` as a task. The task has to come by `device.sleep` at least every 60 s
beside what it sleeps; a task that ends, raises or falls silent restarts the board.
"""

from summary import Summary

_PIN = 35  # half of the battery's voltage, by two equal resistors
_MEASURE_S = 60
_REPORT_S = 900
_LOW_MV = 3400
_HEALTHY_MV = 3500  # above it the battery counts as charged again


def open_battery():
    """A function that gives the battery's millivolts; a virtual board's is always full."""
    try:
        from machine import ADC, Pin
    except ImportError:
        return lambda: 4100
    converter = ADC(Pin(_PIN), atten=ADC.ATTN_11DB)
    return lambda: 2 * converter.read_uv() // 1000


async def run(device):
    """Send a summary of the battery's voltage every `report_s` seconds (of down/config)."""
    read_mv = open_battery()
    summary = Summary()
    is_low = False
    next_s = 0
    while True:
        battery_mv = read_mv()
        summary.add(battery_mv)
        if low(battery_mv, is_low) != is_low:
            is_low = not is_low
            device.event("battery", low=is_low, battery_mv=battery_mv)
        if device.uptime_s() >= next_s:
            device.telemetry({"battery_mv": summary.take()})
            next_s = device.uptime_s() + report_s(device.config)
        await device.sleep(_MEASURE_S)


def low(battery_mv, was_low):
    """Whether the battery is low; with some play, or it would be told at each reading."""
    return battery_mv < (_HEALTHY_MV if was_low else _LOW_MV)


def report_s(config):
    """The configuration is an operator's typing: what cannot be used is not."""
    wanted = config.get("report_s")
    return wanted if isinstance(wanted, int) and 60 <= wanted <= 86400 else _REPORT_S


async def self_test(device):
    """Before a new version is confirmed: raise if it is not fit to stay."""
    open_battery()()
