"""Files that appear whole or not at all.

A file is written under a temporary name in the target's own folder, flushed to the disk, read
back and only then given its name; after a failure, or when the program is interrupted, neither
the target nor the temporary file is left. SIGKILL and a power cut can leave the temporary file
(`.<name>.<random>`), never a partial target.
"""

import contextlib
import glob
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from signet.errors import RefusedError, SignetError

SECRET_MODE = 0o600
SECRET_FOLDER_MODE = 0o700
_PUBLIC_MODE = 0o666  # less the user's umask


def read_file(path: Path, what: str) -> bytes:
    """The content of a file; SignetError names it as `what` if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise SignetError(f"{path}: cannot read the {what}: {error.strerror}") from error


def create_exclusive(path: Path, data: bytes | bytearray, mode: int = _PUBLIC_MODE) -> None:
    """Create a file that did not exist (O_EXCL) with exactly `data`, and flush it to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Make the names in a folder as lasting as the files that they belong to."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(path: Path) -> None:
    """Remove temporary files of `path` that a killed program left; nobody may be writing it."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        leftover.unlink(missing_ok=True)


def replace_file(path: Path, data: bytes, mode: int = _PUBLIC_MODE) -> None:
    """Write a file, which others may read, over an older one if there is one."""
    if path.is_symlink():
        path = path.resolve()  # the file, not the link, is replaced
    if path.exists() and not path.is_file():
        raise SignetError(f"{path}: not a regular file")  # /dev/null, and we may be root
    with _whole_file(path, data, mode) as temporary:
        os.replace(temporary, path)


def remove_file(path: Path) -> None:
    """Remove a file, if it is there."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise SignetError(f"{path}: cannot remove: {error.strerror}") from error


def write_new_secret(path: Path, data: bytes | bytearray) -> None:
    """Write a file with mode 0600; RefusedError if the name is taken."""
    with _whole_file(path, data, SECRET_MODE) as temporary:
        try:
            os.link(temporary, path)  # unlike a rename, a link never replaces
        except FileExistsError as error:
            raise RefusedError(f"{path}: exists, and is not overwritten") from error


@contextlib.contextmanager
def _whole_file(path: Path, data: bytes | bytearray, mode: int) -> Iterator[Path]:
    """A temporary sibling of `path` that holds `data`, read back; gone when the block ends."""
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        create_exclusive(temporary, data, mode)
        if temporary.read_bytes() != data:
            raise SignetError(f"{path}: what was read back differs from what was written")
        yield temporary
    except OSError as error:
        raise SignetError(f"{path}: cannot write: {error.strerror}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):  # renamed, or never made
            temporary.unlink()
