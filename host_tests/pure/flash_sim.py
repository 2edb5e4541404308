"""NOR flash and a small file store, as the code under test sees them, in RAM.

An erase sets a sector to 0xFF, programming only clears bits, and a file is replaced by one rename:
the rules that a board's recovery from a power cut rests on.  `before` is called ahead of each
operation that changes something, with (device, operation, block or path, data): a test may keep
what is there, or raise what a broken chip would.
"""

SECTOR = 4096
_CHUNK = 256
_ERASED = b"\xff" * _CHUNK


class FlashSim:
    """A partition, with the interface of `esp32.Partition`.

    content: the sectors that are not erased; a copy of the dict is a snapshot, and snapshots may
    be compared.
    log: a list, or None, that gets (name, operation, block) of every operation, reads too.
    """

    def __init__(self, blocks, name="flash", log=None, before=None):
        self.name = name
        self.content = {}
        self.log = log
        self.before = before
        self._blocks = blocks

    def readblocks(self, block, buf, offset=0):
        self._check(block, offset, len(buf))
        if self.log is not None:
            self.log.append((self.name, "read", block))
        view = memoryview(buf)
        done = 0
        while done < len(buf):
            count = min(SECTOR - offset, len(buf) - done)
            unpack(self.content.get(block), view[done : done + count], offset)
            done += count
            block, offset = block + 1, 0

    def writeblocks(self, block, buf, offset=None):
        """Erase and program whole sectors; with an offset, program only."""
        self._check(block, offset or 0, len(buf))
        view = memoryview(buf)
        if offset is not None:
            if offset + len(buf) > SECTOR:
                raise NotImplementedError("across sectors")
            self._program(block, view, offset)
            return
        if len(buf) % SECTOR:
            raise OSError(22)  # the port would erase what follows the data, too
        for done in range(0, len(buf), SECTOR):
            self._erase(block)
            self._program(block, view[done : done + SECTOR], 0)
            block += 1

    def ioctl(self, op, arg):
        if op == 4:
            return self._blocks
        if op == 5:
            return SECTOR
        if op == 6:
            self._check(arg, 0, SECTOR)
            self._erase(arg)
        return 0

    def sector(self, block):
        """The bytes of a sector; in no log."""
        data = bytearray(SECTOR)
        unpack(self.content.get(block), memoryview(data), 0)
        return bytes(data)

    def load(self, sectors, block=0):
        """Put sectors in as a flash tool does; in no log.

        Each is bytes, 0xFF from there to the end; 32 bytes are repeated up to the end.
        """
        for data in sectors:
            self._set(block, (data, SECTOR // 32) if len(data) == 32 else pack(data))
            block += 1

    def alter(self, offset, mask=1):
        """Flip bits of one byte: what an attacker or a worn cell does; in no log."""
        block = offset // SECTOR
        data = bytearray(self.sector(block))
        data[offset % SECTOR] ^= mask
        self._set(block, pack(data))

    def _check(self, block, offset, length):
        if block < 0 or offset < 0 or block * SECTOR + offset + length > self._blocks * SECTOR:
            raise OSError(22)

    def _erase(self, block):
        self._happens("erase", block, None)
        self._set(block, None)

    def _program(self, block, data, offset):
        self._happens("program", block, data)
        old = self.content.get(block)
        self._set(block, pack(data) if old is None and not offset else program(old, data, offset))

    def _set(self, block, packed):
        if packed is None or not packed[0]:
            self.content.pop(block, None)
        else:
            self.content[block] = packed

    def _happens(self, operation, block, data):
        if self.before:
            self.before(self, operation, block, data)
        if self.log is not None:
            self.log.append((self.name, operation, block))


def pack(data):
    """A sector in less memory: (unit, how often it is repeated, 0xFF from there to the end)."""
    unit = bytes(data[:32])
    if len(data) == SECTOR and all(
        data[start : start + 32] == unit for start in range(32, SECTOR, 32)
    ):
        return (b"", 1) if unit == _ERASED[:32] else (unit, SECTOR // 32)
    end = len(data)
    while end >= 32 and data[end - 32 : end] == _ERASED[:32]:
        end -= 32
    return bytes(data[:end]).rstrip(b"\xff"), 1


def unpack(packed, view, offset):
    """Fill a memoryview from a sector's bytes at `offset`."""
    unit, count = packed or (b"", 1)
    for start in range(0, len(view), _CHUNK):
        part = view[start : start + _CHUNK]
        at = offset + start
        if count > 1:  # units of 32 bytes
            piece = (unit * (_CHUNK // 32 + 1))[at % 32 : at % 32 + len(part)]
        else:
            piece = unit[at : at + len(part)]
        part[: len(piece)] = piece
        part[len(piece) :] = _ERASED[: len(part) - len(piece)]


def program(packed, data, offset=0):
    """What a sector holds after data was programmed into it: bits are only cleared."""
    sector = bytearray(SECTOR)
    unpack(packed, memoryview(sector), 0)
    for i in range(len(data)):
        sector[offset + i] &= data[i]
    return pack(sector)


class FileSim:
    """The module `firmware.ondemand.store`, over a dict `content` of path to bytes."""

    def __init__(self, before=None):
        self.content = {}
        self.before = before

    def load(self, path, limit):
        data = self.content.get(path)
        return None if data is None or len(data) > limit else data

    def exists(self, path):
        return path in self.content

    def save(self, path, *parts):
        data = b"".join([bytes(part) for part in parts])
        # A temporary file is never read again: only the rename counts, or that a file is closed.
        self._happens("rename", path, data)
        self.content[path] = data

    def note(self, path, content):
        if path not in self.content:
            self._happens("create", path, b"")
            self.content[path] = b""
        self.save(path, content)

    def remove(self, path):
        if path in self.content:
            self._happens("remove", path, None)
            del self.content[path]

    def _happens(self, operation, path, data):
        if self.before:
            self.before(self, operation, path, data)
