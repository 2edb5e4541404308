"""What the host can see and do behind the firmware's back; loaded only when it is asked for.

Log of flash operations: `erase|program <address> <length>`. Log of the heap, after a collection:
`boot|op|asked <bytes in use>`: before boot.py, at a program operation, when the host asked.
"""

import gc

from micropython import const

_POWER_CUT = const(66)


def start(settings, control, ticks):
    """settings: see power_on.py. ticks: the real ticks_ms."""
    global _cut_at, _torn, _ops, _heap, _control, _ticks, _count
    _cut_at = settings.get("cut_at", 0)
    _torn = settings.get("torn", 0)
    _ops, _heap = (
        open(settings[name], "ab") if settings.get(name) else None  # noqa: SIM115
        for name in ("ops", "heap")
    )
    _control = control
    _ticks = ticks
    _count = 0


def begin(kind, address, length):
    """Count a flash operation; the number of its bytes that happen."""
    global _count
    _count += 1
    if _ops:
        _ops.write("%s %d %d\n" % (kind, address, length))
    return min(_torn, length) if _count == _cut_at else length


def end(kind, exit):
    """After an operation: cut the power if it was the one."""
    if _count == _cut_at:
        exit(_POWER_CUT)
    if kind == "program":
        sample("op")


def sample(label):
    if _heap:
        gc.collect()
        used = gc.mem_alloc()
        _heap.write("%s %d\n" % (label, used))


def ticks_ms():
    """In place of time.ticks_ms: answers the host's request, if there is one."""
    if _control:
        _control.seek(1)
        if _control.read(1) == b"1":
            _control.seek(1)
            _control.write(b"0")  # first: the next request may follow on the answer
            sample("asked")
    return _ticks()
