"""Where Signet's own files are: the device code, and the programs that are no Python packages.

In a checkout these are the checkout and its `.toolchain`. A wheel carries the device code in a
folder of this package, in the same order, and the programs go to the user's cache.
"""

import os
import shutil
import sys
from pathlib import Path

from signet.errors import SignetError
from signet.toolchain import SYSTEM_FOLDERS

_HERE = Path(__file__).resolve().parent
_INSIDE = _HERE / "source"  # in a wheel; pyproject.toml says what is in it
IS_CHECKOUT = not _INSIDE.is_dir()

# Holds boot.py, main.py, firmware/, lib/ and tools/virtual_board/.
SOURCE = _HERE.parents[1] if IS_CHECKOUT else _INSIDE


def _cache() -> Path:
    """The user's cache; by the XDG specification a relative path there counts as none."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return named if named.is_absolute() else Path.home() / ".cache"


# What `toolchain.install` makes: bin/micropython, bin/mosquitto and its clients.
TOOLCHAIN = SOURCE / ".toolchain" if IS_CHECKOUT else _cache() / "signet/toolchain"


def find_tool(name: str) -> Path:
    """The path of micropython, mosquitto or one of its clients: of TOOLCHAIN, else of PATH."""
    ours = TOOLCHAIN / "bin" / name
    path = os.environ.get("PATH", os.defpath) + SYSTEM_FOLDERS
    found = ours if ours.exists() else shutil.which(name, path=path)
    if found is None:
        raise SignetError(f"{name}: program not found", f"{install_command()} installs it")
    return Path(found)


def install_command() -> str:
    """What puts the programs into TOOLCHAIN."""
    if IS_CHECKOUT:
        return "make setup"
    return f"{sys.executable} -m signet.toolchain {TOOLCHAIN}"
