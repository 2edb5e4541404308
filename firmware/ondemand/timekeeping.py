"""Wall clock: Unix seconds that never fall below what the board can be sure of.

The floor is the build time of the verified image, what the number of the last order proves, and
the last time that was authenticated (firmware/ondemand/sync.py).  SNTP
(firmware/ondemand/sntp.py) is not: it is a guess above the floor that lets TLS start, and nothing
that lasts comes of it.
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


def start(floor):
    """Have the clock start no earlier than `floor` and the last time that was kept.

    Returns the later of the two; Unix seconds.
    """
    floor = max(floor, _load(floor))
    if now() < floor:
        set_time(floor)
    return floor


def keep(unix_s):
    """Remember an authenticated time, once a day; of any other, a forged one would last."""
    if unix_s > _load(unix_s) + _SAVE_EVERY_S:
        store.save(_PATH, b"%d" % unix_s)


def _load(known_s):
    """The last time that was kept, or 0.  known_s: a time that it cannot be far above."""
    saved = store.load(_PATH, 16)
    unix_s = int(saved) if saved and saved.isdigit() else 0
    return unix_s if unix_s <= known_s + _LIFE_S else 0  # damaged, or put there by somebody
