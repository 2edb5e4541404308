"""The chip under the shims: flash, the RTC's domain, watchdog timer and power, over host files.

- Flash keeps a NOR flash's rules: an erase sets a sector to 0xFF, programming only clears bits.
  Every write goes to the file at once, so that a kill loses nothing that was written before it.
- An operation is one erased sector, or one program of at most 4096 bytes. watch.py can cut the
  power at any of them.
- `stop` is immediate: no exception handler, no `finally`, nothing in Python can catch it.
- The watchdog is the kernel's interval timer: it ends even a loop that never returns to Python.

power_on.py fills in the variables. The shims share the heap with the firmware, and on the chip
they cost it nothing: so this module holds no more than it must.
"""

import struct
import sys

import ffi
import utime  # the host's clock: `time` is a shim
import vfs
from micropython import const

# What the process ends with; names that `machine` has too, as each costs heap.
HARD_RESET = 64
DEEPSLEEP_RESET = 65
REPL = 67
SOFT_RESET = 68

_SECTOR = const(4096)
_CHUNK = const(256)
_ERASED = b"\xff" * 256

# The RTC file: u64 host time in ns at which the board's clock was 0, u32 ms to sleep, u32 ms that
# the watchdog had left, u16 length of the user memory, u16 zero; then 2048 bytes of user memory.
_RTC_SLEEP = const(8)
_RTC_WATCHDOG = const(12)
_RTC_MEMORY_LEN = const(16)
_RTC_MEMORY = const(20)

_libc = ffi.open(None)
stop = _libc.func("v", "_exit", "i")  # the process ends with this exit code
setitimer = _libc.func("i", "setitimer", "iPP")
getitimer = _libc.func("i", "getitimer", "iP")
_timer = bytearray(32)  # struct itimerval: interval and value, each seconds and microseconds
_tools = vfs.VfsPosix(__file__.rsplit("/", 2)[0])  # mountable after "/" is unmounted
_scratch = bytearray(256)

app = 0  # address of the running app's partition
cause = 0  # reset cause
wake = 0  # what ended a deep sleep; 0 after every other reset
mac = b""  # unique id
flash = None  # file of the whole chip
rtc = None  # file, see above
efuses = {}  # address of a register -> word; others are 0
origin_ns = 0  # its first field
control = None  # file; its first byte is the radio link
air = None  # file: what Ethernet's cable leads to, then a line for each access point
watch = None  # module watch, if the host watches


def leave(code):
    """Stop; a watchdog that is armed stays armed, so the host goes on waiting for it."""
    getitimer(0, _timer)
    _, _, seconds, microseconds = struct.unpack("llll", _timer)
    write_rtc(_RTC_WATCHDOG, "<I", seconds * 1000 + (microseconds + 999) // 1000)
    stop(code)


def import_rom(name):
    """Import code that the chip has in ROM or flash, from the host; gone when its user is done."""
    vfs.mount(_tools, "/host_tools")
    sys.path[:0] = ("/host_tools/virtual_board",)
    try:
        return __import__(name)
    finally:
        del sys.path[:1]
        vfs.umount("/host_tools")
        for used in (name, "idf"):
            sys.modules.pop(used, None)


# Flash. Addresses are absolute; bounds are the caller's, as in the IDF's esp_flash layer.


def read(address, buffer):
    """Fill `buffer` from the flash."""
    flash.seek(address)
    flash.readinto(buffer)


def erase(address):
    """Erase one sector."""
    length = watch.begin("erase", address, _SECTOR) if watch else _SECTOR
    flash.seek(address)
    for done in range(0, length, _CHUNK):
        flash.write(_ERASED[: length - done])
    if watch:
        watch.end("erase", stop)


def program(address, data):
    """Clear bits: what is there becomes (what is there AND `data`)."""
    view = memoryview(data)
    while view:
        part = view[:_SECTOR]
        view = view[_SECTOR:]
        if watch:
            part = part[: watch.begin("program", address, len(part))]
        for start in range(0, len(part), _CHUNK):
            new = part[start : start + _CHUNK]
            old = memoryview(_scratch)[: len(new)]
            read(address + start, old)
            if old != _ERASED[: len(new)]:
                both = int.from_bytes(old, "little") & int.from_bytes(new, "little")
                new = both.to_bytes(len(new), "little")
            flash.seek(address + start)
            flash.write(new)
        address += _SECTOR
        if watch:
            watch.end("program", stop)


# The RTC's domain: clock and memory that survive every reset but not a loss of power.


def now_ns():
    """Nanoseconds since 2000-01-01 by the board's clock; it starts there at power-on."""
    return utime.time_ns() - origin_ns


def set_clock_ns(value):
    global origin_ns
    origin_ns = utime.time_ns() - value
    write_rtc(0, "<q", origin_ns)


def read_memory():
    rtc.seek(_RTC_MEMORY_LEN)
    length = struct.unpack("<H", rtc.read(2))[0]
    rtc.seek(_RTC_MEMORY)
    return rtc.read(length)


def write_memory(data):
    rtc.seek(_RTC_MEMORY)
    rtc.write(data)
    write_rtc(_RTC_MEMORY_LEN, "<H", len(data))


def sleep(time_ms):
    """Deep sleep; 0xFFFFFFFF: until a pin ends it, or the power is cycled."""
    write_rtc(_RTC_SLEEP, "<I", time_ms)
    stop(DEEPSLEEP_RESET)


def write_rtc(offset, form, value):
    rtc.seek(offset)
    rtc.write(struct.pack(form, value))


def arm_watchdog(timeout_ms):
    """(Re)start the timer that ends the process; nothing stops it."""
    struct.pack_into("llll", _timer, 0, 0, 0, timeout_ms // 1000, timeout_ms % 1000 * 1000)
    setitimer(0, _timer, None)


def refusal(ssid, key):
    """Why Wi-Fi does not take us, as `network.WLAN.status` says it: 201, 202; 0 if it does."""
    if control:
        control.seek(0)
        if control.read(1) == b"0":
            return 201  # no such network
    return import_rom("access").refusal(air, ssid, key) if air else 0
