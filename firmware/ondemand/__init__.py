"""Modules that are needed now and then, and memory that is needed all the time.

Code imported from a slot costs 1.3 times its size in heap.  What only a boot, a clock
setting or an update needs is imported where it is used, and dropped here after it.
"""

import gc
import sys

_MODULES = {
    "firmware.ondemand": (
        "control",
        "credentials",
        "download",
        "install",
        "link",
        "lock",
        "orders",
        "report",
        "service",
        "sntp",
        "updater",
    ),
    "mqtt": ("connect",),
    "trust": ("boot", "identity", "image", "signature", "state"),
}


def unload():
    """Forget the modules; whoever is still running in one keeps it until he returns."""
    for package, names in _MODULES.items():
        parent = sys.modules.get(package)
        for name in names:
            path = package + "." + name
            if path in sys.modules:
                # MicroPython's dicts keep the value of a deleted entry: put another there first.
                sys.modules[path] = None
                del sys.modules[path]
                setattr(parent, name, None)
                delattr(parent, name)
    gc.collect()
