"""The flash of a board: partition table, and the file that is a virtual board's chip.

`firmware/board/partitions.csv` is the flash map of a stock build, `partitions-*.csv` in `sealed/`
beside it are those of a sealed one; tools and tests read them with `load_layout`. The table lies
right before a map's first partition. A chip has 4, 8 or 16 MiB, the least that its partitions need.
Format: ESP-IDF "Partition Tables".
"""

import csv
import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

from signet import files
from signet.errors import RefusedError, SignetError, refusals_about

FLASH_LENS = tuple(mib * 1024 * 1024 for mib in (4, 8, 16))
SECTOR_LEN = 4096
BOOT_LOADER_OFFSET = 0x1000  # where an ESP32's ROM looks for it; other chips have it elsewhere
TABLE_OFFSET = 0x8000  # the IDF's choice, and a stock MicroPython's
SEALED_TABLE_OFFSET = 0x9000  # behind a boot loader with its signature
TABLE_OFFSETS = (TABLE_OFFSET, SEALED_TABLE_OFFSET)
TABLE_LEN = 0xC00
TABLES = slice(TABLE_OFFSET, SEALED_TABLE_OFFSET + TABLE_LEN)  # of a flash: where a table may be
ENCRYPTED = 1  # flag: read and written through flash encryption, where that is on

_APP, _DATA = 0, 1
_APP_ALIGNMENT = 0x10000  # the cache maps flash in pages of 64 KiB
_TYPES = {"app": _APP, "data": _DATA}
_SUBTYPES = {
    _APP: {"factory": 0x00, "test": 0x20} | {f"ota_{n}": 0x10 + n for n in range(16)},
    _DATA: {"ota": 0x00, "phy": 0x01, "nvs": 0x02, "coredump": 0x03, "nvs_keys": 0x04,
            "efuse": 0x05, "undefined": 0x06, "fat": 0x81, "spiffs": 0x82, "littlefs": 0x83},
}  # fmt: skip
_ENTRY = struct.Struct("<2sBBII16sI")
_ENTRY_MAGIC = b"\xaa\x50"
_MD5_MAGIC = b"\xeb\xeb" + b"\xff" * 14
_MAX_LABEL_LEN = 15  # a NUL follows
_ERASED_ENTRY = b"\xff" * _ENTRY.size


@dataclass(frozen=True)
class Partition:
    """One row of the table; offset and size in bytes."""

    label: str
    type: int
    subtype: int
    offset: int
    size: int
    flags: int = 0

    @property
    def end(self) -> int:
        return self.offset + self.size


def load_layout(path: Path) -> tuple[Partition, ...]:
    """Read and check a partition CSV (Name, Type, SubType, Offset, Size, Flags)."""
    text = files.read_file(path, "partition table").decode("utf-8", "replace")
    partitions = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                partitions.append(_parse_row(next(csv.reader([line]))))
            except (ValueError, csv.Error) as error:
                raise SignetError(f"{path}:{number}: {error}") from error
    try:
        check_layout(partitions)
        table_offset(partitions)
    except SignetError as error:
        raise SignetError(f"{path}: {error}") from error
    return tuple(partitions)


def _parse_row(cells: list[str]) -> Partition:
    cells = [cell.strip() for cell in cells]
    if not 5 <= len(cells) <= 6 or cells[5:] not in ([], [""], ["encrypted"]):
        raise ValueError(
            f"{len(cells)} columns, expected name, type, subtype, offset, size, flags"
            " (encrypted or nothing)"
        )
    label, type_name, subtype_name, offset, size = cells[:5]
    type_ = _number(type_name, _TYPES)
    return Partition(
        label,
        type_,
        _number(subtype_name, _SUBTYPES.get(type_, {})),
        _number(offset),
        _number(size),
        ENCRYPTED if any(cells[5:]) else 0,
    )


def _number(cell: str, names: dict[str, int] | None = None) -> int:
    if names and cell in names:
        return names[cell]
    try:
        return int(cell, 0)
    except ValueError:
        raise ValueError(f"{cell!r}: expected a number or one of {sorted(names or {})}") from None


def flash_len(partitions: Sequence[Partition]) -> int:
    """Bytes of the smallest chip that holds a layout that was checked."""
    end = max(partition.end for partition in partitions)
    return next(length for length in FLASH_LENS if end <= length)


