"""`machine` of the ESP32 port: what a headless board uses."""

import time as _time

import chip as _chip
from micropython import const

PWRON_RESET = 1
HARD_RESET = 2
WDT_RESET = 3
DEEPSLEEP_RESET = 4
SOFT_RESET = 5
PIN_WAKE = 2
TIMER_WAKE = 4

_FOREVER = const(0xFFFFFFFF)
_MEMORY_LEN = const(2048)
_EFUSES = const(0x3FF5A000)
del const  # the chip's module has none


def reset():
    _chip.stop(_chip.HARD_RESET)


def soft_reset():
    raise SystemExit


def deepsleep(time_ms=_FOREVER):
    _chip.sleep(time_ms)


def reset_cause():
    return _chip.cause


def wake_reason():
    return _chip.wake


def unique_id():
    return _chip.mac


class _Registers:
    """Of all the registers, the eFuses' (chip.py)."""

    def __getitem__(self, address):
        if address >> 8 != _EFUSES >> 8:
            raise NotImplementedError("virtual board: register 0x%x" % address)
        return _chip.efuses.get(address, 0)


mem32 = _Registers()


class WDT:
    """machine_wdt.c: one timer, which a second construction reconfigures."""

    def __init__(self, id=0, timeout=5000):
        if id != 0:
            raise ValueError
        if timeout <= 0:
            raise ValueError("WDT timeout too short")
        WDT._timeout = timeout
        _chip.arm_watchdog(timeout)

    def feed(self):
        _chip.arm_watchdog(WDT._timeout)


class RTC:
    """machine_rtc.c."""

    def datetime(self, datetimetuple=None):
        if datetimetuple is None:
            now_ns = _chip.now_ns()
            year, month, day, hour, minute, second, weekday, _ = _time.gmtime(
                now_ns // 1_000_000_000
            )
            microsecond = now_ns // 1000 % 1_000_000
            return (year, month, day, weekday, hour, minute, second, microsecond)
        year, month, day, _, hour, minute, second, microsecond = datetimetuple
        seconds = _time.mktime((year, month, day, hour, minute, second, 0, 0))
        _chip.set_clock_ns((seconds * 1_000_000 + microsecond) * 1000)

    def memory(self, data=None):
        if data is None:
            return _chip.read_memory()
        if len(data) > _MEMORY_LEN:
            raise ValueError("buffer too long")
        _chip.write_memory(data)
