"""Bytes that nobody made: good samples, altered at random, and with checksums that are right."""

import hashlib
import json
import random
import struct
import zlib

_NUMBERS = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE,
            0xFFFF_FFFF)  # fmt: skip
_TOKENS = (
    *(b"\0", b"\xff\xff", b"\x1b[2J", "\u202e".encode(), b"\xed\xb2\x80", b'"', b",", b"\n", b"/"),
    *(
        b"[",
        b"{",
        b"]",
        b"}",
        b"null",
        b"true",
        b"-1",
        b"1e999",
        b"NaN",
        b"..",
        b"=",
        b"://",
        b"%s",
    ),
    *(b"0x" + b"f" * 5000, b"9" * 5000, b"[" * 3000, b'{"a":' * 2000, b'"\\ud800"'),
    b"-----BEGIN CERTIFICATE-----\n",
)
_LONGEST = 300_000  # bytes that a mutation may make of less


def mutate(chance: random.Random, sample: bytes, others: list[bytes]) -> bytes:
    """One to eight changes; now and then none of the sample is left."""
    data = bytearray(sample)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(data) + 1)
        _CHANGES[chance.randrange(len(_CHANGES))](chance, data, at, others)
        del data[max(_LONGEST, len(sample)) :]
    return bytes(data)


def _flip(chance, data, at, _others):
    if at < len(data):
        data[at] ^= 1 << chance.randrange(8)


def _set(chance, data, at, _others):
    data[at : at + 1] = bytes(
        [chance.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, chance.randrange(256)))]
    )


def _number(chance, data, at, _others):
    form = chance.choice(("<H", ">H", "<I", ">I"))
    value = chance.choice(_NUMBERS) & (0xFFFF if form[1] == "H" else 0xFFFF_FFFF)
    if form[1] == "I" and at >= 4 and chance.random() < 0.3:
        value = (
            struct.unpack_from(form, data, at - 4)[0] + chance.choice((-1, 1, 4096)) & 0xFFFF_FFFF
        )
        at -= 4
    data[at : at + struct.calcsize(form)] = struct.pack(form, value)


def _token(chance, data, at, _others):
    token = chance.choice(_TOKENS)
    data[at : at + chance.choice((0, len(token)))] = token


def _cut(chance, data, at, _others):
    del data[at:]


def _remove(chance, data, at, _others):
    del data[at : at + chance.choice((1, 4, 16, 4096))]


def _repeat(chance, data, at, _others):
    part = bytes(data[at : at + chance.choice((1, 2, 16, 300))])
    data[at:at] = part * chance.choice((1, 2, 50, 1000))


def _move(chance, data, at, _others):
    length = chance.choice((1, 4, 32, 4096))
    other = chance.randrange(len(data) + 1)
    part = bytes(data[at : at + length])
    data[other : other + len(part)] = part


def _splice(chance, data, at, others):
    other = chance.choice(others)
    start = chance.randrange(len(other) + 1)
    data[at:] = other[start:]


_CHANGES = (_flip, _flip, _set, _number, _number, _token, _cut, _remove, _repeat, _move, _splice)


def mend_table(data: bytes) -> bytes:
    """A partition table with an MD5 row that is right, where the first one was."""
    at = data.find(b"\xeb\xeb" + b"\xff" * 14)
    if at < 0 or at % 32:
        return data
    return (
        data[: at + 16] + hashlib.md5(data[:at], usedforsecurity=False).digest() + data[at + 32 :]
    )


def mend_flash(data: bytes) -> bytes:
    return data[:0x8000] + mend_table(data[0x8000:0x8C00]) + data[0x8C00:]


def mend_entries(data: bytes) -> bytes:
    """esp_secure_cert entries with right CRCs, and integrity entries that match."""
    content, at = bytearray(data), 0
    while len(content) - at >= 12 and content[at : at + 4] == b"\x11\xba\x5e\xba":
        (length,) = struct.unpack_from("<H", content, at + 10)
        end = at + 12 + length + -length % 16
        if end + 4 > len(content):
            break
        if content[at + 8] == 9 and length == 32:
            content[at + 12 : at + 44] = hashlib.sha256(content[:at]).digest()
        content[end : end + 4] = struct.pack("<I", zlib.crc32(content[at:end], 0xFFFF_FFFF))
        at = end + 4
    return bytes(content)


def mend_littlefs(data: bytes) -> bytes:
    """Every block that looks like one of metadata gets the CRCs that belong to it.

    Format: littlefs SPEC.md, "Metadata pairs": a revision, then tags, big-endian, each the
    exclusive-or with the one before it.
    """
    content = bytearray(data)
    for block in range(0, len(content) - 4095, 4096):
        _mend_block(memoryview(content)[block : block + 4096])
    return bytes(content)


def _mend_block(block: memoryview) -> None:
    at, tag = 4, 0xFFFF_FFFF
    start = 0
    while at + 4 <= len(block):
        tag ^= int.from_bytes(block[at : at + 4], "big")
        if tag >> 31:
            return
        kind, length = tag >> 20 & 0x7FF, tag & 0x3FF
        stored = 0 if length == 0x3FF else length
        if kind & 0x700 == 0x500 and kind != 0x5FF:
            if at + 8 > len(block):
                return
            crc = zlib.crc32(block[start : at + 4]) ^ 0xFFFF_FFFF
            block[at + 4 : at + 8] = struct.pack("<I", crc)
            start = at + 4 + stored
            tag ^= (kind & 1) << 31
        at += 4 + stored


def mend_image(data: bytes) -> bytes:
    """A slot image's descriptor says how long it is."""
    if len(data) < 8192:
        return data
    return data[:12] + struct.pack("<I", (len(data) - 4096) // 4096 * 4096) + data[16:]


def hostile_json(chance: random.Random, sample: bytes, _others: list[bytes]) -> bytes:
    """JSON in which values have changed places and types: it parses, and says something else."""
    try:
        content = json.loads(sample)
    except ValueError:
        return sample
    places = list(_places(content))
    for _ in range(chance.choice((1, 1, 2, 5))):
        holder, key = chance.choice(places)
        others: tuple[object, ...] = ("a" * 5000, chance.choice(places)[1])
        values = (*_VALUES, *others)
        if isinstance(holder, dict) and chance.random() < 0.2:
            holder.pop(key, None)
        elif isinstance(holder, dict) or key < len(holder):
            holder[key] = chance.choice(values)
    return json.dumps(content).encode()


_VALUES: tuple[object, ...] = (
    *(None, True, -1, 0, 2**63, 1e308, "", "\udc80", "\x1b[2J", [], {}, [[]], {"v": 1}),
)


def _places(content):
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in list(pairs):
        yield content, key
        if isinstance(value, dict | list) and value:
            yield from _places(value)
