"""esp_secure_cert partitions: write one, and read one that Espressif's tools or factory wrote.

A list of entries, each with a header of 12 bytes (magic, flags, 3 reserved, type, subtype, length),
data padded with zeros to 16 and a CRC-32 over all that; the last is the SHA-256 of those before it.
The list ends where flash is erased. Format: ESP-IDF component esp_secure_cert_mgr,
`esp_secure_cert_tlv_config.h`; `configure_esp_secure_cert.py` makes the same bytes.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from signet.errors import RefusedError
from trust.identity import PRIVATE_KEY, RECORD

INTEGRITY = 9
_MAGIC = 0xBA5EBA11
_HEADER = struct.Struct("<IB3xBBH")
_CRC_LEN = 4
_MAX_LEN = 0x10000  # of a partition: eight times what Espressif makes
_ALIGNMENT = 16
_CRC_SEED = 0xFFFFFFFF  # the IDF starts the register at 0, zlib's seed is the complement

_HARDWARE_TYPES = {3: "DS data", 4: "DS context", 6: "a peripheral's key"}
_KEY_FLAGS = {0x80: "encrypted with an HMAC eFuse key", 0x40: "derived from an HMAC eFuse key",
              0x08: "in the ECDSA peripheral's eFuse"}  # fmt: skip
_CUST_FLASH_MAGIC = b"\x78\x56\x34\x12"
_CUST_FLASH_MAGIC_AT = (24, 36)  # behind the metadata: with a plain key, with the DS peripheral
_NVS_PAGE_STATES = (0xFFFFFFFE, 0xFFFFFFFC, 0xFFFFFFF8)  # active, full, being freed


class Entry(NamedTuple):
    """One entry. data: as stored: PEM with its closing NUL, DER, or any bytes."""

    type: int
    subtype: int
    data: bytes
    flags: int = 0


def pack(entries: Iterable[Entry]) -> bytes:
    """The entries as a partition's content, with the integrity entry behind them, not padded."""
    content = b"".join(map(_pack_entry, entries))
    return content + _pack_entry(Entry(INTEGRITY, 0, hashlib.sha256(content).digest()))


def _pack_entry(entry: Entry) -> bytes:
    header = _HEADER.pack(_MAGIC, entry.flags, entry.type, entry.subtype, len(entry.data))
    body = header + entry.data + bytes(-len(entry.data) % _ALIGNMENT)
    return body + _crc(body)


def _crc(data: bytes) -> bytes:
    return struct.pack("<I", zlib.crc32(data, _CRC_SEED))


def unpack(content: bytes) -> list[Entry]:
    """All entries of a partition; none if it is erased.

    Raises RefusedError for an entry that is damaged, a wrong integrity entry, one of the older
    formats (cust_flash, nvs), or something else.
    """
    if len(content) > _MAX_LEN:
        raise RefusedError(f"esp_secure_cert: {len(content)} bytes, at most {_MAX_LEN}")
    entries: list[Entry] = []
    at = 0
    while len(content) - at >= _HEADER.size:
        magic, flags, type_, subtype, length = _HEADER.unpack_from(content, at)
        if magic != _MAGIC:
            break
        crc_at = at + _HEADER.size + length + -length % _ALIGNMENT
        data = content[at + _HEADER.size : at + _HEADER.size + length]
        if content[crc_at : crc_at + _CRC_LEN] != _crc(content[at:crc_at]):
            raise RefusedError(f"esp_secure_cert: entry of type {type_} is cut off or damaged")
        if type_ == INTEGRITY and data != hashlib.sha256(content[:at]).digest():
            raise RefusedError("esp_secure_cert: its integrity entry does not match the others")
        entries.append(Entry(type_, subtype, data, flags))
        at = crc_at + _CRC_LEN
    if not entries and content.strip(b"\xff"):
        _refuse_other_format(content)
    return entries


def _refuse_other_format(content: bytes) -> None:
    for name, found in (
        ("cust_flash", any(content[at:].startswith(_CUST_FLASH_MAGIC)
                           for at in _CUST_FLASH_MAGIC_AT)),
        ("nvs", _is_nvs_page(content)),
    ):  # fmt: skip
        if found:
            raise RefusedError(
                f"esp_secure_cert: the old {name} format, expected TLV entries",
                "read key and certificate out with Espressif's tools, and pass them "
                "with --cert and --key",
            )
    raise RefusedError(
        f"esp_secure_cert: starts with {content[:4].hex()}, expected 11ba5eba, the TLV magic"
    )


def _is_nvs_page(content: bytes) -> bool:
    """ESP-IDF "NVS library", page structure: a state, and a CRC at 28 over bytes 4 to 27."""
    return (
        len(content) >= 32
        and int.from_bytes(content[:4], "little") in _NVS_PAGE_STATES
        and content[28:32] == _crc(content[4:28])
    )


def find(entries: Iterable[Entry], type_: int, subtype: int = 0) -> Entry | None:
    """The entry of a type and subtype, if there is one."""
    return next((item for item in entries if (item.type, item.subtype) == (type_, subtype)), None)


def factory_key(content: bytes) -> bytes:
    """The private key of a module that was provisioned at the factory, as it is stored.

    Raises RefusedError if there is none that MicroPython can use: its TLS takes a key from memory,
    not from a peripheral; or if the module has a provisioning record already.
    """
    entries = unpack(content)
    record = find(entries, RECORD)
    if record is not None:
        raise RefusedError(f"esp_secure_cert: already provisioned: {record.data[:200]!r}")
    for entry in entries:
        if entry.type in _HARDWARE_TYPES:
            raise RefusedError(
                f"esp_secure_cert: entry of type {entry.type} ({_HARDWARE_TYPES[entry.type]}): the "
                "key is bound to the chip's peripheral, which MicroPython's TLS cannot use",
                "provision this module without --esp-secure-cert: it gets a new key",
            )
    key = find(entries, PRIVATE_KEY)
    if key is None:
        raise RefusedError("esp_secure_cert: no private key (entry of type 2)")
    if key.flags:
        how = _KEY_FLAGS.get(key.flags, f"stored with flags {key.flags:#04x}")
        raise RefusedError(
            f"esp_secure_cert: the key is {how}, which MicroPython's TLS cannot use",
            "provision this module without --esp-secure-cert: it gets a new key",
        )
    return key.data
