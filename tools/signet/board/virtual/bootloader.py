"""The ESP32's second-stage boot loader, as a stock MicroPython has it: which app starts.

Follows bootloader_utility.c of the IDF with roll-back on and no factory reset, anti-rollback or
Secure Boot: the partition table is checked, a trial that was never confirmed is aborted, the
newest valid otadata record chooses an app, a new one goes on trial, and the app's image is checked
before it starts; if it is bad, the other slots are tried. It writes to the flash like the real
one, erase before write, and can lose its power at any of these operations.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from signet.errors import RefusedError, SignetError
from signet.formats import idf
from signet.formats.flash import FLASH_LENS, SECTOR_LEN, TABLES, Partition, find_table

_APP = 0
_OTADATA = (1, 0)  # type and subtype
_SUBTYPE_FACTORY = 0x00
_SUBTYPE_TEST = 0x20
_OTA_SUBTYPES = range(0x10, 0x20)
_FACTORY = -1
_TEST = -2


class BootError(SignetError):
    """The boot loader found nothing that it could start; a real one resets for ever."""


class PowerCutError(Exception):
    """The power went in the middle of a flash operation."""


class FlashFile:
    """A flash chip in a file, with a NOR flash's rules; the host's side of virtual_board/chip.py.

    cut_at: the operation, counted from 1, at which PowerCutError is raised after `torn` of its
    bytes; 0 is none. ops: a log to which every operation is appended, or None.
    """

    def __init__(self, path: Path, cut_at: int = 0, torn: int = 0, ops: Path | None = None):
        self._path = path
        self._cut_at = cut_at
        self._torn = torn
        self._ops = ops
        self._count = 0
        if path.stat().st_size not in FLASH_LENS:
            raise SignetError(f"{path}: {path.stat().st_size} bytes, expected 4, 8 or 16 MiB")

    def read(self, address: int, length: int) -> bytes:
        with self._path.open("rb") as file:
            file.seek(address)
            return file.read(length)

    def read_into(self, address: int, buffer: bytearray | memoryview) -> None:
        """Fill the buffer; what lies beyond the chip reads as erased."""
        buffer[:] = self.read(address, len(buffer)).ljust(len(buffer), b"\xff")

    def erase(self, address: int) -> None:
        """Set one sector to 0xFF."""
        self._write("erase", address, b"\xff" * SECTOR_LEN)

    def program(self, address: int, data: bytes) -> None:
        """Clear bits, at most a sector's: what is there becomes (what is there AND data)."""
        old = self.read(address, len(data))
        self._write("program", address, bytes(a & b for a, b in zip(old, data, strict=True)))

    def _write(self, kind: str, address: int, data: bytes) -> None:
        self._count += 1
        if self._ops is not None:
            with self._ops.open("a") as log:
                log.write(f"{kind} {address} {len(data)}\n")
        cut = self._count == self._cut_at
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, data[: self._torn] if cut else data, address)
        finally:
            os.close(descriptor)
        if cut:
            raise PowerCutError


@dataclass(frozen=True)
class BootedApp:
    """partition: of the app that starts; notes: what the boot loader did on the way, for people."""

    partition: Partition
    notes: tuple[str, ...]


def boot(flash: FlashFile) -> BootedApp:
    """Run the boot loader; BootError if nothing starts, PowerCutError if the power went."""
    return _Loader(flash).run()


class _Loader:
    """One run. An app's index is its OTA slot, or one of the two below 0."""

    def __init__(self, flash: FlashFile):
        self._flash = flash
        self._notes: list[str] = []
        self._initial = False  # otadata never chose an app: the one that starts is written there
        try:
            table = find_table(flash.read(TABLES.start, TABLES.stop - TABLES.start))
        except RefusedError as error:
            raise BootError(str(error)) from error
        apps = {row.subtype: row for row in table if row.type == _APP}
        self._slots = len(apps.keys() & set(_OTA_SUBTYPES))
        indices = {_SUBTYPE_FACTORY: _FACTORY, _SUBTYPE_TEST: _TEST}
        indices |= {_OTA_SUBTYPES[index]: index for index in range(self._slots)}
        self._apps = {index: apps[key] for key, index in indices.items() if key in apps}
        self._otadata = [row for row in table if (row.type, row.subtype) == _OTADATA]

    def run(self) -> BootedApp:
        """bootloader_utility_load_boot_image: the chosen app, those below it, those above it."""
        chosen = self._select() if self._otadata else _FACTORY
        order = [*range(chosen, _FACTORY - 1, -1), *range(chosen + 1, self._slots), _TEST]
        refused = []
        for index in order:
            if index in self._apps:
                app = self._apps[index]
                try:
                    idf.check_app_image(self._flash.read_into, app.offset, app.size)
                except idf.ImageError as error:
                    refused.append(f"{app.label}: {error}")
                    continue
                if self._initial and index > _FACTORY:
                    record = idf.new_record(index + 1, b"\xff" * 20, idf.VALID)
                    self._write_record(0, record)
                return BootedApp(app, (*self._notes, *refused))
        raise BootError("no bootable app: " + ("; ".join(refused) or "no app partitions"))

    def _select(self) -> int:
        """bootloader_utility_get_selected_boot_partition, with its writes to otadata."""
        records = self._read_records()
        for index, record in enumerate(records):
            if record.state == idf.PENDING_VERIFY:
                records[index] = idf.with_state(record, idf.ABORTED)
                self._write_record(index, records[index])
                self._notes.append(f"otadata {index}: not marked valid, so aborted")
        if all(map(idf.is_out, records)) or not self._slots:
            if _FACTORY in self._apps:
                return _FACTORY
            self._initial = all(map(idf.is_initial, records))
            return 0
        active = idf.active_record(records)
        if active < 0:
            self._notes.append("otadata: no valid record")
            return _FACTORY
        if records[active].state == idf.NEW:
            self._write_record(active, idf.with_state(records[active], idf.PENDING_VERIFY))
            self._notes.append(f"otadata {active}: new, so on trial")
        return idf.slot_of(records[active].sequence, self._slots)

    def _read_records(self) -> list[idf.Record]:
        offsets = (self._otadata[0].offset, self._otadata[0].offset + SECTOR_LEN)
        return [idf.parse_record(self._flash.read(at, idf.RECORD_LEN)) for at in offsets]

    def _write_record(self, index: int, record: idf.Record) -> None:
        """write_otadata: an erase and a program, between which the power can go."""
        address = self._otadata[0].offset + index * SECTOR_LEN
        self._flash.erase(address)
        self._flash.program(address, idf.pack_record(record))
