"""A soil probe that runs on a battery for years: wakes, measures, and is asleep again.

`run(device)` is called at each start, and a deep sleep ends with one.  Most wakes are radio-less:
measured, kept in `device.rtc`, asleep.  One in `report_every` connects; so does one by the button,
one at which the battery turns low, and, by itself, one a day.
"""

import machine
import probe
from readings import Readings

SCHEMA = {
    "sleep_s": (900, 10, 86_400),
    "report_every": (4, 1, 96),
    "low_mv": (3400, 2800, 4200),
}
_BUTTON = 33  # to ground; a pin that the RTC sees


async def run(device):
    device.configure(SCHEMA)
    config = device.config
    readings = Readings(device.rtc)
    battery_mv, moisture = probe.measure()
    is_low = battery_mv < config["low_mv"]
    turned_low = is_low and not readings.is_low
    readings.add(battery_mv, moisture)
    readings.is_low = is_low
    by_hand = machine.reset_cause() == machine.DEEPSLEEP_RESET and (
        machine.wake_reason() == machine.PIN_WAKE
    )
    is_due = readings.is_first or by_hand or turned_low
    is_due = is_due or len(readings) >= config["report_every"]
    if turned_low:
        device.event("battery", low=True, battery_mv=battery_mv)
    if is_due:
        # On flash until the broker has it: neither an outage nor an empty battery loses it.
        device.keep(readings.take())
    device.rtc = readings.pack()
    probe.wake_on_button(_BUTTON)
    await device.deep_sleep(config["sleep_s"], connect=is_due)


async def self_test(device):
    """Before a new version is confirmed: raise if it is not fit to stay."""
    probe.measure()