def table_offset(partitions: Sequence[Partition]) -> int:
    """Where the table of a map lies: right before its first partition. SignetError: nowhere."""
    first = min(partitions, key=lambda row: row.offset)
    if first.offset - SECTOR_LEN not in TABLE_OFFSETS:
        places = " or ".join(f"{offset + SECTOR_LEN:#x}" for offset in TABLE_OFFSETS)
        raise SignetError(
            f"{first.label} starts at {first.offset:#x}, expected {places}: behind the table"
        )
    return first.offset - SECTOR_LEN


def check_layout(partitions: Sequence[Partition], table: int = TABLE_OFFSET) -> None:
    """Raise SignetError unless every partition has its own, aligned place behind the table."""
    if not partitions:
        raise SignetError("no partitions")
    if (len(partitions) + 1) * _ENTRY.size > TABLE_LEN:
        raise SignetError(f"{len(partitions)} partitions, the table holds {TABLE_LEN // 32 - 1}")
    for partition in partitions:
        _check_partition(partition, table + SECTOR_LEN)
    labels = [partition.label for partition in partitions]
    for label in labels:
        if labels.count(label) > 1:
            raise SignetError(f"{label}: two partitions of this name")
    for first, second in pairwise(sorted(partitions, key=lambda item: item.offset)):
        if first.end > second.offset:
            raise SignetError(
                f"{first.label} ends at {first.end:#x}, {second.label} starts at {second.offset:#x}"
            )


def _check_partition(partition: Partition, start: int) -> None:
    label = partition.label
    if not 1 <= len(label) <= _MAX_LABEL_LEN or not label.isascii() or not label.isprintable():
        raise SignetError(f"label {label!r}, expected 1 to {_MAX_LABEL_LEN} printable characters")
    for name, value in (("type", partition.type), ("subtype", partition.subtype)):
        if not 0 <= value <= 0xFE:
            raise SignetError(f"{label}: {name} {value:#x}, expected 0 to 0xfe")
    alignment = _APP_ALIGNMENT if partition.type == _APP else SECTOR_LEN
    if partition.offset % alignment or partition.offset < start:
        raise SignetError(
            f"{label}: offset {partition.offset:#x}, expected a multiple of {alignment:#x} "
            f"from {start:#x}"
        )
    if partition.size <= 0 or partition.size % SECTOR_LEN:
        raise SignetError(f"{label}: size {partition.size:#x}, expected n * {SECTOR_LEN:#x}")
    if partition.end > FLASH_LENS[-1]:
        raise SignetError(f"{label} ends at {partition.end:#x}, the flash at {FLASH_LENS[-1]:#x}")


def build_table(partitions: Sequence[Partition]) -> bytes:
    """The binary partition table with its MD5 row, padded with 0xFF to 0xC00 bytes."""
    check_layout(partitions)
    rows = b"".join(
        _ENTRY.pack(
            _ENTRY_MAGIC,
            row.type,
            row.subtype,
            row.offset,
            row.size,
            row.label.encode(),
            row.flags,
        )
        for row in partitions
    )
    table = rows + _MD5_MAGIC + hashlib.md5(rows, usedforsecurity=False).digest()
    return table.ljust(TABLE_LEN, b"\xff")


def find_table(tables: bytes) -> tuple[Partition, ...]:
    """The rows of a flash's table, at whichever of the two places one begins.

    tables: what the flash holds at TABLES. Raises RefusedError as `read_table` does.
    """
    for offset in TABLE_OFFSETS:
        found = tables[offset - TABLE_OFFSET :]
        if found.startswith(_ENTRY_MAGIC):
            return read_table(found, offset)
    return read_table(tables)


def read_table(data: bytes, offset: int = TABLE_OFFSET) -> tuple[Partition, ...]:
    """Parse a binary partition table; RefusedError if it is malformed or has no right MD5 row.

    offset: where in flash it lies; what it names is behind it.
    """
    rows: list[Partition] = []
    for at in range(0, min(len(data), TABLE_LEN) - _ENTRY.size + 1, _ENTRY.size):
        entry = data[at : at + _ENTRY.size]
        if entry.startswith(_MD5_MAGIC):
            found = hashlib.md5(data[:at], usedforsecurity=False).digest()
            if found != entry[16:]:
                raise RefusedError("partition table: its MD5 row does not match its rows")
            try:
                check_layout(rows, offset)
            except SignetError as error:
                raise RefusedError(f"partition table: {error}") from error
            return tuple(rows)
        magic, type_, subtype, start, size, label, flags = _ENTRY.unpack(entry)
        if magic != _ENTRY_MAGIC:
            what = "no MD5 row" if entry == _ERASED_ENTRY else f"magic {magic.hex()}, expected aa50"
            raise RefusedError(f"partition table: row {len(rows)}: {what}")
        name = label.rstrip(b"\0").decode("ascii", "replace")
        rows.append(Partition(name, type_, subtype, start, size, flags))
    raise RefusedError("partition table: no MD5 row")


