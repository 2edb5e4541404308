"""`signet device burn` on espefuse's virtual chips: order, cuts, wrong chips, what is refused.

espefuse itself reads every result back: its summary is the oracle.
"""

import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from host_tests.tool_helpers import REPO, Signet, mode, run_program, snapshot
from signet.device.sealing.efuse_plan import CHIPS
from signet.formats import flash, signing

pytest_plugins = ["host_tests.tool_fixtures"]

NAMES = sorted(CHIPS)
MAC = "24:0a:c4:01:02:03"
OFFSETS = {"esp32": 0x1000, "esp32s3": 0, "esp32c3": 0}
IMAGE_IDS = {"esp32": 0, "esp32s3": 9, "esp32c3": 5}
# Words of espefuse's virtual file: offset in the register map, bits.
REVISION = {"esp32": ((0x0C, 1 << 15), (0x14, 1 << 20)), "esp32c3": ((0x50, 3 << 18),)}
MAC_WORD = {"esp32": 0x04, "esp32s3": 0x44, "esp32c3": 0x44}
LENGTHS = {"esp32": 288, "esp32s3": 512, "esp32c3": 512}
EXPECTED = {
    "esp32": {
        "ABS_DONE_1": 1, "ABS_DONE_0": 0, "FLASH_CRYPT_CNT": 127, "FLASH_CRYPT_CONFIG": 15,
        "JTAG_DISABLE": 1, "DISABLE_DL_ENCRYPT": 1, "DISABLE_DL_DECRYPT": 1,
        "DISABLE_DL_CACHE": 1, "CONSOLE_DEBUG_DISABLE": 1, "UART_DOWNLOAD_DIS": 1, "DIS_CACHE": 0,
        "RD_DIS": 1, "WR_DIS": 1 << 0 | 1 << 3 | 1 << 7 | 1 << 8,
    },
    "esp32s3": {
        "SECURE_BOOT_EN": 1, "SPI_BOOT_CRYPT_CNT": 7, "DIS_DOWNLOAD_MODE": 1,
        "DIS_DOWNLOAD_MANUAL_ENCRYPT": 1, "DIS_DOWNLOAD_ICACHE": 1, "DIS_DOWNLOAD_DCACHE": 1,
        "DIS_PAD_JTAG": 1, "DIS_USB_JTAG": 1, "SOFT_DIS_JTAG": 7, "DIS_DIRECT_BOOT": 1,
        "KEY_PURPOSE_0": 4, "KEY_PURPOSE_1": 9, "KEY_PURPOSE_2": 0, "SECURE_BOOT_KEY_REVOKE0": 0,
        "SECURE_BOOT_KEY_REVOKE1": 1, "SECURE_BOOT_KEY_REVOKE2": 1, "DIS_ICACHE": 0, "RD_DIS": 1,
        "SECURE_BOOT_AGGRESSIVE_REVOKE": 0,
        # RD_DIS, caches and what goes with them, key purposes 0 and 1, key blocks 0 and 1
        "WR_DIS": 1 << 0 | 1 << 2 | 1 << 8 | 1 << 9 | 1 << 23 | 1 << 24,
    },
}  # fmt: skip
EXPECTED["esp32c3"] = {
    name: value for name, value in EXPECTED["esp32s3"].items() if name != "DIS_DOWNLOAD_DCACHE"
}


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
        for step in self.steps()[:count]:
            name, value = step["efuse"], step["value"]
            if step["action"] == "key":
                file = self.key if value == "flash key" else digest
                if self.chip == "esp32":
                    alias = "flash_encryption" if value == "flash key" else "secure_boot_v2"
                    self.espefuse("burn-key", alias, file, "--no-protect-key")
                else:
                    purpose = "XTS_AES_128_KEY" if value == "flash key" else "SECURE_BOOT_DIGEST0"
                    protect = ("--no-read-protect", "--no-write-protect")
                    self.espefuse("burn-key", name, file, purpose, *protect)
            elif "KEY_PURPOSE" not in name:  # burn-key has burned those
                burn = step["action"] == "burn"
                command = "burn-efuse" if burn else f"{step['action']}-efuse"
                self.espefuse(command, name, *([value] if burn else []))


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


