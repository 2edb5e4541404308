"""Look for private keys where none may be: in output, logs, images and flash.

A key is looked for by its private numbers, in the forms in which it could leak: raw in either byte
order, in hexadecimal, in base64, and as the lines of its PEM file.
"""

import base64
from collections.abc import Iterable, Iterator
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from signet.formats.flash import Flash
from trust.identity import Identity

_NEEDLE_LEN = 16  # bytes of a number that are looked for: a part of it is a leak, too


def find_keys(keys: Iterable[bytes], places: dict[str, bytes]) -> list[str]:
    """Which of `places` (name: content) hold something of one of `keys` (PEM)."""
    needles = {needle for key in keys for needle in _needles(key)}
    return [name for name, content in places.items() if any(each in content for each in needles)]


def _needles(pem: bytes) -> Iterator[bytes]:
    yield from (line for line in pem.splitlines() if len(line) == 64)
    for number in _numbers(pem):
        middle = len(number) // 2 - _NEEDLE_LEN // 2
        part = number[middle : middle + _NEEDLE_LEN]
        yield from (part, part[::-1])
        yield from (part.hex().encode(), part.hex().upper().encode())
        for shift in range(3):  # of the three ways in which bytes share base64's characters
            yield base64.b64encode(part[shift:])[: (_NEEDLE_LEN - shift) // 3 * 4]


def _numbers(pem: bytes) -> list[bytes]:
    """What is private in a key: big-endian numbers."""
    key = serialization.load_pem_private_key(pem.rstrip(b"\0"), password=None)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return [key.private_numbers().private_value.to_bytes(32)]
    if isinstance(key, rsa.RSAPrivateKey):
        private = key.private_numbers()
        return [private.d.to_bytes(384), private.p.to_bytes(192), private.q.to_bytes(192)]
    raise TypeError(f"{type(key).__name__}, expected an EC or RSA private key")


def keys_and_places(folder: Path) -> tuple[list[bytes], dict[str, bytes]]:
    """All keys below a folder, and the content of all files in which none may be.

    Keys are in `*.key` and in the identity partitions of `flash.bin`; of the latter, what is around
    that partition is a place.
    """
    keys, places = [], {}
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        name = str(path.relative_to(folder))
        if path.suffix == ".key":
            keys.append(path.read_bytes())
        elif path.name == "flash.bin":
            chip = Flash.load(path)
            keys.append(bytes(Identity(chip.device("esp_secure_cert")).key))
            chip.write("esp_secure_cert", b"")
            for label in (
                "nvs",
                "otadata",
                "ota_0",
                "ota_1",
                "bootstate",
                "slot_a",
                "slot_b",
                "vfs",
            ):
                places[f"{name}, {label}"] = chip.read(label)
        else:
            places[name] = path.read_bytes()
    return keys, places
