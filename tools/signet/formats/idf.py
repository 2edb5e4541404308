"""What the IDF's boot loader and its OTA functions share: otadata records and the app image check.

Runs under CPython, in the boot loader model (bootloader.py), and under MicroPython, behind
`esp32.Partition` (tools/virtual_board). Sources: bootloader_common_loader.c, esp_image_format.c,
esp_ota_ops.c (ESP-IDF 5), with the settings of a stock MicroPython: no Secure Boot, roll-back on.
"""

import binascii
import hashlib
import struct
from collections import namedtuple

try:
    from collections.abc import Callable, Sequence

    _Read = Callable[[int, bytearray | memoryview], object]
except ImportError:  # MicroPython, which ignores annotations
    pass

# States of a record (esp_ota_img_states_t).
NEW = 0  # written by set_boot; the next boot makes it PENDING_VERIFY
PENDING_VERIFY = 1  # booted and not yet marked valid; the next boot makes it ABORTED
VALID = 2
INVALID = 3
ABORTED = 4
UNDEFINED = 0xFFFFFFFF

RECORD_LEN = 32
_RECORD = "<I20sII"
_NO_SEQUENCE = 0xFFFFFFFF

_IMAGE_MAGIC = 0xE9
_CHIP_ID = 0  # ESP32
_CHIP_REVISION = 301  # v3.1
_MAX_SEGMENTS = 16
_HEADER_LEN = 24
_DIGEST_LEN = 32
_MIN_FIRST_SEGMENT = 256  # it begins with the app description
_CHECKSUM_SEED = 0xEF
_PAGE = 0x10000
_CHUNK = 1024  # a power of two, at least 4
# Addresses that the cache maps from flash, page by page (soc.h).
_MAPPED = ((0x3F400000, 0x3F800000), (0x400D0000, 0x40400000))

# esp_ota_select_entry_t. label: 20 bytes that nothing reads.
Record = namedtuple("Record", ("sequence", "label", "state", "crc"))


class ImageError(Exception):
    """An app image that the IDF's esp_image_verify refuses."""


def ota_crc(sequence: int) -> int:
    """The CRC of a record; it covers nothing but the sequence number."""
    return binascii.crc32(struct.pack("<I", sequence), 0xFFFFFFFF)


def parse_record(data: "bytes | bytearray") -> Record:
    """The record in the 32 bytes at the start of an otadata sector, right or not."""
    return Record(*struct.unpack(_RECORD, data))


def pack_record(record: Record) -> bytes:
    """The bytes of a record; its CRC is taken as it is."""
    return struct.pack(_RECORD, *record)


def new_record(sequence: int, label: bytes, state: int) -> Record:
    """A record with the right CRC."""
    return Record(sequence, label, state, ota_crc(sequence))


def with_state(record: Record, state: int) -> Record:
    """The same record in another state; its CRC does not cover the state."""
    return Record(record.sequence, record.label, state, record.crc)


def is_out(record: Record) -> bool:
    """bootloader_common_ota_select_invalid: never written, or given up."""
    return bool(record.sequence == _NO_SEQUENCE or record.state in (INVALID, ABORTED))


def is_initial(record: Record) -> bool:
    """Never written, or torn: what says that no app was ever chosen."""
    return bool(record.sequence == _NO_SEQUENCE or record.crc != ota_crc(record.sequence))


def active_record(records: "Sequence[Record]") -> int:
    """Index of the record that decides, the first of two with equal sequence; -1 if none does."""
    best = -1
    for index, record in enumerate(records):
        if is_out(record) or is_initial(record):
            continue
        if best < 0 or record.sequence > records[best].sequence:
            best = index
    return best


def slot_of(sequence: int, slots: int) -> int:
    """Index of the OTA slot that a sequence number chooses."""
    return ((sequence - 1) & 0xFFFFFFFF) % slots


def next_sequence(current: int, slot: int, slots: int) -> int:
    """The lowest sequence number not below `current` that chooses `slot`."""
    return current + (slot + 1 - current) % slots


def check_app_image(read: "_Read", address: int, size: int) -> int:
    """Check the app image in a partition as esp_image_verify does; its length in bytes.

    read(address, buffer) fills the buffer from the flash; address and size are the partition's.
    Raises ImageError. No signature is looked at: stock boot loaders have no Secure Boot.
    """
    header = bytearray(_HEADER_LEN)
    read(address, header)
    _check_header(header)
    digest = hashlib.sha256(header)
    checksum = _CHECKSUM_SEED
    place = address + _HEADER_LEN
    for index in range(header[1]):
        segment = bytearray(8)
        read(place, segment)
        digest.update(segment)
        load_address, length = struct.unpack("<II", segment)
        place += 8
        _check_segment(index, load_address, length, place, address + size)
        checksum ^= _hash_words(read, place, length, digest)
        place += length
    return _check_end(read, place, checksum, digest, header[23] == 1, address, size)


def _check_header(header: bytearray) -> None:
    if header[0] != _IMAGE_MAGIC:
        raise ImageError("magic byte 0x%02x, expected 0xe9 (nothing flashed here?)" % header[0])
    chip, lowest, highest = struct.unpack("<H1xHH", header[12:19])
    if chip != _CHIP_ID:
        raise ImageError("chip id %d, expected %d" % (chip, _CHIP_ID))
    if lowest > _CHIP_REVISION or (highest not in (0, 0xFFFF) and highest < _CHIP_REVISION):
        raise ImageError("for chip revisions %d to %d, not %d" % (lowest, highest, _CHIP_REVISION))
    if header[1] > _MAX_SEGMENTS:
        raise ImageError("%d segments, at most %d" % (header[1], _MAX_SEGMENTS))


def _check_segment(index: int, load_address: int, length: int, place: int, end: int) -> None:
    if length % 4 or place + length > end:
        raise ImageError("segment %d: length 0x%x" % (index, length))
    if index == 0 and length < _MIN_FIRST_SEGMENT:
        raise ImageError("segment 0: too short for the app description")
    mapped = any(low <= load_address < high for low, high in _MAPPED)
    if mapped and load_address % _PAGE != place % _PAGE:
        raise ImageError("segment %d: cannot be mapped to 0x%x" % (index, load_address))


def _hash_words(read: "_Read", place: int, length: int, digest: "hashlib._Hash") -> int:
    """Feed a segment to the digest; the exclusive-or of its bytes."""
    buffer = memoryview(bytearray(_CHUNK))
    total = 0
    for start in range(0, length, _CHUNK):
        part = buffer[: min(_CHUNK, length - start)]
        read(place + start, part)
        digest.update(part)
        total ^= int.from_bytes(part, "little")
    width = _CHUNK * 8
    while width > 8:
        width //= 2
        total = (total >> width) ^ (total & ((1 << width) - 1))
    return total


def _check_end(
    read: "_Read",
    place: int,
    checksum: int,
    digest: "hashlib._Hash",
    hashed: bool,
    address: int,
    size: int,
) -> int:
    """Checksum, digest and total length; `place` is the end of the last segment."""
    padding = bytearray(16 - (place - address) % 16)
    read(place, padding)
    if padding[-1] != checksum:
        raise ImageError("checksum 0x%02x, expected 0x%02x" % (padding[-1], checksum))
    digest.update(padding)
    length = place + len(padding) - address
    if hashed:
        stored = bytearray(_DIGEST_LEN)
        read(address + length, stored)
        if bytes(stored) != digest.digest():
            raise ImageError("its SHA-256 does not match")
        length += _DIGEST_LEN
    if length > size:
        raise ImageError("%d bytes, the partition holds %d" % (length, size))
    return length
