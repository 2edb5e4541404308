"""Images for the ESP32: the MicroPython that is published, checked, and a small one, made.

A published image (`ESP32_GENERIC-OTA-….bin`) is what lies in flash from 0x1000 on: boot loader,
partition table, app. `parse_micropython` takes it apart; whatever byte of it is altered, it is
refused. Who made it, it does not say: stock images are not signed.
Formats: ESP-IDF "App Image Format"; checks: esp_image_format.c, in idf.py.
"""

import hashlib
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from signet.errors import RefusedError, SignetError
from signet.formats import flash, idf
from signet.formats.flash import BOOT_LOADER_OFFSET, TABLE_LEN, TABLE_OFFSET, Partition

MIN_VERSION = (1, 25, 0)
_MIN_TEXT = ".".join(map(str, MIN_VERSION))
_HINT = f"it takes a published ESP32_GENERIC-OTA-….bin, {_MIN_TEXT} or later"

_HEADER = struct.Struct("<BBBBIB3xHBHH4xB")
_MAGIC = 0xE9
_FLASH_SIZE_AT = 3  # upper half: 0 is 1 MiB, 1 is 2, 2 is 4; the boot loader goes by it
_CHIP_ESP32 = 0
_CHIPS = {0: "ESP32", 2: "ESP32-S2", 5: "ESP32-C3", 9: "ESP32-S3", 12: "ESP32-C2",
          13: "ESP32-C6", 16: "ESP32-H2", 18: "ESP32-P4"}  # fmt: skip
_DESCRIPTION_AT = 0x20  # esp_app_desc_t: behind the headers of image and first segment
_DESCRIPTION_MAGIC = 0xABCD5432
_OTHER_FORMATS = {b"\x7fELF": "an ELF file", b"UF2\n": "a UF2 file", b"PK": "a ZIP file",
                  b"\x1f\x8b": "a gzip file", b":": "an Intel HEX file"}  # fmt: skip
# sys.version, "3.4.0; MicroPython v1.25.0 on 2025-04-15": the description's version is empty in
# published images.
_BANNER = re.compile(
    rb"; MicroPython v(\d+)\.(\d+)(?:\.(\d+))?(-preview)?[0-9a-z.-]* on \d{4}-\d\d-\d\d\0"
)


@dataclass(frozen=True)
class MicroPython:
    """What a published image holds: its version, and the bytes of boot loader and app."""

    version: tuple[int, int, int]
    boot_loader: bytes
    app: bytes


def parse_micropython(data: bytes, layout: Sequence[Partition]) -> MicroPython:
    """Check a published image and take it apart; RefusedError says what is wrong with it.

    layout: of the board that it is for; the image's partitions have to be there, but for `vfs`.
    """
    _check_start(data)
    chip = b"\xff" * BOOT_LOADER_OFFSET + data  # as in flash: offset = address
    boot_loader_len = check_image(chip, "boot loader", BOOT_LOADER_OFFSET, TABLE_OFFSET)
    flash_mib = 1 << (data[_FLASH_SIZE_AT] >> 4)
    if flash_mib << 20 < flash.flash_len(layout):
        needed = flash.flash_len(layout) >> 20
        raise RefusedError(f"for {flash_mib} MiB of flash, the board has {needed}")
    if len(chip) < TABLE_OFFSET + TABLE_LEN:
        raise RefusedError(f"cut off: {len(data)} bytes, no partition table", _HINT)
    _check_table(chip[TABLE_OFFSET : TABLE_OFFSET + TABLE_LEN], layout)
    ota_0 = next(row for row in layout if row.label == "ota_0")
    app_len = check_image(chip, "app", ota_0.offset, ota_0.end)
    app = chip[ota_0.offset : ota_0.offset + app_len]
    gaps = ((BOOT_LOADER_OFFSET + boot_loader_len, TABLE_OFFSET),
            (TABLE_OFFSET + TABLE_LEN, ota_0.offset),
            (ota_0.offset + app_len, len(chip)))  # fmt: skip
    for start, end in gaps:
        if chip[start:end].strip(b"\xff"):
            raise RefusedError(f"data between {start:#x} and {end:#x}, expected 0xff", _HINT)
    boot_loader = chip[BOOT_LOADER_OFFSET : BOOT_LOADER_OFFSET + boot_loader_len]
    return MicroPython(read_version(app), boot_loader, app)


