"""The flash of a sealed board, before its eFuses are burned: is it signed, and its ciphertext.

A chip whose eFuses demand what its flash does not hold never boots again. So: bootloader and
platform images must verify (espsecure) with a key of the plan, and every partition that holds
something of ours must be one that is encrypted. Image format: ESP-IDF "App Image Format"; what is
encrypted: "Flash Encryption", section "Encrypted Partitions".
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from signet.device.sealing.efuse_plan import Chip, Plan
from signet.errors import RefusedError, refusals_about
from signet.formats.flash import ENCRYPTED, SECTOR_LEN, Partition, read_table
from signet.formats.flash import SEALED_TABLE_OFFSET as TABLE_OFFSET
from signet.run import ProgramError, run_program

_APP, _DATA, _OTADATA, _NVS_KEYS = 0, 1, 0, 4
_MAGIC, _HEADER_LEN, _MAX_SEGMENTS = 0xE9, 24, 16
_OURS = ("esp_secure_cert", "bootstate", "slot_a", "slot_b", "vfs")


def check_flash(content: bytes, plan: Plan) -> None:
    """Raise RefusedError unless a chip burned to the plan boots this flash. Plaintext."""
    table = _read_table(content)
    rows = {row.label: row for row in table}
    for label in _OURS:
        if label not in rows:
            raise RefusedError(f"partition table: no {label}")
        if not rows[label].flags & ENCRYPTED:
            raise RefusedError(
                f"partition table: {label} is not encrypted",
                "that is the table of a stock build; a sealed one is in firmware/board/sealed",
            )
    _check_image(content, plan.chip.bootloader_offset, TABLE_OFFSET, "bootloader", plan)
    apps = [row for row in table if row.type == _APP and not _blank(content, row)]
    if not apps:
        raise RefusedError("no platform image in ota_0 or ota_1")
    for row in apps:
        _check_image(content, row.offset, row.end, row.label, plan)


def _read_table(content: bytes) -> tuple[Partition, ...]:
    try:
        return read_table(content[TABLE_OFFSET:], TABLE_OFFSET)
    except RefusedError as error:
        raise RefusedError(
            f"{error}, at {TABLE_OFFSET:#x}",
            "a sealed build has its table there, behind a signed bootloader; a stock one has not",
        ) from error


def _check_image(content: bytes, start: int, end: int, what: str, plan: Plan) -> None:
    image = content[start:end]
    signed = image[: _image_len(image, what, plan.chip) + SECTOR_LEN]
    with tempfile.TemporaryDirectory(prefix="signet-") as folder:
        file, key = Path(folder, "image"), Path(folder, "release.pub")
        file.write_bytes(signed)
        for pem in plan.release:
            key.write_text(pem)
            try:
                run_program("espsecure", "verify-signature", "--version", "2", "-k", key, file)
                return
            except ProgramError:
                continue
    raise RefusedError(
        f"{what} at {start:#x} is not signed with a release key of the plan",
        "espsecure sign-data --version 2 signs bootloader and platform image",
    )


def _image_len(image: bytes, what: str, chip: Chip) -> int:
    """Bytes up to where the signature sector belongs: the image, padded to 4096."""
    if len(image) < _HEADER_LEN or image[0] != _MAGIC or image[1] > _MAX_SEGMENTS:
        raise RefusedError(f"{what}: not an image of an ESP chip")
    found = int.from_bytes(image[12:14], "little")
    if found != chip.chip_id:
        raise RefusedError(f"{what}: made for chip {found}, an {chip.name} is {chip.chip_id}")
    length = _HEADER_LEN
    for _ in range(image[1]):
        length += 8 + int.from_bytes(image[length + 4 : length + 8], "little")
    length = (length // 16 + 1) * 16  # the checksum ends a block of 16
    length += 32 if image[23] else 0  # SHA-256
    length += -length % SECTOR_LEN
    if length + SECTOR_LEN > len(image):
        raise RefusedError(f"{what}: {length} bytes and a signature do not fit {len(image)}")
    return length


def encrypt_flash(content: bytes, chip: Chip, key: Path) -> bytes:
    """The flash as it lies on an encrypted chip: every encrypted region as ciphertext."""
    result = bytearray(content)
    options = ("--keyfile", key) if chip.name == "esp32" else ("--aes-xts", "--keyfile", key)
    with tempfile.TemporaryDirectory(prefix="signet-") as folder, refusals_about(key):
        plain, cipher = Path(folder, "plain"), Path(folder, "cipher")
        for start, end in _regions(content, chip):
            plain.write_bytes(content[start:end])
            place = ("--address", hex(start), "--output", cipher)
            run_program("espsecure", "encrypt-flash-data", *options, *place, plain)
            result[start:end] = cipher.read_bytes()
    return bytes(result)


def _regions(content: bytes, chip: Chip) -> Iterator[tuple[int, int]]:
    """What the hardware decrypts: bootloader, table, apps, otadata, NVS keys and flagged rows.

    A blank partition stays blank, as an erased one is on such a chip; but not otadata, where the
    bootloader is to find 0xFF (SFE FE 7).
    """
    yield chip.bootloader_offset, TABLE_OFFSET
    yield TABLE_OFFSET, TABLE_OFFSET + SECTOR_LEN
    for row in _read_table(content):
        otadata = row.type == _DATA and row.subtype == _OTADATA
        system = row.type == _APP or (row.type == _DATA and row.subtype == _NVS_KEYS)
        if otadata or ((system or row.flags & ENCRYPTED) and not _blank(content, row)):
            yield row.offset, row.end


def _blank(content: bytes, row: Partition) -> bool:
    return not content[row.offset : row.end].strip(b"\xff")