def app_image(chip: str, text: bytes) -> bytes:
    """An image with one segment, as ESP-IDF's "App Image Format" has it."""
    data = text.ljust(5000, b".")
    header = bytearray(24)
    header[0:4] = 0xE9, 1, 2, 0x20
    header[4:8] = (0x40080000).to_bytes(4, "little")
    header[12:14] = IMAGE_IDS[chip].to_bytes(2, "little")
    body = bytes(header) + struct.pack("<II", 0x40080000, len(data)) + data
    checksum = 0xEF
    for byte in data:
        checksum ^= byte
    return body + bytes(15 - len(body) % 16) + bytes([checksum])


def flash_image(chip: str, key: Path, other: Path | None = None, table: str = "sealed") -> bytes:
    """A whole flash of 4 MB: signed bootloader and platform, our table, a blank rest."""
    csv = "firmware/board/partitions.csv"
    if table == "sealed":
        csv = "firmware/board/sealed/partitions-4mb.csv"
    rows = flash.load_layout(REPO / csv)
    content = bytearray(b"\xff" * flash.FLASH_LENS[0])
    for offset, data in (
        (OFFSETS[chip], signing.sign_bytes(app_image(chip, b"bootloader"), key)),
        (0x8000, flash.build_table(rows)),
        (0x10000, signing.sign_bytes(app_image(chip, b"platform"), other or key)),
    ):
        content[offset : offset + len(data)] = data
    return bytes(content)


@pytest.fixture(scope="session")
def flashes(keys: Path) -> dict[str, bytes]:
    return {chip: flash_image(chip, keys / "release.key") for chip in NAMES}


