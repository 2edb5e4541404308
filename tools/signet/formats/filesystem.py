"""Make and list littlefs file systems as MicroPython mounts them.

The same files give the same bytes: names are sorted, littlefs keeps no times, and blocks never
wear. Disk version 2.1, blocks of 4096 bytes.
"""

from dataclasses import dataclass
from pathlib import PurePosixPath

from littlefs import LittleFS, UserContext
from littlefs.errors import LittleFSError

from signet.errors import RefusedError, SignetError

BLOCK_LEN = 4096
NAME_MAX = 255
_DISK_VERSION = 0x0002_0001
_LOOKAHEAD_LEN = 32
_NO_SPACE = -28
_SUPERBLOCKS = 2
_MAX_DEPTH = 8  # when listing: a damaged file system can contain itself
_MAX_ENTRIES = 1000


@dataclass(frozen=True)
class Geometry:
    """Bytes that littlefs reads and programs at a time: VfsLfs2's readsize and progsize."""

    access_len: int

    @property
    def cache_len(self) -> int:
        """The cache as MicroPython sets it (extmod/vfs_lfsx.c)."""
        return 4 * self.access_len


SLOT = Geometry(256)  # as main.py mounts a slot, for quick imports
VFS = Geometry(32)  # VfsLfs2's default, as the ESP32 port mounts `vfs`


def pack(files: dict[str, bytes], geometry: Geometry, block_count: int) -> bytes:
    """A file system of exactly `block_count` blocks with these files (path: content).

    Raises RefusedError if they do not fit.
    """
    image = _try_pack(files, geometry, block_count)
    if image is None:
        raise RefusedError(
            f"{sum(map(len, files.values()))} bytes in {len(files)} files do not fit into "
            f"{block_count} blocks of {BLOCK_LEN}"
        )
    return image


def pack_smallest(files: dict[str, bytes], geometry: Geometry, most_blocks: int) -> bytes:
    """A file system with these files in as few blocks as hold them, at most `most_blocks`."""
    least = sum(len(content) // BLOCK_LEN for content in files.values()) + _SUPERBLOCKS
    for block_count in range(least, most_blocks):
        image = _try_pack(files, geometry, block_count)
        if image is not None:
            return image
    return pack(files, geometry, most_blocks)


def list_files(image: bytes, geometry: Geometry) -> dict[str, int]:
    """Path and size of every file; RefusedError if the image is not a sound file system."""
    return {path: len(content) for path, content in read_files(image, geometry).items()}


def read_files(image: bytes, geometry: Geometry) -> dict[str, bytes]:
    """Path and content of every file; RefusedError if the image is not a sound file system."""
    try:
        fs = _open(UserContext(buffer=bytearray(image)), geometry, len(image) // BLOCK_LEN)
        fs.mount()
        found: dict[str, bytes] = {}
        _read(fs, PurePosixPath("/"), found)
    except LittleFSError as error:
        raise RefusedError(f"not a sound littlefs file system: {error}") from error
    return found


def _read(fs: LittleFS, folder: PurePosixPath, found: dict[str, bytes]) -> None:
    for entry in fs.scandir(str(folder)):
        path = folder / entry.name
        if len(path.parts) > _MAX_DEPTH or len(found) > _MAX_ENTRIES:
            raise RefusedError(
                f"file system: more than {_MAX_ENTRIES} files or {_MAX_DEPTH} levels"
            )
        if entry.type == entry.TYPE_DIR:
            _read(fs, path, found)
        else:
            with fs.open(str(path), "rb") as file:
                found[str(path)] = file.read()


def _try_pack(files: dict[str, bytes], geometry: Geometry, block_count: int) -> bytes | None:
    """The file system, or None if the files do not fit."""
    context = UserContext(buffsize=BLOCK_LEN * block_count)
    fs = _open(context, geometry, block_count)
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


def _open(context: UserContext, geometry: Geometry, block_count: int) -> LittleFS:
    return LittleFS(
        context,
        mount=False,
        block_size=BLOCK_LEN,
        block_count=block_count,
        read_size=geometry.access_len,
        prog_size=geometry.access_len,
        cache_size=geometry.cache_len,
        lookahead_size=_LOOKAHEAD_LEN,
        name_max=NAME_MAX,
        disk_version=_DISK_VERSION,
    )
