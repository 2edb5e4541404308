"""What an import does not need: files that are read in pieces, directories, archives in place.

Apart from the archive itself, so that it is in memory only while it is used.
"""

from micropython import const

from . import File

_FOLDER = const(4)  # kinds of records, as in romfs
_FILE = const(5)
_EIO = const(5)
_ENOTDIR = const(20)


class Reader(File):
    """An open file: binary, or text in UTF-8, of which `read` counts bytes all the same."""

    def __init__(self, archive, first, end, text):
        super().__init__(archive, first, end)
        self._first = first
        self._text = text

    def read(self, size=-1):
        left = self._end - self._at
        raw = bytearray(left if size < 0 else min(size, left))
        self.readinto(raw)
        if self._text:
            # Not in the middle of a character, whose other bytes are 0b10xxxxxx.
            more = bytearray(1)
            while raw and self.readinto(more):
                if more[0] & 0xC0 != 0x80:
                    self._at -= 1
                    break
                raw.extend(more)
        return self._as_read(raw)

    def readline(self):
        line = bytearray()
        piece = bytearray(64)
        while True:
            size = self.readinto(piece)
            end = piece.find(b"\n", 0, size) + 1
            line.extend(memoryview(piece)[: end or size])
            if end:
                self._at -= size - end
            if end or not size:
                return self._as_read(line)

    def _as_read(self, raw):
        return str(raw, "utf-8") if self._text else bytes(raw)

    def seek(self, offset, whence=0):
        at = offset + (self._first, self._at, self._end)[whence]
        if at < self._first:
            raise ValueError("seek to %d, expected 0 or more" % (at - self._first))
        self._at = min(at, self._end)
        return self._at - self._first

    def tell(self):
        return self._at - self._first

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __iter__(self):
        return self

    def __next__(self):
        line = self.readline()
        if not line:
            raise StopIteration
        return line


def entries(archive, path):
    """(name, type, 0, size) of what is in a directory, as `os.ilistdir` has it."""
    kind, at, end = archive.find(path)
    if kind != _FOLDER:
        raise OSError(_ENOTDIR)
    for kind, first, last in archive.records(at, end):
        if kind in (_FOLDER, _FILE):
            size, first = archive.number(first, last)
            at = first + size
            if at > last:
                raise OSError(_EIO)
            name = bytearray(size)
            if size:
                archive.read(first, name)
            size = 0
            if kind == _FILE:
                _, first, last = archive.find_data(at, last)
                size = last - first
            yield str(name, "utf-8"), 0x4000 if kind == _FOLDER else 0x8000, 0, size


def in_place(archive, system):
    """What to mount: `system`, MicroPython's own `vfs.VfsRom`, if the device is mapped into memory.

    Then nothing of a file is copied, and code runs where it lies; no stock build can.  VfsRom goes
    wherever a length leads: so all of them are looked at before.
    """
    try:
        content = memoryview(archive.device)
    except TypeError:
        return archive
    _check(archive, "")
    return system(content[archive.start : archive.start + archive.length])


def _check(archive, path):
    """Come by every record; OSError where one leads out of what it stands in."""
    for name, kind, _, _ in entries(archive, path):
        if kind == 0x4000:
            _check(archive, path + "/" + name)
