"""The application: reads temperature and humidity, sends them, and raises an alarm.

A sensor that does not answer is a report and not the end: the board stays online, says so once,
goes on asking, and says when the sensor is back.
"""

import sht3x
from alarm import Alarm

_ATTEMPTS = 3  # at a measurement: a cable beside a motor loses a bit now and then
CONFIG = {
    "interval_s": (10, 1, 3600),
    "low_c": (-40.0, -40.0, 125.0),
    "high_c": (125.0, -40.0, 125.0),
}
_PLAY_C = 0.5  # by which it has to be back within the limits


def open_bus():
    """The bus that the sensor is on; a virtual board, which has none, gets a simulated one."""
    try:
        from machine import I2C, Pin
    except ImportError:
        import simulated

        return simulated.Bus()
    return I2C(0, scl=Pin(22), sda=Pin(21), freq=100_000)


async def run(device):
    """Measure every `interval_s` seconds (of down/config)."""
    device.configure(CONFIG)
    thermometer = Thermometer(sht3x.SHT3x(open_bus()), device)
    while True:
        await thermometer.work()
        await device.sleep(device.config["interval_s"])


async def self_test(device):
    """Before a new version is confirmed: one that cannot read its sensor may not stay.

    A sensor that has failed must not keep the next version out, though: one that does not answer
    at all is no reason.
    """
    sensor = sht3x.SHT3x(open_bus())
    try:
        sensor.reset()
    except OSError:
        return
    await device.sleep(0.002)
    await measure(sensor, device.sleep)


async def measure(sensor, sleep):
    """(°C, %) of the first attempt that works; OSError of the last one."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            sensor.start()
            await sleep(sht3x.MEASURING_MS / 1000)
            return sensor.read()
        except OSError:
            if attempt == _ATTEMPTS:
                raise


class Thermometer:
    """What is measured, reported; faults: measurements that failed since the start."""

    def __init__(self, sensor, device):
        self.faults = 0
        self._sensor = sensor
        self._device = device
        self._alarm = Alarm()
        self._is_well = None  # not known yet

    async def work(self):
        """Measure once, and report what there is to report."""
        device = self._device
        try:
            celsius, percent = await measure(self._sensor, device.sleep)
            was_reset = not self._is_well and self._sensor.was_reset()
        except OSError as error:
            self.faults += 1
            if self._is_well is not False:
                device.event("sensor", ok=False, reason=str(error))
            self._is_well = False
            return
        if self._is_well is False:
            # With its supply gone, too, the cable is loose; without, something disturbs the bus.
            device.event("sensor", ok=True, faults=self.faults, was_reset=was_reset)
        self._is_well = True
        device.telemetry({"temperature_c": celsius, "humidity_percent": percent})
        config = device.config
        if self._alarm.changes(celsius, config["low_c"], config["high_c"], _PLAY_C):
            device.event("alarm", on=self._alarm.is_on, temperature_c=celsius)
