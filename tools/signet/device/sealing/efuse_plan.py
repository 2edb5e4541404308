"""The eFuse plan of a sealed board: what is burned, in which order, why, and who says so.

An eFuse is a bit that goes from 0 to 1 and never back. A plan belongs to one chip, by its MAC,
because its flash encryption key does. It is a JSON file to be read and signed off, not a program:
`load_plan` makes the steps anew from the file's header and refuses a file whose steps differ, so a
step that was moved, changed or left out is found before anything is burned.

The order is the one that survives a power cut between any two steps. The flash already holds
ciphertext, so until FLASH_CRYPT_CNT (SPI_BOOT_CRYPT_CNT), the last step but one, the ROM finds
nothing to boot and nothing on the chip burns eFuses on its own; and until the last step the
download mode is open, so the same command goes on.

What bricks, and what the order does about it:
- Secure Boot without a signed bootloader in flash, or a digest that is not of its key: `burn`
  checks the flash image's signatures before the first step, and each digest is read back.
- A digest that is read-protected: the ROM reads zeros. So RD_DIS is write-protected, but only
  after the flash key, which has to be hidden, is.
- Flash encryption with a key other than the flash was encrypted with: the key is read back and
  compared before it is hidden; nobody can do that later.
- Caches switched off (DIS_CACHE, DIS_ICACHE): write-protected, as the IDF does it.
- Download mode closed too early: nothing can be burned or flashed through a cable any more.

Sources: ESP-IDF 5.4, docs/en/security/security-features-enablement-workflows.rst (SFE: "Enable
Flash Encryption Externally" FE, "Enable Secure Boot v2 Externally" SB; the number is the step's);
components/bootloader_support/src/<chip>/secure_boot_secure_features.c (sbsf).
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from signet import files
from signet.errors import RefusedError, SignetError
from signet.formats import signing
from signet.formats.documents import load_object

FLASH_KEY_LEN = 32
FLASH_KEY = "flash key"
_VERSION = 1
_MAC = re.compile("[0-9a-f]{2}(:[0-9a-f]{2}){5}")


@dataclass(frozen=True)
class Step:
    """One burn. action: key, burn, write-protect or read-protect; value: what `burn` burns."""

    action: str
    efuse: str
    value: str
    why: str
    source: str


@dataclass(frozen=True)
class Chip:
    """What differs between chips. The version is major * 100 + minor, as espefuse counts."""

    name: str
    least_revision: int
    bootloader_offset: int
    chip_id: int  # of image headers
    flash_block: str
    digest_blocks: tuple[str, ...]
    crypt_counter: str  # flash encryption is on when an odd number of its bits is set
    secure_boot: str
    switches: tuple[tuple[str, str, str, str], ...]  # eFuse, value, why, source
    cache: str
    download: str


_COMMON_SWITCHES = (
    ("DIS_DOWNLOAD_MANUAL_ENCRYPT", "1", "ROM must not encrypt for a stranger", "SFE FE 5A"),
    ("DIS_DOWNLOAD_ICACHE", "1", "ROM must not decrypt through the cache", "SFE FE 5A"),
    ("DIS_PAD_JTAG", "1", "JTAG pins off: a debugger reads all", "SFE FE 5A, SB 5A"),
    ("DIS_USB_JTAG", "1", "JTAG over USB off", "SFE FE 5A, SB 5A"),
    ("SOFT_DIS_JTAG", "7", "JTAG cannot be switched on by software", "SFE SB 5A"),
    ("DIS_DIRECT_BOOT", "1", "no boot mode that skips verification", "SFE FE 5A, SB 5A"),
)
_KEY_BLOCKS = ("BLOCK_KEY1", "BLOCK_KEY2", "BLOCK_KEY3")

CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            "esp32", 300, 0x1000, 0, "BLOCK1", ("BLOCK2",), "FLASH_CRYPT_CNT", "ABS_DONE_1",
            (
                ("DISABLE_DL_ENCRYPT", "1", "ROM must not encrypt for a stranger", "SFE FE 5A"),
                ("DISABLE_DL_DECRYPT", "1", "ROM must not decrypt for a stranger", "SFE FE 5A"),
                ("DISABLE_DL_CACHE", "1", "ROM must not decrypt through the cache", "SFE FE 5A"),
                ("JTAG_DISABLE", "1", "JTAG off: a debugger reads all", "SFE FE 5A, SB 5A"),
                ("CONSOLE_DEBUG_DISABLE", "1", "no BASIC in ROM", "sbsf esp32"),
                ("FLASH_CRYPT_CONFIG", "15", "the address tweaks the key, all bits", "SFE FE 4"),
            ),
            "DIS_CACHE", "UART_DOWNLOAD_DIS",
        ),
        Chip(
            "esp32s3", 0, 0, 9, "BLOCK_KEY0", _KEY_BLOCKS, "SPI_BOOT_CRYPT_CNT", "SECURE_BOOT_EN",
            (
                *_COMMON_SWITCHES,
                ("DIS_DOWNLOAD_DCACHE", "1", "the same, for data", "SFE FE 5A"),
            ),
            "DIS_ICACHE", "DIS_DOWNLOAD_MODE",
        ),
        Chip(
            "esp32c3", 3, 0, 5, "BLOCK_KEY0", _KEY_BLOCKS, "SPI_BOOT_CRYPT_CNT", "SECURE_BOOT_EN",
            _COMMON_SWITCHES, "DIS_ICACHE", "DIS_DOWNLOAD_MODE",
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """release: public keys, PEM, that may sign bootloader and platform; flash_key: its SHA-256."""

    chip: Chip
    mac: str
    release: tuple[str, ...]
    flash_key: str
    digests: tuple[bytes, ...]
    steps: tuple[Step, ...]


def make_plan(chip_name: str, mac: str, release: Sequence[str], flash_key: str) -> Plan:
    """Plan for one chip; SignetError if the header makes no sense."""
    chip = CHIPS.get(chip_name)
    if chip is None:
        raise SignetError(f"chip {chip_name!r}, expected one of {', '.join(CHIPS)}")
    mac = mac.lower()
    if not _MAC.fullmatch(mac) or mac == "00:00:00:00:00:00":
        raise SignetError(f"MAC {mac!r}, expected six bytes: 24:0a:c4:01:02:03")
    if not 1 <= len(release) <= len(chip.digest_blocks):
        raise SignetError(
            f"{len(release)} release keys, a chip of type {chip_name} holds "
            f"1 to {len(chip.digest_blocks)}"
        )
    if not re.fullmatch("[0-9a-f]{64}", flash_key):
        raise SignetError(f"SHA-256 of the flash key: {flash_key!r}, expected 64 hex digits")
    digests = tuple(signing.pem_digest(pem.encode(), "release key") for pem in release)
    if len(set(digests)) != len(digests):
        raise SignetError("a release key is named twice")
    return Plan(chip, mac, tuple(release), flash_key, digests, _steps(chip, len(digests)))


def _steps(chip: Chip, count: int) -> tuple[Step, ...]:
    """The one order; see the head of this file."""
    blocks, spare = chip.digest_blocks[:count], range(count, len(chip.digest_blocks))
    purposes = chip.flash_block.startswith("BLOCK_KEY")
    keys = [(chip.flash_block, FLASH_KEY, "XTS_AES_128_KEY", "encrypts the flash", "SFE FE 3")]
    for n, block in enumerate(blocks):
        keys.append((block, f"digest {n}", f"SECURE_BOOT_DIGEST{n}", "release key", "SFE SB 3"))
    steps = []
    for block, what, purpose, why, source in keys:
        steps.append(Step("key", block, what, why, source))
        if purposes:  # burn-key burns it with the key; a step of its own for a cut between the two
            efuse = block.replace("BLOCK_KEY", "KEY_PURPOSE_")
            steps.append(Step("burn", efuse, purpose, f"what {block} is for", source))
            steps.append(Step("write-protect", efuse, "", "and stays for", source))
    for block in (chip.flash_block, *blocks):
        steps.append(Step("write-protect", block, "", "no bit can be added", "SFE FE 3, SB 3"))
    steps.append(Step("read-protect", chip.flash_block, "", "only hardware reads it", "SFE FE 3"))
    steps.append(Step("write-protect", "RD_DIS", "", "digests stay readable", "SFE SB 5B i"))
    for number in spare if purposes else ():
        efuse = f"SECURE_BOOT_KEY_REVOKE{number}"
        steps.append(Step("burn", efuse, "1", "no key can be added", "SFE SB 5B ii"))
    steps += [Step("burn", *switch) for switch in chip.switches]
    full = "127" if chip.name == "esp32" else "7"
    return (
        *steps,
        Step("write-protect", chip.cache, "", "caches stay on", "SFE FE 5B"),
        Step("burn", chip.secure_boot, "1", "only signed code boots", "SFE SB 4"),
        Step("burn", chip.crypt_counter, full, "flash encryption, for good", "SFE FE 4"),
        Step("burn", chip.download, "1", "ROM download mode off", "SFE FE 8, SB 8"),
    )


def dump_plan(plan: Plan) -> bytes:
    """The plan as a file: JSON, a header and the steps."""
    return (json.dumps(_document(plan), indent=1) + "\n").encode()


def _document(plan: Plan) -> dict[str, Any]:
    return {
        "v": _VERSION,
        "chip": plan.chip.name,
        "mac": plan.mac,
        "flash_key_sha256": plan.flash_key,
        "release": [
            {"digest": digest.hex(), "public_key": pem}
            for digest, pem in zip(plan.digests, plan.release, strict=True)
        ],
        "steps": [{"n": n, **asdict(step)} for n, step in enumerate(plan.steps, 1)],
    }


def load_plan(path: Path) -> Plan:
    """Read a plan; RefusedError unless it is, step by step, the one its header makes."""
    data = files.read_file(path, "eFuse plan")
    try:
        found = load_object(data)
        keys = [entry["public_key"] for entry in found["release"]]
        plan = make_plan(found["chip"], found["mac"], keys, found["flash_key_sha256"])
        steps = found["steps"]
        if not isinstance(steps, list):
            raise TypeError("steps")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SignetError(f"{path}: not an eFuse plan of version {_VERSION}: {error!r}") from error
    except SignetError as error:
        raise SignetError(f"{path}: {error}", error.hint) from error
    expected = _document(plan)
    for number, step in enumerate(expected["steps"]):
        if number >= len(steps) or steps[number] != step:
            shown = _brief(steps[number]) if number < len(steps) else "nothing"
            raise RefusedError(
                f"{path}: step {number + 1} is {shown}, expected {_brief(step)}",
                "the order is fixed, so that a power cut does no harm; make the plan anew",
            )
    if found != expected:
        raise RefusedError(f"{path}: was altered", "make the plan anew")
    return plan


def _brief(step: object) -> str:
    if not isinstance(step, dict):
        return repr(step)
    return " ".join(str(step.get(name, "?")) for name in ("action", "efuse", "value")).strip()


def key_hash(key: bytes) -> str:
    """What a plan says of a flash key: 256 random bits cannot be had back from their SHA-256."""
    return hashlib.sha256(key).hexdigest()
