"""A read-only archive in MicroPython's ROMFS format, as a file system to mount.

Nothing outside the bytes that `Archive` was given is ever read, whatever the archive says: a
length or an offset that leads out of them, or out of the record that it stands in, is an OSError
(EIO).  An import needs no more than what is here; for whoever opens a file, `files` has the rest.

Format: MicroPython, extmod/vfs_rom.c.  Everything is a record: kind, length, content; the first two
are numbers of 7 bits a byte, high ones first.  A directory and a file begin with their name; a file
then has its data, or their length and their place behind the head of the outermost record.
"""

import gc
import io

from micropython import const

_MAGIC = const(b"\xd2\xcd\x31")
_DATA = const(2)  # kinds of records; whatever else there is, is passed over
_POINTER = const(3)
_FOLDER = const(4)
_FILE = const(5)

_BLOCK_LEN = const(4096)
_WINDOW_LEN = const(160)  # of the index in memory: all of it would be a kilobyte
_IMPORT_LEN = const(255)  # the most that MicroPython takes for the buffer of an import
_ENOENT = const(2)
_EIO = const(5)
_EROFS = const(30)


class Archive:
    """What `vfs.mount` needs, over a part of a block device whose `readblocks` takes an offset."""

    _window = bytearray(_WINDOW_LEN)  # one for all archives: `_in_it` is whose, and from where on
    _in_it = object()
    _first = _have = 0

    def __init__(self, device, start, length):
        """start, length: of the archive and its fill, in bytes; OSError if there is none."""
        self.device = device
        self.start = start
        self.length = length
        magic = bytearray(3)
        self.read(0, magic)
        if magic != _MAGIC:
            raise OSError(_EIO)
        size, self._root = self.number(3, length)
        self._end = self._root + size
        if self._end > length:
            raise OSError(_EIO)

    def mount(self, readonly, mkfs):
        pass

    def stat(self, path):
        """As `os.stat`; sizes are all that is known of a file."""
        # An import looks for source first.  There is none here, and to look takes time.
        if path[-3:] == ".py":
            raise OSError(_ENOENT)
        kind, first, end = self.find(path)
        size = 0
        if kind == _FILE:
            kind, first, end = self.find_data(first, end)
            size = end - first
        return (0x4000 if kind == _FOLDER else 0x8000, 0, 0, 0, 0, 0, size, 0, 0, 0)

    def open(self, path, mode):
        if mode[0] != "r" or "+" in mode:
            raise OSError(_EROFS)
        kind, first, end = self.find(path)
        if kind != _FILE:
            raise OSError(_ENOENT)
        _, first, end = self.find_data(first, end)
        if path[-4:] != ".mpy":
            from . import files

            return files.Reader(self, first, end, "b" not in mode)
        # What an import leaves lies between what stays, until the heap is too scattered for a
        # connection: so it is made tidy before each.
        gc.collect()
        return File(self, first, end)

    def ilistdir(self, path):
        from . import files

        return files.entries(self, path)

    def find(self, path):
        """(kind, first byte, end) of a directory's or file's content; OSError if there is none."""
        kind, at, end = _FOLDER, self._root, self._end
        for name in path.split("/"):
            if not name:
                continue
            if kind != _FOLDER:
                raise OSError(_ENOENT)
            name = name.encode()
            for kind, first, last in self.records(at, end):
                if kind in (_FOLDER, _FILE):
                    size, first = self.number(first, last)
                    at = first + size
                    if at > last:
                        raise OSError(_EIO)
                    if size == len(name):
                        found = bytearray(size)
                        self.read(first, found)
                        if found == name:
                            end = last
                            break
            else:
                raise OSError(_ENOENT)
        return kind, at, end

    def find_data(self, at, end):
        """(kind, first byte, end) of the data of a file, whose content is from `at` to `end`."""
        for kind, first, last in self.records(at, end):
            if kind == _POINTER:
                size, at = self.number(first, last)
                first = self._root + self.number(at, last)[0]
                last = first + size
                if last > self._end:
                    raise OSError(_EIO)
            if kind in (_DATA, _POINTER):
                return kind, first, last
        raise OSError(_EIO)

    def records(self, at, end):
        """(kind, first byte, end) of the content of each record from `at` to `end`."""
        while at < end:
            kind, at = self.number(at, end)
            size, first = self.number(at, end)
            at = first + size
            if at > end:
                raise OSError(_EIO)
            yield kind, first, at

    def number(self, at, end):
        """The number at `at`, and what follows it, which is not past `end`."""
        value = 0
        while at < end and value <= self.length:
            offset = at - self._first
            if Archive._in_it is not self or not 0 <= offset < self._have:
                Archive._in_it = ()  # if it cannot be read
                count = min(_WINDOW_LEN, self.length - at)
                self.read(at, memoryview(self._window)[: max(count, 0)])
                Archive._in_it = self
                self._first = at
                self._have = count
                offset = 0
            byte = self._window[offset]
            at += 1
            value = value << 7 | byte & 127
            if byte < 128:
                return value, at
        raise OSError(_EIO)

    def read(self, at, buf):
        """Fill `buf`, at least one byte, with what is at `at`."""
        if not buf or not 0 <= at <= self.length - len(buf):
            raise OSError(_EIO)
        at += self.start
        self.device.readblocks(at // _BLOCK_LEN, buf, at % _BLOCK_LEN)


class File(io.IOBase):
    """What an import reads: once, from the first byte to the last."""

    def __init__(self, archive, first, end):
        self._archive = archive
        self._at = first
        self._end = end

    def readinto(self, buf):
        size = min(len(buf), self._end - self._at)
        if size:
            # The very buffer, if it can be: a view of it would be one more object.
            self._archive.read(self._at, buf if size == len(buf) else memoryview(buf)[:size])
            self._at += size
        return size

    def ioctl(self, op, arg):
        # MP_STREAM_GET_BUFFER_SIZE (py/stream.h); of the rest only closing comes, which is nothing.
        return _IMPORT_LEN if op == 11 else 0


class Blocks:
    """A file, of whatever other file system, as the device that an archive is on."""

    def __init__(self, path):
        self._file = open(path, "rb")  # noqa: SIM115  for as long as it is mounted
        self.length = self._file.seek(0, 2)

    def readblocks(self, number, buf, offset):
        self._file.seek(number * _BLOCK_LEN + offset)
        if self._file.readinto(buf) != len(buf):
            raise OSError(_EIO)
