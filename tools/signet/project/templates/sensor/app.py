"""The application: reads a thermometer and sends what it says.

The agent runs `run(device)` as a task. The task has to come by `device.sleep` at least every 60 s;
a task that ends, raises or falls silent restarts the board.
"""

import lm75

SETTINGS = {"interval_s": (10, 1, 3600)}  # of the configuration: default, least, most


def open_bus():
    """The bus that the sensor is on; a virtual board, which has none, gets a simulated one."""
    try:
        from machine import I2C, Pin
    except ImportError:
        import simulated

        return simulated.Bus()
    return I2C(0, scl=Pin(22), sda=Pin(21))


async def run(device):
    """Send the temperature every `interval_s` seconds."""
    device.configure(SETTINGS)
    sensor = lm75.LM75(open_bus())
    while True:
        device.telemetry(measure(sensor))
        await device.sleep(device.config["interval_s"])


def measure(sensor):
    """What to send: the temperature, or why there is none. A cable may be loose."""
    try:
        return {"temperature_c": sensor.read_c()}
    except OSError as error:
        return {"fault": "sensor: %s" % error}


async def self_test(device):
    """Before a new version is confirmed: raise if it is not fit to stay."""
    lm75.LM75(open_bus()).read_c()
