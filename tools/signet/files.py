"""Files that appear whole or not at all.

A file is written under a temporary name in the target's own folder, flushed to the disk, read
back and only then given its name; after a failure, or when the program is interrupted, neither
the target nor the temporary file is left. SIGKILL and a power cut can leave the temporary file
(`.<name>.<random>`), never a partial target.

A file replaces only one of its own kind, which is told by its first bytes: a name that was
mistyped costs no key.
"""

import contextlib
import glob
import os
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from signet.errors import RefusedError, SignetError

SECRET_MODE = 0o600
SECRET_FOLDER_MODE = 0o700
_PUBLIC_MODE = 0o666  # less the user's umask
_HEAD_LEN = 4096
_MAX_LEN = 64 << 20  # the largest flash has 16


@dataclass(frozen=True)
class Kind:
    """A kind of file. name: for people. begins: whether the first 4096 bytes of one are these."""

    name: str
    begins: Callable[[bytes], bool]


# For a folder that the program has made for itself.
OURS = Kind("a file of a folder of its own", lambda _: True)


def read_file(path: Path, what: str) -> bytes:
    """A file's content, 64 MiB at most; SignetError names it as `what` if it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_LEN + 1)
    except OSError as error:
        raise SignetError(f"{path}: cannot read the {what}: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name
        raise SignetError(f"{str(path)!r}: cannot read the {what}: {error}") from error
    if len(data) > _MAX_LEN:  # /dev/zero has no end
        raise SignetError(f"{path}: more than {_MAX_LEN >> 20} MiB, which no {what} has")
    return data


def create_exclusive(path: Path, data: bytes | bytearray, mode: int = _PUBLIC_MODE) -> None:
    """Create a file that did not exist (O_EXCL) with exactly `data`, and flush it to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def make_folder(folder: Path) -> None:
    """Make a folder that others may read, and those it lies in, if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SignetError(f"{folder}: cannot make the folder: {error.strerror}") from error


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


def replace_file(path: Path, data: bytes, kind: Kind, mode: int = _PUBLIC_MODE) -> None:
    """Write a file, which others may read, over an older one of this kind if there is one.

    Raises RefusedError, and the other file is as it was, if `path` names one of another kind.
    """
    path = check_kind(path, kind)
    with _whole_file(path, data, mode) as temporary:
        os.replace(temporary, path)


def check_kind(path: Path, kind: Kind) -> Path:
    """The path of what would be replaced, of a link its target; RefusedError if it is another kind.

    An empty file is of every kind.
    """
    try:
        if path.is_symlink():
            path = path.resolve()  # the file, not the link, is replaced
        if not path.exists():
            return path
        if not path.is_file():
            raise SignetError(f"{path}: not a regular file")  # /dev/null, and we may be root
        with path.open("rb") as file:
            head = file.read(_HEAD_LEN)
    except (OSError, RuntimeError) as error:  # RuntimeError: a link to itself
        raise SignetError(f"{path}: cannot look at what it would replace: {error}") from error
    if head and not kind.begins(head):
        raise RefusedError(
            f"{path}: exists and is {_describe(head)}, expected {kind.name} or nothing",
            "nothing was written; use another name, or remove that file first",
        )
    return path


def _describe(head: bytes) -> str:
    """What a file is, without what may be secret in it."""
    found = re.match(rb"-----BEGIN ([A-Z ]+)-----", head)
    return f"a PEM file, {found[1].decode()}" if found else "a file of another kind"


def write_new_file(path: Path, data: bytes) -> None:
    """Write a file that others may read; RefusedError if the name is taken."""
    _write_new(path, data, _PUBLIC_MODE)


def remove_file(path: Path, kind: Kind) -> None:
    """Remove a file of this kind, if it is there; RefusedError if it is of another."""
    check_kind(path, kind)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise SignetError(f"{path}: cannot remove: {error.strerror}") from error


def write_new_secret(path: Path, data: bytes | bytearray) -> None:
    """Write a file with mode 0600; RefusedError if the name is taken."""
    _write_new(path, data, SECRET_MODE)


def _write_new(path: Path, data: bytes | bytearray, mode: int) -> None:
    with _whole_file(path, data, mode) as temporary:
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
