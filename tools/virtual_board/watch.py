"""What the host can see and do behind the firmware's back; loaded only when it is asked for.

Log of flash operations: `erase|program <address> <length>`. Log of the heap, after a collection:
`boot|op|asked <bytes in use>`: before boot.py, at a program operation, when the host asked; but for
`op`, what MicroPython prints about heap and names comes first.
"""

import gc

import ffi
import micropython
from micropython import const

_POWER_CUT = const(66)


def start(settings, chip, time):
    """settings: see power_on.py. time: the real ticks_ms."""
    global cut_at, torn, ops, heap, control, ticks, stdout, _count
    cut_at = settings.get("cut_at", 0)
    torn = settings.get("torn", 0)
    ops, heap = (
        open(settings[name], "ab") if settings.get(name) else None  # noqa: SIM115
        for name in ("ops", "heap")
    )
    control = chip.control
    ticks = time
    libc = ffi.open(None)  # a text in the source would be one more name
    calls = ((b"dup", "i"), (b"dup2", "i" * 2), (b"close", "i"))
    stdout = [libc.func("i", name, arguments) for name, arguments in calls]
    _count = 0


def begin(kind, address, length):
    """Count a flash operation; the number of its bytes that happen."""
    global _count
    _count += 1
    if ops:
        ops.write("%s %d %d\n" % (kind, address, length))
    return min(torn, length) if _count == cut_at else length


def end(kind, exit):
    """After an operation: cut the power if it was the one."""
    if _count == cut_at:
        exit(_POWER_CUT)
    if kind == "program":
        sample("op")


def sample(label):
    if heap:
        gc.collect()
        used = gc.mem_alloc()
        if label != "op":
            dup, dup2, close = stdout
            console = dup(1)
            dup2(heap.fileno(), 1)
            micropython.mem_info()
            micropython.qstr_info()
            dup2(console, 1)
            close(console)
        heap.write("%s %d\n" % (label, used))


def ticks_ms():
    """In place of time.ticks_ms: answers the host's request, if there is one."""
    if control:
        control.seek(1)
        if control.read(1) == b"1":
            control.seek(1)
            control.write(b"0")  # first: the next request may follow on the answer
            sample("asked")
    return ticks()
