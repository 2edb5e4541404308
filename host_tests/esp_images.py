"""A synthetic MicroPython for the ESP32: valid headers, checksums and hashes, and no code.

Written from ESP-IDF's "App Image Format" and "Partition Tables" alone, with nothing of the tools
that it tests.
"""

import hashlib
import struct
from functools import reduce
from operator import xor

BOOT_LOADER_LEN = 0x8000 - 0x1000
APP_AT = 0x10000 - 0x1000  # in the .bin
BANNER = b"3.4.0; MicroPython v1.25.0 on 2025-04-15\0"

# label, type, subtype, offset, size
OTA = [
    ("nvs", 1, 0x02, 0x9000, 0x4000),
    ("otadata", 1, 0x00, 0xD000, 0x2000),
    ("phy_init", 1, 0x01, 0xF000, 0x1000),
    ("ota_0", 0, 0x10, 0x10000, 0x180000),
    ("ota_1", 0, 0x11, 0x190000, 0x180000),
    ("vfs", 1, 0x81, 0x310000, 0xF0000),
]
PLAIN = [
    ("nvs", 1, 0x02, 0x9000, 0x6000),
    ("phy_init", 1, 0x01, 0xF000, 0x1000),
    ("factory", 0, 0x00, 0x10000, 0x1F0000),
    ("vfs", 1, 0x81, 0x200000, 0x200000),
]


def make_image(
    segments: list[tuple[int, bytes]], *, chip: int = 0, hashed: bool = True, flash_size: int = 2
) -> bytes:
    """An ESP32 image of (load address, content); flash_size: 2 is 4 MB."""
    image = struct.pack("<BBBBI", 0xE9, len(segments), 2, flash_size << 4, 0x40080000)
    image += struct.pack("<B3xHBHH4xB", 0xEE, chip, 0, 0, 399, hashed)
    for address, content in segments:
        image += struct.pack("<II", address, len(content)) + content
    image += b"\0" * (15 - len(image) % 16)
    image += bytes([reduce(xor, b"".join(content for _, content in segments), 0xEF)])
    return image + (hashlib.sha256(image).digest() if hashed else b"")


def make_boot_loader(chip: int = 0, hashed: bool = True, flash_size: int = 2) -> bytes:
    """Like the IDF's: in RAM, and its description (esp_bootloader_desc_t) first."""
    description = struct.pack("<B3xI32s24s16x", 80, 1, b"v5.2.2", b"Apr 15 2025 15:00:58")
    content = description + bytes(range(256)) * 8
    segments = [(0x3FFF0030, content), (0x40080404, b"\x5a" * 512)]
    return make_image(segments, chip=chip, hashed=hashed, flash_size=flash_size)


def make_app(
    banner: bytes = BANNER, size: int = 0x2000, chip: int = 0, hashed: bool = True
) -> bytes:
    """Like a published one: a description without a version, which is in sys.version only."""
    description = struct.pack("<I", 0xABCD5432).ljust(256, b"\0")
    content = (description + banner).ljust(size, b"\xa5")
    segments = [(0x3F400020, content), (0x40080000, bytes(range(256)))]
    return make_image(segments, chip=chip, hashed=hashed)


def make_table(rows: list[tuple[str, int, int, int, int]]) -> bytes:
    """A binary partition table with its MD5 row."""
    table = b"".join(
        struct.pack("<HBBII16sI", 0x50AA, type_, subtype, offset, size, label.encode(), 0)
        for label, type_, subtype, offset, size in rows
    )
    table += b"\xeb\xeb" + b"\xff" * 14 + hashlib.md5(table).digest()
    return table.ljust(0xC00, b"\xff")


def make_micropython(
    boot_loader: bytes | None = None, table: bytes | None = None, app: bytes | None = None
) -> bytes:
    """The .bin that is flashed at 0x1000."""
    boot_loader = make_boot_loader() if boot_loader is None else boot_loader
    table = make_table(OTA) if table is None else table
    start = boot_loader.ljust(BOOT_LOADER_LEN, b"\xff") + table
    return start.ljust(APP_AT, b"\xff") + (make_app() if app is None else app)
