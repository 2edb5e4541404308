"""`time` of the ESP32 port: epoch 2000, integer seconds, no time zone.

The ticks are the host's, of 62 bits, and so never wrap; the chip's, of 30 bits, do after twelve
days. asyncio is half C, which asks the host for them, so nothing else can be put in their place.
"""

import chip as _chip
import utime as _host
from micropython import const
from utime import (  # noqa: F401
    sleep,
    sleep_ms,
    sleep_us,
    ticks_add,
    ticks_cpu,
    ticks_diff,
    ticks_ms,
    ticks_us,
)

_UNIX_2000 = const(946684800)
del const  # the chip's module has none


def time():
    return _chip.now_ns() // 1_000_000_000


def time_ns():
    return _chip.now_ns()


def gmtime(secs=None):
    return _host.gmtime((time() if secs is None else secs) + _UNIX_2000)[:8]


localtime = gmtime


def mktime(local_time):
    return int(_host.mktime(local_time)) - _UNIX_2000  # the host runs the board with TZ=UTC
