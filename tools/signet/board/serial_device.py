"""Serial ports by name: a device in /dev, and nothing else that esptool or mpremote would take.

Both hand a name to pyserial, for which `spy://…?file=…` writes a file and `socket://…` reaches the
network; and a list of boards, which has such names, may be from somebody else.
"""

import os
import re
import stat
from pathlib import Path

from signet.errors import SignetError

_FOLDER = "/dev/"
# What Linux calls serial devices, and the other end of a pseudo-terminal. Not among them: consoles
# (tty, tty1), whoever makes pseudo-terminals (ptmx), memory, disks.
_DEVICE = re.compile(r"/dev/(tty[A-Za-z]+[0-9]+|rfcomm[0-9]+|pts/[0-9]+)")
_EXPECTED = "expected a serial device such as /dev/ttyUSB0"


def check_name(name: str) -> str:
    """The name, if it can be that of a device; SignetError for URLs, options, relative paths."""
    if "://" in name:
        raise SignetError(f"port {name!r}: {_EXPECTED}, found a URL")
    if not name.startswith(_FOLDER) or ".." in Path(name).parts or not name.isprintable():
        raise SignetError(f"port {name!r}: {_EXPECTED}, found no path in {_FOLDER}")
    return name


def check_device(name: str) -> str:
    """The name, if a serial device has it, or is what it links to; else SignetError."""
    target = os.path.realpath(check_name(name))
    try:
        mode = os.stat(target).st_mode
    except OSError as error:
        raise SignetError(
            f"port {name}: {_EXPECTED}, found none: {error.strerror}", "is the board plugged in?"
        ) from error
    if not stat.S_ISCHR(mode) or not _DEVICE.fullmatch(target):
        what = "another device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "no device"
        raise SignetError(f"port {name}: {_EXPECTED}, found {what}, {target}")
    return name
