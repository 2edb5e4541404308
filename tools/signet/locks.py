"""Locks between processes: one goes with the process that has it, however that ends."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from signet.errors import SignetError


def try_lock(handle: int | IO[str]) -> bool:
    """Lock an open file or folder; False if another process has it.

    The lock is on what was opened: whoever inherits the descriptor has it, too, until all are
    closed.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def claim(path: Path, refusal: str, hint: str, about: str = "") -> Iterator[IO[str]]:
    """Have a lock file, which says what process has it, until the block ends.

    refusal, hint: of the SignetError if another process has it. about: to be said of this one then.
    """
    with path.open("a+") as file:
        if not try_lock(file):
            file.seek(0)
            raise SignetError(f"{refusal}, process {file.read().strip()}", hint)
        name_holder(file, os.getpid(), about)
        yield file


def name_holder(file: IO[str], process: int, about: str = "") -> None:
    """Say in a claimed lock file what process has it."""
    file.truncate(0)
    file.write(f"{process}{about}\n")
    file.flush()
