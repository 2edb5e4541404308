# mypy: ignore-errors
# MicroPython, whose stubs this file does not see.
"""Power cuts in mqtt.store: the process ends at a given operation on files.

The names `open` and `os` of that module are replaced, and each use of them counted.
"""

import os as real_os

STATUS = 77  # what the process ends with


def _exit():
    """End now: no `finally`, nothing flushed; the kernel closes the sockets."""
    import ffi  # here: the tests import this file, too

    ffi.open(None).func("v", "_exit", "i")(STATUS)


class _Meter:
    def __init__(self, number, when):
        self._number = number  # 0: never
        self._when = when
        self.operations = []

    def run(self, name, operation, half=None):
        """half: what is done in place of the operation when power goes in the middle of it."""
        self.operations.append(name)
        now = len(self.operations) == self._number
        if now and self._when == "before":
            _exit()
        if now and self._when == "half" and half:
            half()
            _exit()
        result = operation()
        if now:
            _exit()
        return result


class _Os:
    def __init__(self, meter):
        self._meter = meter

    def rename(self, old, new):
        self._meter.run("rename", lambda: real_os.rename(old, new))

    def remove(self, path):
        self._meter.run("remove", lambda: real_os.remove(path))

    def __getattr__(self, name):
        return getattr(real_os, name)


class _File:
    def __init__(self, meter, file):
        self._meter = meter
        self._file = file

    def write(self, data):
        def half():
            self._file.write(memoryview(data)[: len(data) // 2])
            self._file.close()

        return self._meter.run("write", lambda: self._file.write(data), half)

    def close(self):
        self._meter.run("close", self._file.close)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __getattr__(self, name):
        return getattr(self._file, name)


def install(store, number, when):
    """Cut at the `number`-th operation of the module; returns the list of them, which grows."""
    meter = _Meter(number, when)

    def metered_open(path, mode="r"):
        if "w" not in mode:
            return open(path, mode)
        return _File(meter, meter.run("open", lambda: open(path, mode)))

    store.os = _Os(meter)
    store.open = metered_open
    return meter.operations
