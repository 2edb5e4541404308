"""The probe: a battery behind two equal resistors, a capacitive moisture sensor, a button.

A board without converters, as the virtual one is, gets a battery and a soil that dry up slowly.
"""

import time

_BATTERY = 35
_MOISTURE = 34
_DRY_UV, _WET_UV = 2_600_000, 1_100_000  # of the sensor, in air and in water


def measure():
    """(millivolts of the battery, moisture in thousandths)."""
    try:
        from machine import ADC, Pin
    except ImportError:
        hours = time.time() // 3600
        return 4100 - hours % 600, 500 - hours % 400
    battery = ADC(Pin(_BATTERY), atten=ADC.ATTN_11DB)
    sensor = ADC(Pin(_MOISTURE), atten=ADC.ATTN_11DB)
    return 2 * battery.read_uv() // 1000, moisture(sensor.read_uv())


def moisture(uv):
    """Thousandths, from the sensor's voltage: less is wetter."""
    return min(1000, max(0, (_DRY_UV - uv) * 1000 // (_DRY_UV - _WET_UV)))


def wake_on_button(number):
    """Have a button to ground end the sleep, too."""
    try:
        import esp32
        from machine import Pin
    except ImportError:  # no pins: the virtual board's are its host's
        return
    esp32.wake_on_ext0(Pin(number, Pin.IN, Pin.PULL_UP), esp32.WAKEUP_ALL_LOW)
