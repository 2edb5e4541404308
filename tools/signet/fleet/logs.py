"""Logs to which others can add: readable by their owner alone, and of a bounded size."""

import os
import shutil
from pathlib import Path
from typing import BinaryIO

from signet import files
from signet.errors import SignetError

MAX_LEN = 16 << 20


def open_log(path: Path) -> BinaryIO:
    """Open a log for appending; what an older version left readable is closed to others."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        log = os.fdopen(os.open(path, flags, files.SECRET_MODE), "ab")
        os.fchmod(log.fileno(), files.SECRET_MODE)
    except OSError as error:  # ELOOP: a link
        raise SignetError(f"{path}: cannot write the log: {error.strerror}") from error
    return log


def trim(path: Path) -> None:
    """If a log is too long, move its content to `<name>.1`, over what was there.

    The file itself stays, as its writer has it open, for appending. Lines that are written just now
    can get lost.
    """
    if not path.exists() or path.stat().st_size <= MAX_LEN:
        return
    older = path.with_name(f"{path.name}.1")
    older.unlink(missing_ok=True)
    with path.open("rb") as log, open_log(older) as copy:
        shutil.copyfileobj(log, copy)
    os.truncate(path, 0)
