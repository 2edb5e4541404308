"""Wall clock: Unix seconds that never fall below what the board can be sure of.

SNTP (firmware/ondemand/sntp.py) is not authenticated, so it may move time only above the floor:
the build time of the verified image, the number of the last order (its time of
issue, signed), and the last time at which a server's certificate was accepted.  A
forged reply can move it forward until the next one; orders and certificates then look
expired, and nothing old looks fresh.
"""

import time

import machine
from micropython import const

from firmware.ondemand import store

EPOCH = 946684800 if time.gmtime(0)[0] == 2000 else 0  # the ESP32 port counts from 2000
_PATH = const("/time")
_SAVE_EVERY_S = const(86400)
_LIFE_S = const(315360000)  # ten years: longer without an order or a new image is not plausible


def now():
    """Unix seconds."""
    return int(time.time()) + EPOCH


def set_time(unix_s):
    year, month, day, hour, minute, second, weekday, _ = time.gmtime(unix_s - EPOCH)[:8]
    machine.RTC().datetime((year, month, day, weekday, hour, minute, second, 0))


class Clock:
    def __init__(self, floor):
        """Start no earlier than `floor` (Unix seconds) and the last time that was kept."""
        saved = store.load(_PATH, 16)
        self._saved = int(saved) if saved and saved.isdigit() else 0
        if self._saved > floor + _LIFE_S:  # damaged, or put there by somebody
            self._saved = 0
        self.floor = max(floor, self._saved)
        if now() < self.floor:
            set_time(self.floor)

    def keep(self):
        """Remember the time, once a day.  To be called when a server's certificate was valid:

        else one forged reply could push the floor, and with it the board, out of reach.
        """
        unix_s = now()
        if unix_s > self._saved + _SAVE_EVERY_S:
            store.save(_PATH, b"%d" % unix_s)
            self._saved = unix_s