@pytest.fixture(scope="session")
def plans(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Path:
    """A folder with plan and flash key for each chip, made by the program."""
    folder = tmp_path_factory.mktemp("plans")
    for chip in NAMES:
        done = run_program(
            "signet", "device", "burn", "plan", "--chip", chip, "--mac", MAC,
            "--release-pub", keys / "release.pub", "--flash-key", folder / f"{chip}.key",
            "-o", folder / f"{chip}.json",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def bench_of(
    tmp_path: Path, signet: Signet, keys: Path, flashes: dict[str, bytes], plans: Path
) -> Callable[[str], Bench]:
    def make(chip: str) -> Bench:
        folder = tmp_path / "bench"
        folder.mkdir()
        made = Bench(
            chip, signet, keys / "release.pub",
            *(folder / name for name in ("plan.json", "flash.key", "efuses.bin", "flash.bin")),
        )  # fmt: skip
        made.flash.write_bytes(flashes[chip])
        blank_chip(made.efuses, chip)
        shutil.copy(plans / f"{chip}.json", made.plan)
        shutil.copy(plans / f"{chip}.key", made.key)
        return made

    return make


@pytest.mark.parametrize("chip", NAMES)
def test_a_chip_is_sealed_as_planned(
    chip: str, bench_of: Callable[[str], Bench], tmp_path: Path
) -> None:
    bench = bench_of(chip)
    assert mode(bench.key) == 0o600
    done = bench.burn()
    assert done.returncode == 0, done.stderr
    found = bench.summary()
    for name, value in EXPECTED[chip].items():
        assert int(str(found[name]["raw_value"]), 16) == value, name
    digest = tmp_path / "digest.bin"
    run_program("espsecure", "digest-sbv2-public-key", "-k", bench.release, "-o", digest)
    block = "BLOCK2" if chip == "esp32" else "BLOCK_KEY1"
    assert found[block]["raw_value"] == "0x" + digest.read_bytes().hex()
    assert (found[block]["readable"], found[block]["writeable"]) == (True, False)
    hidden = found["BLOCK1" if chip == "esp32" else "BLOCK_KEY0"]
    assert (hidden["readable"], hidden["writeable"]) == (False, False)
    # once more: it says so, and changes nothing, with or without the journal
    before = snapshot(bench.plan.parent)
    again = bench.burn()
    assert again.returncode == 0
    assert "everything is burned; nothing was changed" in again.stdout
    assert snapshot(bench.plan.parent) == before
    assert bench.key.read_bytes().hex() not in done.stdout + done.stderr + again.stdout


@pytest.mark.parametrize("chip", NAMES)
def test_the_flash_key_is_burned_as_espefuse_burns_it(
    chip: str, bench_of: Callable[[str], Bench]
) -> None:
    """The order of its bytes: the same block as after espefuse's own burn-key."""
    bench = bench_of(chip)
    blank = bench.efuses.read_bytes()
    bench.burn_up_to(1, bench.plan.parent)
    assert bench.apply().returncode == 0  # the same key: nothing to complain about
    bench.efuses.write_bytes(blank)
    bench.key.chmod(0o644)
    swapped = bench.key.read_bytes()[::-1]
    bench.key.write_bytes(swapped)
    bench.burn_up_to(1, bench.plan.parent)
    bench.key.write_bytes(swapped[::-1])
    bench.key.chmod(0o600)
    refused = bench.apply()
    assert refused.returncode == 1
    assert "holds another flash key" in refused.stderr


@pytest.mark.parametrize("chip", NAMES)
def test_dry_run_changes_nothing(chip: str, bench_of: Callable[[str], Bench]) -> None:
    bench = bench_of(chip)
    before = snapshot(bench.plan.parent)
    done = bench.apply()
    assert done.returncode == 0, done.stderr
    assert snapshot(bench.plan.parent) == before
    assert "--burn burns" in done.stderr
    for step in bench.steps():
        assert f"{step['action']} {step['efuse']}" in done.stdout
    commands = done.stdout[done.stdout.index("  espefuse --chip") :]
    for step in bench.steps():
        alias = {"BLOCK1": "flash_encryption", "BLOCK2": "secure_boot_v2"}.get(step["efuse"])
        assert (alias or step["efuse"]) in commands or "KEY_PURPOSE" in step["efuse"]
    assert not os.listdir(bench.plan.parent.parent / "temp")


# After the first key; before and after the flash key is hidden; before the last two steps. Each on
# one chip: a start of espefuse takes half a second, and a chip dozens of them.
CUTS = [("esp32", 0), ("esp32", 1), ("esp32s3", -2), ("esp32c3", None)]


@pytest.mark.parametrize(("chip", "where"), CUTS)
def test_goes_on_after_a_cut(
    chip: str, where: int | None, bench_of: Callable[[str], Bench], tmp_path: Path
) -> None:
    """espefuse burns the first steps; `apply` finds exactly those, and finishes.

    where: steps behind those before the flash key is hidden; negative, from the end; None: one.
    """
    bench = bench_of(chip)
    blank, count = bench.efuses.read_bytes(), len(bench.steps())
    assert bench.burn().returncode == 0
    whole = bench.summary()
    journal = bench.plan.with_name("plan.json.journal").read_text()
    hidden = next(i for i, step in enumerate(bench.steps()) if step["action"] == "read-protect")
    cut = 1 if where is None else hidden + where if where >= 0 else count + where
    bench.efuses.write_bytes(blank)
    bench.plan.with_name("plan.json.journal").write_text(journal)
    bench.burn_up_to(cut, tmp_path)
    done = bench.burn()
    assert done.returncode == 0, done.stderr
    assert bench.summary() == whole


@pytest.mark.parametrize("chip", NAMES)
def test_a_hidden_key_of_unknown_origin(chip: str, bench_of: Callable[[str], Bench]) -> None:
    bench = bench_of(chip)
    hidden = next(i for i, step in enumerate(bench.steps()) if step["action"] == "read-protect")
    bench.burn_up_to(hidden + 1, bench.plan.parent)
    before = bench.efuses.read_bytes()
    done = bench.burn()
    assert done.returncode == 1
    assert "is hidden" in done.stderr
    assert bench.efuses.read_bytes() == before


def last_first(steps: list[dict[str, object]]) -> None:
    steps.insert(0, steps.pop())


def drop_one(steps: list[dict[str, object]]) -> None:
    del steps[4]


def add_one(steps: list[dict[str, object]]) -> None:
    steps.append(dict(steps[-1]))


def change_value(steps: list[dict[str, object]]) -> None:
    steps[-2]["value"] = "1"


@pytest.mark.parametrize("edit", [last_first, drop_one, add_one, change_value])
def test_an_edited_plan_is_refused(
    edit: Callable[[list[dict[str, object]]], None], bench_of: Callable[[str], Bench]
) -> None:
    bench = bench_of("esp32")
    plan = json.loads(bench.plan.read_text())
    edit(plan["steps"])
    bench.plan.write_text(json.dumps(plan))
    before = snapshot(bench.plan.parent)
    done = bench.burn()
    assert done.returncode == 1
    assert "step" in done.stderr or "altered" in done.stderr
    assert snapshot(bench.plan.parent) == before


# What a chip may have gone through before: chip, espefuse commands, what the refusal says.
BURNED_BEFORE = {
    "download mode closed first": ("esp32", ["burn-efuse UART_DOWNLOAD_DIS 1"], "another order"),
    "secure boot before its digest": ("esp32s3", ["burn-efuse SECURE_BOOT_EN 1"], "another order"),
    "encryption before its key": ("esp32c3", ["burn-efuse SPI_BOOT_CRYPT_CNT 1"], "order"),
    "key block protected while empty": ("esp32", ["write-protect-efuse BLOCK1"], "write-protected"),
    "digest block hidden": ("esp32", ["read-protect-efuse BLOCK2"], "cannot read the digest"),
    "RD_DIS closed before the key": ("esp32s3", ["write-protect-efuse RD_DIS"], "no longer|order"),
    "cache off": ("esp32", ["burn-efuse DIS_CACHE 1"], "cannot run on this chip"),
    "secure boot v1": ("esp32", ["burn-efuse ABS_DONE_0 1"], "cannot run on this chip"),
    "3/4 coding": ("esp32", ["burn-efuse CODING_SCHEME 1"], "blocks of 256 bits"),
    "JTAG protected while open": ("esp32c3", ["write-protect-efuse DIS_ICACHE"], "write-protected"),
    "purpose of something else": ("esp32s3", ["burn-efuse KEY_PURPOSE_1 8"], "another order"),
}  # fmt: skip


@pytest.mark.parametrize("case", BURNED_BEFORE)
def test_a_chip_burned_otherwise_is_refused(case: str, bench_of: Callable[[str], Bench]) -> None:
    chip, commands, wanted = BURNED_BEFORE[case]
    bench = bench_of(chip)
    for text in commands:
        bench.espefuse(*text.split())
    before = snapshot(bench.plan.parent)
    done = bench.burn()
    assert done.returncode == 1, done.stdout + done.stderr
    assert any(part in done.stderr for part in wanted.split("|")), done.stderr
    assert snapshot(bench.plan.parent) == before


def test_switches_that_a_factory_burned_are_fine(bench_of: Callable[[str], Bench]) -> None:
    bench = bench_of("esp32")
    bench.espefuse("burn-efuse", "JTAG_DISABLE", "1")
    assert bench.burn().returncode == 0


def test_a_foreign_digest(bench_of: Callable[[str], Bench], tmp_path: Path) -> None:
    bench = bench_of("esp32")
    bench.espefuse("burn-key", "flash_encryption", bench.key, "--no-protect-key")
    (tmp_path / "other.bin").write_bytes(bytes(range(32)))
    bench.espefuse("burn-key", "secure_boot_v2", tmp_path / "other.bin", "--no-protect-key")
    done = bench.burn()
    assert done.returncode == 1
    assert "holds another digest 0" in done.stderr


def other_mac(bench: Bench) -> None:
    blank_chip(bench.efuses, bench.chip, mac="24:0a:c4:01:02:04")


def old_revision(bench: Bench) -> None:
    blank_chip(bench.efuses, bench.chip, revision=False)


def other_kind(bench: Bench) -> None:
    blank_chip(bench.efuses, "esp32s3" if bench.chip == "esp32" else "esp32")


def open_key(bench: Bench) -> None:
    bench.key.chmod(0o640)


def other_key(bench: Bench) -> None:
    bench.key.write_bytes(bytes(32))


def short_key(bench: Bench) -> None:
    bench.key.write_bytes(bytes(31))


REFUSED = [
    (other_mac, "this chip is 24:0a:c4:01:02:04", 1),
    (old_revision, "Secure Boot v2 needs", 1),
    (other_kind, "is it of another chip?", 1),
    (open_key, "mode 0640, expected 0600", 1),
    (other_key, "not the flash key of the plan", 1),
    (short_key, "31 bytes", 2),
]


@pytest.mark.parametrize("chip", ["esp32", "esp32c3"])
@pytest.mark.parametrize(("change", "message", "code"), REFUSED)
def test_wrong_chip_or_key(
    chip: str, change: Callable[[Bench], None], message: str, code: int,
    bench_of: Callable[[str], Bench],
) -> None:  # fmt: skip
    bench = bench_of(chip)
    change(bench)
    before = snapshot(bench.plan.parent)
    done = bench.burn()
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert snapshot(bench.plan.parent) == before


def unsigned_bootloader(chip: str, keys: Path, _other: Path) -> bytes:
    content = bytearray(flash_image(chip, keys / "release.key"))
    at = OFFSETS[chip] + 100
    content[at] ^= 1
    return bytes(content)


def blank_flash(_chip: str, _keys: Path, _other: Path) -> bytes:
    return b"\xff" * flash.FLASH_LENS[0]


def app_of_another_key(chip: str, keys: Path, other: Path) -> bytes:
    return flash_image(chip, keys / "release.key", other)


def stock_table(chip: str, keys: Path, _other: Path) -> bytes:
    return flash_image(chip, keys / "release.key", table="stock")


def no_platform(chip: str, keys: Path, _other: Path) -> bytes:
    content = bytearray(flash_image(chip, keys / "release.key"))
    content[0x10000:0x190000] = b"\xff" * 0x180000
    return bytes(content)


FLASHES = [
    (unsigned_bootloader, "bootloader at 0x1000 is not signed"),
    (blank_flash, "no MD5 row"),
    (app_of_another_key, "ota_0 at 0x10000 is not signed"),
    (stock_table, "is not encrypted"),
    (no_platform, "no platform image"),
]


@pytest.mark.parametrize(("make", "message"), FLASHES)
def test_nothing_is_burned_before_the_flash_can_boot(
    make: Callable[[str, Path, Path], bytes], message: str, keys: Path, tmp_path: Path,
    bench_of: Callable[[str], Bench],
) -> None:  # fmt: skip
    bench = bench_of("esp32")
    other = tmp_path / "other.key"
    run_program("espsecure", "generate-signing-key", "--version", "2", other)
    bench.flash.write_bytes(make("esp32", keys, other))
    before = snapshot(bench.plan.parent)
    done = bench.burn()
    assert (done.returncode, message in done.stderr) == (1, True), done.stderr
    assert snapshot(bench.plan.parent) == before


def test_an_image_of_another_chip(bench_of: Callable[[str], Bench], keys: Path) -> None:
    bench = bench_of("esp32c3")
    bench.flash.write_bytes(flash_image("esp32s3", keys / "release.key"))
    done = bench.burn()
    assert done.returncode == 1
    assert "made for chip 9" in done.stderr


def test_confirmation(bench_of: Callable[[str], Bench]) -> None:
    bench = bench_of("esp32")
    before = snapshot(bench.plan.parent)
    wrong = bench.apply("--burn", "--flash", bench.flash, "--confirm", "yes")
    unanswered = bench.apply("--burn", "--flash", bench.flash)
    unchecked = bench.apply("--burn", "--confirm", MAC)
    assert (wrong.returncode, unanswered.returncode, unchecked.returncode) == (1, 1, 2)
    assert "nothing was burned" in wrong.stderr
    assert snapshot(bench.plan.parent) == before


@pytest.mark.parametrize("chip", ["esp32", "esp32s3"])
def test_encrypted_flash(chip: str, bench_of: Callable[[str], Bench], tmp_path: Path) -> None:
    """Every region that the chip decrypts comes back with espsecure; the rest is as it was."""
    bench = bench_of(chip)
    plain = bytearray(bench.flash.read_bytes())
    plain[0x314000:0x316000] = b"slot" * 2048
    bench.flash.write_bytes(plain)
    output = tmp_path / "cipher.bin"
    done = bench.signet(
        "device", "burn", "encrypt", bench.plan, "--flash-key", bench.key,
        "--flash", bench.flash, "-o", output,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    cipher = output.read_bytes()
    xts = () if chip == "esp32" else ("--aes-xts",)
    for start, length in ((OFFSETS[chip], 0x3000), (0x8000, 0x1000), (0xD000, 0x2000),
                          (0x10000, 0x4000), (0x314000, 0x3000)):  # fmt: skip
        (tmp_path / "part").write_bytes(cipher[start : start + length])
        assert cipher[start : start + length] != plain[start : start + length]
        decrypted = run_program(
            "espsecure", "decrypt-flash-data", *xts, "-k", bench.key, "-a", hex(start),
            "-o", tmp_path / "clear", tmp_path / "part",
        )  # fmt: skip
        assert decrypted.returncode == 0, decrypted.stderr
        assert (tmp_path / "clear").read_bytes() == plain[start : start + length]
    for start, end in ((0x9000, 0xD000), (0xF000, 0x10000), (0x190000, 0x314000)):
        assert cipher[start:end] == plain[start:end]


def test_plan_refuses(signet: Signet, keys: Path, tmp_path: Path) -> None:
    def plan(*options: str | Path, mac: str = MAC, pub: Path = keys / "release.pub") -> str:
        done = signet(
            "device", "burn", "plan", "--chip", "esp32", "--mac", mac, "--release-pub", pub,
            "--flash-key", tmp_path / "f.key", "-o", tmp_path / "p.json", *options,
        )  # fmt: skip
        assert done.returncode != 0
        assert not (tmp_path / "p.json").exists()
        assert not (tmp_path / "f.key").exists()
        return done.stderr

    assert "expected six bytes" in plan(mac="24:0a")
    assert "is a private key" in plan(pub=keys / "release.key")
    assert "2 release keys" in plan("--release-pub", keys / "fleet.pub")


def test_three_release_keys(bench_of: Callable[[str], Bench], keys: Path, tmp_path: Path) -> None:
    """ESP32-S3 and -C3 trust up to three; none of their slots is revoked then."""
    bench = bench_of("esp32s3")
    pubs = [keys / "release.pub"]
    for name in ("one", "two"):
        key = tmp_path / f"{name}.key"
        run_program("espsecure", "generate-signing-key", "--version", "2", key)
        pub = tmp_path / f"{name}.pub"
        run_program("espsecure", "extract-public-key", "--version", "2", "-k", key, pub)
        pubs.append(pub)
    bench.plan.unlink()
    options = [text for pub in pubs for text in ("--release-pub", pub)]
    done = bench.signet(
        "device", "burn", "plan", "--chip", "esp32s3", "--mac", MAC, *options,
        "--flash-key", bench.key, "-o", bench.plan,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert bench.burn().returncode == 0
    found = bench.summary()
    for number in range(3):
        assert found[f"KEY_PURPOSE_{number + 1}"]["value"] == f"SECURE_BOOT_DIGEST{number}"
        assert found[f"SECURE_BOOT_KEY_REVOKE{number}"]["value"] is False


def test_every_efuse_is_one_that_espefuse_knows(tmp_path: Path, keys: Path) -> None:
    """The table's names, for each chip; and nothing in it is burned twice."""
    for name, chip in CHIPS.items():
        path = tmp_path / name
        blank_chip(path, name)
        done = run_program(
            "espefuse", "--chip", name, "--virt", "--path-efuse-file", path,
            "summary", "--format", "json",
        )  # fmt: skip
        known = json.loads(done.stdout[done.stdout.index("{") :])
        used = [switch[0] for switch in chip.switches]
        used += [chip.flash_block, *chip.digest_blocks, chip.crypt_counter, chip.secure_boot]
        used += [chip.cache, chip.download]
        assert set(used) <= set(known)
        assert len(set(used)) == len(used)


def test_a_chip_that_is_not_there(bench_of: Callable[[str], Bench]) -> None:
    """espefuse would make a blank chip of a wrong name."""
    bench = bench_of("esp32")
    bench.efuses.unlink()
    done = bench.burn()
    assert done.returncode == 2
    assert "no such file" in done.stderr
    assert not bench.efuses.exists()


@pytest.mark.parametrize("chip", NAMES)
def test_a_cut_inside_a_run(chip: str, bench_of: Callable[[str], Bench], tmp_path: Path) -> None:
    """Some bits of a run that burns many are in: the rest follows."""
    bench = bench_of(chip)
    second = "JTAG_DISABLE" if chip == "esp32" else "DIS_USB_JTAG"
    number = next(i for i, step in enumerate(bench.steps()) if step["efuse"] == second)
    bench.plan.with_name("plan.json.journal").write_text(
        json.dumps({
            "mac": MAC, "key": json.loads(bench.plan.read_text())["flash_key_sha256"],
            "done": "flash key read back",
        })
    )  # fmt: skip
    bench.burn_up_to(number - 1, tmp_path)
    bench.espefuse("burn-efuse", second, "1")
    done = bench.burn()
    assert done.returncode == 0, done.stderr
    assert bench.raw("RD_DIS") == 1


def test_a_key_without_its_purpose(bench_of: Callable[[str], Bench]) -> None:
    """A cut between the two blocks that burn-key burns."""
    bench = bench_of("esp32s3")
    reverse = bench.key.with_name("reverse")
    reverse.write_bytes(bench.key.read_bytes()[::-1])
    bench.espefuse("burn-block-data", "BLOCK_KEY0", reverse)
    assert bench.raw("KEY_PURPOSE_0") == 0
    done = bench.burn()
    assert done.returncode == 0, done.stderr
    assert bench.raw("KEY_PURPOSE_0") == 4
