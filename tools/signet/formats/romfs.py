"""Archives in MicroPython's ROMFS format: made here, read with the device's own code.

The index comes first, so that a board finds a file within a kilobyte, and all data behind it, in
one record. The same files give the same bytes.

Format: MicroPython, extmod/vfs_rom.c, and `VfsRomWriter` of its mpremote.
"""

import gc
from collections.abc import Iterator

from romfs import Archive, files
from signet.errors import RefusedError, SignetError
from signet.formats.flash import SECTOR_LEN, BlockDevice

_MAGIC = b"\xd2\xcd\x31"
_DATA = 2
_POINTER = 3
_FOLDER = 4
_FILE = 5
_IS_FOLDER = 0x4000  # of stat
_MAX_NAME_LEN = 255
_MAX_DEPTH = 8  # when it is listed: an application of any sense has fewer
_MAX_FILES = 1000
_MAX_RECORDS = 1_000_000  # to find each of 1000 files in one folder takes half of them

Tree = dict[str, "Tree | bytes"]


def pack(contents: dict[str, bytes]) -> bytes:
    """An archive with these files (path: content), filled with 0xFF to a multiple of 4096 bytes."""
    tree: Tree = {}
    for path, content in sorted(contents.items()):
        _add(tree, path, content)
    # Where the data begins depends on how long the index is, and that on how long the numbers in it
    # are. Both only grow from one round to the next, until they agree.
    start, found = -1, 0
    while start != found:
        start, data = found, bytearray()
        index = _index(tree, start, data)
        head = _record_head(_DATA, len(data))
        found = len(index) + len(head)
    archive = _MAGIC + _number(found + len(data)) + index + head + data
    return archive + b"\xff" * (-len(archive) % SECTOR_LEN)


def _add(tree: Tree, path: str, content: bytes) -> None:
    *folders, name = path.split("/")
    for part in (*folders, name):
        if not 0 < len(part.encode()) <= _MAX_NAME_LEN or part in (".", ".."):
            raise SignetError(f"{path}: not a path that an archive can have")
    for folder in folders:
        inner = tree.setdefault(folder, {})
        if isinstance(inner, bytes):
            raise SignetError(f"{path}: {folder} is a file")
        tree = inner
    if name in tree:
        raise SignetError(f"{path}: a folder of this name is there, too")
    tree[name] = content


def _index(tree: Tree, start: int, data: bytearray) -> bytes:
    """The records of a folder; the content of its files is appended to data, which is at start."""
    records = b""
    for name, inner in tree.items():
        title = _number(len(name.encode())) + name.encode()
        if isinstance(inner, bytes):
            place = _number(len(inner)) + _number(start + len(data))
            data += inner
            records += _record(_FILE, title + _record(_POINTER, place))
        else:
            records += _record(_FOLDER, title + _index(inner, start, data))
    return records


def _record(kind: int, content: bytes) -> bytes:
    return _record_head(kind, len(content)) + content


def _record_head(kind: int, length: int) -> bytes:
    return _number(kind) + _number(length)


def _number(value: int) -> bytes:
    """Seven bits a byte, high ones first; all but the last have their top bit set."""
    encoded = [value & 0x7F]
    while value := value >> 7:
        encoded.insert(0, 0x80 | value & 0x7F)
    return bytes(encoded)


class _Bounded(Archive):
    """A board's reader that gives up: folders of one name, in each other, take it for ever."""

    _left = _MAX_RECORDS

    def records(self, at: int, end: int) -> Iterator[tuple[int, int, int]]:
        for record in super().records(at, end):
            self._left -= 1
            if self._left < 0:
                raise RefusedError(f"archive: took more than {_MAX_RECORDS} steps to read")
            yield record


def list_files(archive: bytes) -> dict[str, int]:
    """Path and size of every file; RefusedError if it is not a sound archive."""
    return {path: len(content) for path, content in read_files(archive).items()}


def read_files(archive: bytes) -> dict[str, bytes]:
    """Path and content of every file; RefusedError if it is not a sound archive.

    What a board finds is found here: by its own code, and by nothing else.
    """
    padded = bytearray(archive + b"\xff" * (-len(archive) % SECTOR_LEN))
    found: dict[str, bytes] = {}
    # A board collects its garbage at each file that it opens. Here that would look at everything
    # that this process has, some 50 times, for seconds: so none of that is looked at.
    gc.freeze()
    try:
        _read(_Bounded(BlockDevice(memoryview(padded)), 0, len(archive)), "", found)
    except (OSError, UnicodeDecodeError) as error:
        raise RefusedError(f"not a sound ROMFS archive: {error}") from error
    finally:
        gc.unfreeze()
    return found


def _read(archive: Archive, folder: str, found: dict[str, bytes]) -> None:
    if folder.count("/") > _MAX_DEPTH:
        raise RefusedError(f"archive: more than {_MAX_DEPTH} levels of folders")
    for name, kind, _, size in files.entries(archive, folder):
        if len(found) >= _MAX_FILES:
            raise RefusedError(f"archive: more than {_MAX_FILES} files")
        path = f"{folder}/{name}"
        if kind == _IS_FOLDER:
            _read(archive, path, found)
        else:
            if size > archive.length - sum(map(len, found.values())):
                raise RefusedError("archive: its files are larger than it is")
            content = bytearray(size)
            archive.open(path, "rb").readinto(content)
            found[path] = bytes(content)