class BlockDevice:
    """A partition as `esp32.Partition` shows it to device code: blocks of 4096 bytes.

    readblocks(number, buffer, offset=0) fills the buffer; writeblocks(number, data) writes whole
    blocks, with an offset into an erased one; ioctl 4 is the number of blocks, 5 their size, 6
    erases one.
    """

    def __init__(self, memory: memoryview):
        self._memory = memory

    def readblocks(self, number: int, buffer: bytearray | memoryview, offset: int = 0) -> None:
        start = number * SECTOR_LEN + offset
        buffer[:] = self._span(start, len(buffer))

    def writeblocks(
        self, number: int, data: bytes | bytearray | memoryview, offset: int | None = None
    ) -> None:
        self._span(number * SECTOR_LEN + (offset or 0), len(data))[:] = data

    def ioctl(self, operation: int, argument: int) -> int:
        if operation == 4:
            return len(self._memory) // SECTOR_LEN
        if operation == 6:
            self._span(argument * SECTOR_LEN, SECTOR_LEN)[:] = b"\xff" * SECTOR_LEN
        return SECTOR_LEN if operation == 5 else 0

    def _span(self, start: int, length: int) -> memoryview:
        if not 0 <= start <= start + length <= len(self._memory):
            raise OSError(5, f"bytes {start} to {start + length} of {len(self._memory)}")
        return self._memory[start : start + length]


class Flash:
    """The content of a flash chip, in memory."""

    def __init__(self, content: bytearray, partitions: Sequence[Partition]):
        self._content = content
        self.partitions = tuple(partitions)
        self._partitions = {partition.label: partition for partition in partitions}

    @classmethod
    def blank(cls, partitions: Sequence[Partition], boot_loader: bytes = b"") -> Self:
        """An erased chip (0xFF) that holds only the partition table and, if given, a boot loader.

        boot_loader: what an ESP32 reads from 0x1000 on; it ends before the table.
        """
        table = build_table(partitions)
        content = bytearray(b"\xff" * flash_len(partitions))
        content[BOOT_LOADER_OFFSET : BOOT_LOADER_OFFSET + len(boot_loader)] = boot_loader
        start = table_offset(partitions)
        content[start : start + TABLE_LEN] = table
        return cls(content, partitions)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a flash file; its own partition table says what is where."""
        content = bytearray(files.read_file(path, "flash file"))
        if len(content) not in FLASH_LENS:
            raise RefusedError(f"{path}: {len(content)} bytes, expected 4, 8 or 16 MiB")
        with refusals_about(path):
            partitions = find_table(bytes(content[TABLES]))
            if len(content) < flash_len(partitions):
                raise RefusedError(
                    f"{len(content)} bytes, its partitions need {flash_len(partitions)}"
                )
        return cls(content, partitions)

    @property
    def content(self) -> memoryview:
        """The whole chip."""
        return memoryview(self._content)

    def device(self, label: str) -> BlockDevice:
        """A partition as a block device over this content."""
        return BlockDevice(self._span(label))

    def size(self, label: str) -> int:
        """Bytes that a partition holds."""
        return len(self._span(label))

    def read(self, label: str) -> bytes:
        """The whole content of a partition."""
        return bytes(self._span(label))

    def write(self, label: str, data: bytes) -> None:
        """Erase a partition and write `data` from its start; RefusedError if it is too small."""
        span = self._span(label)
        if len(data) > len(span):
            raise RefusedError(f"{len(data)} bytes, the partition {label} holds {len(span)}")
        span[:] = data.ljust(len(span), b"\xff")

    def save_new(self, path: Path) -> None:
        """Write the flash file, mode 0600; RefusedError if the name is taken."""
        files.write_new_secret(path, self._content)

    def _span(self, label: str) -> memoryview:
        if label not in self._partitions:
            raise SignetError(f"no partition {label!r}, only {', '.join(self._partitions)}")
        partition = self._partitions[label]
        return memoryview(self._content)[partition.offset : partition.end]
