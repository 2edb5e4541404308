"""A virtual chip of espefuse's, with plan, key and flash: what the tests of burning share."""

import itertools
import json
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from host_tests.esp_images import make_image
from host_tests.tool_helpers import REPO, Signet, run_program
from signet.device.sealing.efuse_plan import CHIPS
from signet.formats import flash, signing

NAMES = sorted(CHIPS)
MAC = "24:0a:c4:01:02:03"
OFFSETS = {"esp32": 0x1000, "esp32s3": 0, "esp32c3": 0}
IMAGE_IDS = {"esp32": 0, "esp32s3": 9, "esp32c3": 5}
# Words of espefuse's virtual file: offset in the register map, bits.
REVISION = {"esp32": ((0x0C, 1 << 15), (0x14, 1 << 20)), "esp32c3": ((0x50, 3 << 18),)}
MAC_WORD = {"esp32": 0x04, "esp32s3": 0x44, "esp32c3": 0x44}
LENGTHS = {"esp32": 288, "esp32s3": 512, "esp32c3": 512}


@dataclass
class Bench:
    """One virtual chip, its plan, key and flash."""

    chip: str
    signet: Signet
    release: Path
    plan: Path
    key: Path
    efuses: Path
    flash: Path

    def apply(self, *options: str | Path) -> subprocess.CompletedProcess[str]:
        return self.signet(
            "device", "burn", "apply", self.plan, "--flash-key", self.key,
            "--virtual", self.efuses, *options,
        )  # fmt: skip

    def burn(self, *options: str | Path) -> subprocess.CompletedProcess[str]:
        return self.apply("--burn", "--flash", self.flash, "--confirm", MAC, *options)

    def espefuse(self, *arguments: str | Path) -> str:
        done = run_program(
            "espefuse", "--chip", self.chip, "--virt", "--path-efuse-file", self.efuses,
            "--do-not-confirm", *arguments,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def summary(self) -> dict[str, dict[str, object]]:
        output = self.espefuse("summary", "--format", "json")
        found: dict[str, dict[str, object]] = json.loads(output[output.index("{") :])
        return found

    def raw(self, name: str) -> int:
        return int(str(self.summary()[name]["raw_value"]), 16)

    def steps(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = json.loads(self.plan.read_text())["steps"]
        return found

    def burn_up_to(self, count: int, folder: Path) -> None:
        """What a cut after `count` steps leaves, by espefuse alone."""
        digest = folder / "digest.bin"
        run_program("espsecure", "digest-sbv2-public-key", "-k", self.release, "-o", digest)
        steps = [step for step in self.steps()[:count] if "KEY_PURPOSE" not in step["efuse"]]
        for action, run in itertools.groupby(steps, lambda step: step["action"]):
            if action == "key":  # with its purpose
                for step in run:
                    self._burn_key(step["efuse"], step["value"] == "flash key", digest)
            elif action == "burn":
                words = [word for step in run for word in (step["efuse"], step["value"])]
                self.espefuse("burn-efuse", *words)
            else:
                self.espefuse(f"{action}-efuse", *[step["efuse"] for step in run])

    def _burn_key(self, efuse: str, is_flash_key: bool, digest: Path) -> None:
        file = self.key if is_flash_key else digest
        if self.chip == "esp32":
            alias = "flash_encryption" if is_flash_key else "secure_boot_v2"
            self.espefuse("burn-key", alias, file, "--no-protect-key")
        else:
            purpose = "XTS_AES_128_KEY" if is_flash_key else "SECURE_BOOT_DIGEST0"
            protect = ("--no-read-protect", "--no-write-protect")
            self.espefuse("burn-key", efuse, file, purpose, *protect)


def write_word(path: Path, offset: int, value: int) -> None:
    """OR a value into a word of a virtual chip; the file holds the map from its end."""
    data = bytearray(path.read_bytes())
    at = len(data) - offset - 4
    word = int.from_bytes(data[at : at + 4], "big") | value
    data[at : at + 4] = word.to_bytes(4, "big")
    path.write_bytes(data)


def blank_chip(path: Path, chip: str, revision: bool = True, mac: str = MAC) -> None:
    path.write_bytes(bytes(LENGTHS[chip]))
    number = int(mac.replace(":", ""), 16)
    write_word(path, MAC_WORD[chip], number & 0xFFFFFFFF)
    write_word(path, MAC_WORD[chip] + 4, number >> 32)
    for offset, bits in REVISION.get(chip, ()) if revision else ():
        write_word(path, offset, bits)


def app_image(chip: str, text: bytes, length: int = 5000) -> bytes:
    """An image with one segment of this length."""
    segments = [(0x40080000, text.ljust(length, b"."))]
    return make_image(segments, chip=IMAGE_IDS[chip], hashed=False)


def flash_image(chip: str, key: Path, other: Path | None = None, table: str = "sealed") -> bytes:
    """A whole flash of 4 MB: signed bootloader and platform, our table, a blank rest.

    The bootloader is as long as a real one, so on the ESP32 its signature is at 0x8000. other:
    signs the platform. table: stock, sealed, or plain: the sealed one without its flags.
    """
    name = "partitions.csv" if table == "stock" else "sealed/partitions-4mb.csv"
    rows = flash.load_layout(REPO / "firmware/board" / name)
    if table == "plain":
        rows = tuple(replace(row, flags=0) for row in rows)
    content = bytearray(b"\xff" * flash.FLASH_LENS[0])
    for offset, data in (
        (OFFSETS[chip], signing.sign_bytes(app_image(chip, b"bootloader", 25_900), key)),
        (0x8000 if table == "stock" else 0x9000, flash.build_table(rows)),
        (0x10000, signing.sign_bytes(app_image(chip, b"platform"), other or key)),
    ):
        content[offset : offset + len(data)] = data
    return bytes(content)
