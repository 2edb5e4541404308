"""Make and list the littlefs file system of a board's `vfs`, as the ESP32 port mounts it.

The same files give the same bytes: names are sorted, littlefs keeps no times, and blocks never
wear. Disk version 2.1, blocks of 4096 bytes.
"""

import itertools
import time
from collections.abc import Iterator
from pathlib import PurePosixPath

from littlefs import LFSConfig, LittleFS, UserContext
from littlefs.errors import LittleFSError

from signet.errors import RefusedError, SignetError

BLOCK_LEN = 4096
NAME_MAX = 255
_DISK_VERSION = 0x0002_0001
_ACCESS_LEN = 32  # read and programmed at a time: VfsLfs2's defaults, as the port mounts `vfs`
_LOOKAHEAD_LEN = 32
_NO_SPACE = -28
_MAX_DEPTH = 8  # when listing: a damaged file system can contain itself
_MAX_ENTRIES = 1000
_MAX_S = 2.0  # of processor time to read a whole chip, which takes milliseconds


def pack(files: dict[str, bytes], block_count: int) -> bytes:
    """A file system of exactly `block_count` blocks with these files (path: content).

    Raises RefusedError if they do not fit.
    """
    image = _try_pack(files, block_count)
    if image is None:
        raise RefusedError(
            f"{sum(map(len, files.values()))} bytes in {len(files)} files do not fit into "
            f"{block_count} blocks of {BLOCK_LEN}"
        )
    return image


def list_files(image: bytes) -> dict[str, int]:
    """Path and size of every file; RefusedError if the image is not a sound file system."""
    try:
        fs = _open(_Bounded(bytearray(image)), len(image) // BLOCK_LEN)
        fs.mount()
        found: dict[str, int] = {}
        _list(fs, "", found, itertools.count())
    except (LittleFSError, UnicodeDecodeError) as error:
        raise RefusedError(f"not a sound littlefs file system: {error}") from error
    return found


class _Bounded(UserContext):
    """A chip that falls silent, as if erased, when it has been read for too long.

    What is chained in a circle is read for ever, in C, where nothing else ends it.
    """

    def __init__(self, buffer: bytearray):
        super().__init__(buffer=buffer)
        self._end = time.thread_time() + _MAX_S

    def read(self, cfg: LFSConfig, block: int, off: int, size: int) -> bytearray:
        if time.thread_time() > self._end:
            return bytearray(b"\xff" * size)
        start = block * cfg.block_size + off
        return bytearray(self.buffer[start : start + size]).ljust(size, b"\xff")


def _list(fs: LittleFS, folder: str, found: dict[str, int], count: Iterator[int]) -> None:
    """count: of entries so far, by whatever name: those of a circle have the same ones."""
    for entry in fs.scandir(folder or "/"):
        path = f"{folder}/{entry.name}"
        if path.count("/") >= _MAX_DEPTH or next(count) > _MAX_ENTRIES:
            raise RefusedError(
                f"file system: more than {_MAX_ENTRIES} files or {_MAX_DEPTH} levels"
            )
        if entry.type == entry.TYPE_DIR:
            _list(fs, path, found, count)
        else:
            found[path] = entry.size


def _try_pack(files: dict[str, bytes], block_count: int) -> bytes | None:
    """The file system, or None if the files do not fit."""
    context = UserContext(buffsize=BLOCK_LEN * block_count)
    fs = _open(context, block_count)
    try:
        fs.format()
        fs.mount()
        for path in sorted(files):
            fs.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
            with fs.open(path, "wb") as file:
                file.write(files[path])
        fs.unmount()
    except LittleFSError as error:
        if error.code == _NO_SPACE:
            return None
        raise SignetError(f"littlefs: {error}") from error
    return bytes(context.buffer)


def _open(context: UserContext, block_count: int) -> LittleFS:
    return LittleFS(
        context,
        mount=False,
        block_size=BLOCK_LEN,
        block_count=block_count,
        read_size=_ACCESS_LEN,
        prog_size=_ACCESS_LEN,
        cache_size=4 * _ACCESS_LEN,
        lookahead_size=_LOOKAHEAD_LEN,
        name_max=NAME_MAX,
        disk_version=_DISK_VERSION,
    )
