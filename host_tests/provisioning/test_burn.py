"""`signet device burn` on espefuse's virtual chips: the order of the steps, cuts, and the flash.

espefuse itself reads every result back: its summary is the oracle.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from host_tests.provisioning.burn_bench import MAC, NAMES, OFFSETS, Bench, blank_chip
from host_tests.tool_helpers import mode, run_program, snapshot
from signet.device.sealing.efuse_plan import CHIPS

pytest_plugins = ["host_tests.tool_fixtures"]

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


# Summary and journal of a sealed chip: a start of espefuse takes a third of a second, and a chip
# two dozen of them. Plan and key are the same for the session.
Sealed = tuple[dict[str, dict[str, object]], str]


@pytest.fixture(scope="session")
def sealed() -> dict[str, Sealed]:
    return {}


def seal(bench: Bench, sealed: dict[str, Sealed]) -> subprocess.CompletedProcess[str]:
    done = bench.burn()
    assert done.returncode == 0, done.stderr
    sealed[bench.chip] = bench.summary(), bench.plan.with_name("plan.json.journal").read_text()
    return done


@pytest.mark.parametrize("chip", NAMES)
def test_a_chip_is_sealed_as_planned(
    chip: str, bench_of: Callable[[str], Bench], sealed: dict[str, Sealed], tmp_path: Path
) -> None:
    bench = bench_of(chip)
    assert mode(bench.key) == 0o600
    done = seal(bench, sealed)
    found = sealed[chip][0]
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
# one chip.
CUTS = [("esp32", 0), ("esp32", 1), ("esp32s3", -2), ("esp32c3", None)]


@pytest.mark.parametrize(("chip", "where"), CUTS)
def test_goes_on_after_a_cut(
    chip: str, where: int | None, bench_of: Callable[[str], Bench],
    sealed: dict[str, Sealed], tmp_path: Path,
) -> None:  # fmt: skip
    """espefuse burns the first steps; `apply` finds exactly those, and finishes.

    where: steps behind those before the flash key is hidden; negative, from the end; None: one.
    """
    bench = bench_of(chip)
    blank, count = bench.efuses.read_bytes(), len(bench.steps())
    if chip not in sealed:
        seal(bench, sealed)
    whole, journal = sealed[chip]
    hidden = next(i for i, step in enumerate(bench.steps()) if step["action"] == "read-protect")
    cut = 1 if where is None else hidden + where if where >= 0 else count + where
    bench.efuses.write_bytes(blank)
    bench.plan.with_name("plan.json.journal").write_text(journal)
    bench.burn_up_to(cut, tmp_path)
    done = bench.burn()
    assert done.returncode == 0, done.stderr
    assert bench.summary() == whole


def test_switches_that_a_factory_burned_are_fine(bench_of: Callable[[str], Bench]) -> None:
    bench = bench_of("esp32")
    bench.espefuse("burn-efuse", "JTAG_DISABLE", "1")
    assert bench.burn().returncode == 0


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
    for start, length in ((OFFSETS[chip], 0x8000), (0x9000, 0x1000), (0xD000, 0x2000),
                          (0x10000, 0x4000), (0x314000, 0x3000)):  # fmt: skip
        (tmp_path / "part").write_bytes(cipher[start : start + length])
        assert cipher[start : start + length] != plain[start : start + length]
        decrypted = run_program(
            "espsecure", "decrypt-flash-data", *xts, "-k", bench.key, "-a", hex(start),
            "-o", tmp_path / "clear", tmp_path / "part",
        )  # fmt: skip
        assert decrypted.returncode == 0, decrypted.stderr
        assert (tmp_path / "clear").read_bytes() == plain[start : start + length]
    for start, end in ((0xA000, 0xD000), (0xF000, 0x10000), (0x190000, 0x314000)):
        assert cipher[start:end] == plain[start:end]


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