def _check_start(data: bytes) -> None:
    """What is there in place of the boot loader, in words that help."""
    for magic, name in _OTHER_FORMATS.items():
        if data.startswith(magic):
            raise RefusedError(f"{name}, expected the .bin that is flashed at 0x1000", _HINT)
    if len(data) < _HEADER.size:
        raise RefusedError(f"{len(data)} bytes, expected a MicroPython image", _HINT)
    magic, *_, chip_id, _, _, _, _ = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise RefusedError(f"magic byte {magic:#04x}, expected 0xe9: not an ESP32 image", _HINT)
    if chip_id != _CHIP_ESP32:
        name = _CHIPS.get(chip_id, "another chip")
        raise RefusedError(f"for {name} (chip id {chip_id}), expected ESP32 (0)", _HINT)
    if _is_app(data):
        raise RefusedError("an app alone, expected boot loader, partition table and app", _HINT)


def _is_app(image: bytes) -> bool:
    return image[_DESCRIPTION_AT : _DESCRIPTION_AT + 4] == struct.pack("<I", _DESCRIPTION_MAGIC)


def _check_table(data: bytes, layout: Sequence[Partition]) -> None:
    """Its partitions are the board's; `vfs` may be elsewhere: the board has its own, smaller."""
    rows = flash.read_table(data)
    if flash.build_table(rows) != data:
        raise RefusedError("partition table: data behind its MD5 row, expected 0xff")
    if not {"otadata", "ota_0", "ota_1"} <= {row.label for row in rows}:
        found = ", ".join(row.label for row in rows)
        raise RefusedError(f"not an OTA image: its partitions are {found}", _HINT)
    for row in rows:
        if row.label != "vfs" and row not in layout:
            raise RefusedError(
                f"its partition {row.label} ({row.offset:#x}, {row.size:#x} bytes) "
                "is not one of the board's",
                _HINT,
            )


def check_image(chip: bytes | memoryview, what: str, start: int, end: int) -> int:
    """Check the boot loader or app at `start` as a boot loader does; its length in bytes.

    chip: the flash from address 0; it may end before `end`. Raises RefusedError, also if the image
    has no SHA-256 of its own.
    """

    def read(address: int, buffer: bytearray | memoryview) -> None:
        part = chip[address : address + len(buffer)]
        if len(part) < len(buffer):
            raise RefusedError(f"cut off in the {what}, after {len(chip) - start} bytes of it")
        buffer[:] = part

    try:
        length = idf.check_app_image(read, start, end - start)
    except idf.ImageError as error:
        raise RefusedError(f"{what} at {start:#x}: {error}") from error
    if chip[start + _HEADER.size - 1] != 1:
        raise RefusedError(f"{what} at {start:#x}: no SHA-256 appended")
    return length


def read_version(app: bytes | memoryview) -> tuple[int, int, int]:
    """The MicroPython version of an app; RefusedError if it is not MicroPython or too old."""
    if not _is_app(bytes(app[: _DESCRIPTION_AT + 4])):
        raise RefusedError("app: no description (esp_app_desc_t) at 0x20")
    found = {match.groups() for match in _BANNER.finditer(app)}
    if len(found) != 1:
        raise RefusedError(f"app: {len(found)} MicroPython versions in it, expected 1", _HINT)
    major, minor, patch, preview = found.pop()
    version = (int(major), int(minor), int(patch or 0))
    if version < MIN_VERSION or (version == MIN_VERSION and preview):
        text = ".".join(map(str, version)) + (preview or b"").decode()
        raise RefusedError(f"MicroPython {text}, expected {_MIN_TEXT} or later", _HINT)
    return version


_NO_WP_PIN = 0xEE
_DROM_ADDRESS = 0x3F400020  # where the ESP32 maps the segment that holds the description
_APP_ENTRY = 0x40080000
_ANY_REVISION = 0xFFFF
_CHECKSUM_SEED = 0xEF
_DESCRIPTION = struct.Struct("<II8x32s32s16s16s32s32s80x")


def synthetic_app(version: str) -> bytes:
    """A small app without code, valid to a boot loader: what a virtual board has in ota_0.

    version: of the platform, at most 31 ASCII characters.
    """
    if not version.isascii() or len(version) > 31:
        raise SignetError(f"platform version {version!r}, expected at most 31 ASCII characters")
    description = _DESCRIPTION.pack(
        _DESCRIPTION_MAGIC, 0, version.encode(), b"micropython", b"", b"", b"", b""
    )
    header = _HEADER.pack(
        _MAGIC, 1, 2, 0x20, _APP_ENTRY, _NO_WP_PIN, _CHIP_ESP32, 0, 0, _ANY_REVISION, 1
    )  # one segment, DIO, 4 MB at 40 MHz, SHA-256 appended
    body = header + struct.pack("<II", _DROM_ADDRESS, len(description)) + description
    checksum = _CHECKSUM_SEED
    for byte in description:
        checksum ^= byte
    body += b"\0" * (-(len(body) + 1) % 16) + bytes([checksum])
    return body + hashlib.sha256(body).digest()
