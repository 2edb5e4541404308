"""A real board on a serial port, by esptool: what it is, what is on it, writing and reading back.

Nothing that is secret is an argument: what is written comes from a file of the caller.
"""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from signet.board import esptool
from signet.errors import RefusedError
from signet.formats import flash
from signet.run import ProgramError

_MAC = re.compile(r"^MAC:\s+((?:[0-9a-f]{2}:){5}[0-9a-f]{2})\s*$", re.MULTILINE)
_SIZE = re.compile(r"^Detected flash size:\s+(\d+)MB\s*$", re.MULTILINE)
_CHIP_TYPE = re.compile(r"^(?:Chip type|Chip is):?\s+(.+?)\s*$", re.MULTILINE)
_FAMILY = re.compile(r"ESP32(?!-[SCHP]\d)")
# Whatever the environment says (ESPTOOL_FM and the like): what is compared is what was made.
_KEEP = ("--flash-mode", "keep", "--flash-freq", "keep", "--flash-size", "keep")
_IDENTITY_TYPE = 0x3F
_TABLES = flash.TABLES.start, flash.TABLES.stop - flash.TABLES.start


@dataclass(frozen=True)
class Chip:
    """What is on a port. flash_len: in bytes."""

    mac: str
    flash_len: int


class Port:
    """One serial port: a device name, or a URL of pyserial. baud: while data is transferred."""

    def __init__(self, name: str, baud: int = esptool.BAUD):
        self.name = name
        self._baud = baud

    def identify(self, least_len: int) -> Chip:
        """Chip type, MAC and flash size; RefusedError unless it is an ESP32 with `least_len`."""
        shown = self._run("flash-id")
        kind, mac, size = (rule.search(shown) for rule in (_CHIP_TYPE, _MAC, _SIZE))
        if kind is None or not _FAMILY.match(kind[1]):
            what = kind[1] if kind else "an unknown chip"
            raise RefusedError(f"{self.name}: {what}, expected an ESP32")
        if mac is None or size is None:
            raise RefusedError(f"{self.name}: esptool found no MAC or no flash")
        flash_len = int(size[1]) << 20
        if flash_len < least_len:
            raise RefusedError(
                f"{self.name}: flash of {flash_len >> 20} MB, expected at least "
                f"{least_len >> 20} MB"
            )
        return Chip(mac[1], flash_len)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the chip's flash."""
        with tempfile.TemporaryDirectory(prefix="signet-") as folder:
            path = Path(folder, "read.bin")
            self._run("read-flash", hex(offset), hex(length), path)
            data = path.read_bytes()
        if len(data) != length:
            raise RefusedError(f"{self.name}: read {len(data)} bytes, expected {length}")
        return data

    def identity(self) -> bytes:
        """What the identity partition holds, by the board's own table; b"" if it has none."""
        try:
            rows = flash.find_table(self.read(*_TABLES))
        except RefusedError:
            return b""  # erased, or not flashed yet
        for row in rows:
            if row.type == _IDENTITY_TYPE or row.label == "esp_secure_cert":
                return self.read(row.offset, row.size)
        return b""

    def write(self, image: Path, identity: flash.Partition) -> None:
        """Write a whole flash image and read it back: SignetError if the chip holds another.

        The chip hashes what it holds (esptool verify-flash); the identity is compared byte for
        byte besides.
        """
        self._run(*esptool.write(image, *_KEEP))
        self._run(*esptool.verify(image), failure="read-back failed: ")
        written = image.read_bytes()[identity.offset : identity.end]
        if self.read(identity.offset, identity.size) != written:
            raise RefusedError(f"{self.name}: read-back failed: the identity differs")

    def _run(self, *words: str | Path, failure: str = "") -> str:
        try:
            return esptool.ask(self.name, *words, baud=self._baud)
        except ProgramError as error:
            raise ProgramError(f"{self.name}: {failure}{error}", error.hint) from error
