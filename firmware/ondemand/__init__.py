"""Modules that come and go: what is in this folder is in memory only while it is needed.

Code imported from a slot costs 1.3 times its size in heap.  What only a boot, a clock setting, an
order or an update needs lies here, is imported where it is used, and is dropped by `unload`; the
modules beside this folder stay.  A new module needs no entry anywhere.
"""

import gc
import sys

from micropython import const

# Besides: stage 1's modules, of which the packages themselves stay, and what is only needed to
# connect, to subscribe, after a connection that failed, or for a message that is too large.  One
# text takes less memory than as many.
_PLACES = const(
    "firmware.ondemand. trust. romfs. mtls. "
    "mqtt.blame mqtt.check mqtt.connect mqtt.drain mqtt.setup"
)


def unload():
    """Forget the modules; whoever is still running in one keeps it until he returns."""
    for path in list(sys.modules):
        if any(path.startswith(place) for place in _PLACES.split()):
            package, _, name = path.rpartition(".")
            # MicroPython's dicts keep the value of a deleted entry: put another there first.
            sys.modules[path] = None
            del sys.modules[path]
            parent = sys.modules.get(package)
            if parent:
                setattr(parent, name, None)
                delattr(parent, name)
    gc.collect()
