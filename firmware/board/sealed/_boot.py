"""Runs before everything else on a sealed board, frozen, and never returns.

The port runs this script without arming Ctrl-C, so stage 1 is started from here; what would
follow (a boot.py, a main.py, a console) is never reached.  `sys.path` loses "" and "/lib" first:
a file on `vfs` would shadow a frozen module of its name.
"""

import sys

sys.path[:] = (".frozen",)

try:
    import vfs
    from esp32 import Partition

    try:
        vfs.mount(Partition.find(Partition.TYPE_DATA, label="vfs")[0], "/")
    except (OSError, IndexError):
        pass  # nothing that is trusted is on it; what misses its settings reports that

    # Restarts by itself; comes back only to open a console, and here is none.
    import boot  # noqa: F401
finally:
    import machine

    machine.reset()
