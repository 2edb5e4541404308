"""The application: wakes, measures its battery, sleeps; and seldom reports what it measured.

The agent runs `run(device)` at each start, and a deep sleep ends with one. What is to last until
then is in `device.rtc`.
"""

from summary import Summary

_PIN = 35  # half of the battery's voltage, by two equal resistors
_SLEEP_S = 300
_REPORT = 6  # each so many readings, half an hour's


def open_battery():
    """A function that gives the battery's millivolts; a virtual board's is always full."""
    try:
        from machine import ADC, Pin
    except ImportError:
        return lambda: 4100
    converter = ADC(Pin(_PIN), atten=ADC.ATTN_11DB)
    return lambda: 2 * converter.read_uv() // 1000


async def run(device):
    """Measure; after `_REPORT` readings, and at power-on, report; sleep."""
    summary = Summary(device.rtc)
    summary.add(open_battery()())
    is_due = not device.rtc or summary.count >= _REPORT
    if is_due:
        device.telemetry({"battery_mv": summary.figures()}, qos=1)
        summary = Summary()
    device.rtc = summary.pack()
    # Without a report there is no reason to connect, but for what the agent itself has to say.
    await device.deep_sleep(_SLEEP_S, connect=is_due)


async def self_test(device):
    """Before a new version is confirmed: raise if it is not fit to stay."""
    open_battery()()
