"""What `signet device burn` refuses, before anything is burned: chips, plans, keys and flashes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from host_tests.provisioning.burn_bench import (
    MAC,
    NAMES,
    OFFSETS,
    Bench,
    app_image,
    blank_chip,
    flash_image,
)
from host_tests.tool_helpers import Signet, run_program, snapshot
from signet.formats import flash

pytest_plugins = ["host_tests.tool_fixtures"]


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


def unmarked_table(chip: str, keys: Path, _other: Path) -> bytes:
    return flash_image(chip, keys / "release.key", table="plain")


def second_app_of_another_key(chip: str, keys: Path, other: Path) -> bytes:
    content = bytearray(flash_image(chip, keys / "release.key", other))
    ours = flash_image(chip, keys / "release.key")[0x10000:0x190000]
    content[0x190000:0x310000] = content[0x10000:0x190000]
    content[0x10000:0x190000] = ours
    return bytes(content)


def long_bootloader(chip: str, keys: Path, _other: Path) -> bytes:
    """Its signature belongs where the table is."""
    content = bytearray(flash_image(chip, keys / "release.key"))
    image = app_image(chip, b"bootloader", 0x7100)
    content[OFFSETS[chip] : OFFSETS[chip] + len(image)] = image
    return bytes(content)


def no_platform(chip: str, keys: Path, _other: Path) -> bytes:
    content = bytearray(flash_image(chip, keys / "release.key"))
    content[0x10000:0x190000] = b"\xff" * 0x180000
    return bytes(content)


FLASHES = [
    (unsigned_bootloader, "bootloader at 0x1000 is not signed"),
    (long_bootloader, "bootloader: 32768 bytes and a signature do not fit 32768"),
    (blank_flash, "no MD5 row, at 0x9000"),
    (app_of_another_key, "ota_0 at 0x10000 is not signed"),
    (second_app_of_another_key, "ota_1 at 0x190000 is not signed"),
    (stock_table, "no MD5 row, at 0x9000"),
    (unmarked_table, "esp_secure_cert is not encrypted"),
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


def test_a_chip_that_is_not_there(bench_of: Callable[[str], Bench]) -> None:
    """espefuse would make a blank chip of a wrong name."""
    bench = bench_of("esp32")
    bench.efuses.unlink()
    done = bench.burn()
    assert done.returncode == 2
    assert "no such file" in done.stderr
    assert not bench.efuses.exists()
