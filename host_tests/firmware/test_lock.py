"""Where the eFuses are, by another book: bits that espefuse burns are found by the firmware."""

from pathlib import Path

import pytest

from firmware.ondemand import lock
from host_tests.tool_helpers import run_program

# chip: (address of its eFuse controller, what locks it)
CHIPS = {
    "esp32": (
        0x3FF5A000,
        {
            "secure_boot": {"ABS_DONE_1": 1},
            "flash_encryption": {
                "FLASH_CRYPT_CNT": 0x7F, "DISABLE_DL_ENCRYPT": 1, "DISABLE_DL_DECRYPT": 1,
                "DISABLE_DL_CACHE": 1,
            },
            "jtag": {"JTAG_DISABLE": 1},
            "download": {"UART_DOWNLOAD_DIS": 1},
        },
    ),
    "esp32s3": (
        0x60007000,
        {
            "secure_boot": {"SECURE_BOOT_EN": 1},
            "flash_encryption": {
                "SPI_BOOT_CRYPT_CNT": 7, "DIS_DOWNLOAD_MANUAL_ENCRYPT": 1,
                "DIS_DOWNLOAD_ICACHE": 1, "DIS_DOWNLOAD_DCACHE": 1,
            },
            "jtag": {"DIS_PAD_JTAG": 1, "DIS_USB_JTAG": 1},
            "download": {"DIS_DOWNLOAD_MODE": 1},
        },
    ),
    "esp32c3": (
        0x60008800,
        {
            "secure_boot": {"SECURE_BOOT_EN": 1},
            "flash_encryption": {
                "SPI_BOOT_CRYPT_CNT": 7, "DIS_DOWNLOAD_MANUAL_ENCRYPT": 1,
                "DIS_DOWNLOAD_ICACHE": 1,
            },
            "jtag": {"DIS_PAD_JTAG": 1, "DIS_USB_JTAG": 1},
            "download": {"DIS_DOWNLOAD_MODE": 1},
        },
    ),
}  # fmt: skip


def burn(chip: str, efuses: Path, **fields: int) -> None:
    pairs = [text for name, value in fields.items() for text in (name, str(value))]
    options = ("--chip", chip, "--virt", "--path-efuse-file", efuses, "--do-not-confirm")
    done = run_program("espefuse", *options, "burn-efuse", *pairs)
    assert done.returncode == 0, done.stdout + done.stderr


def protect(chip: str, efuses: Path, field: str) -> None:
    options = ("--chip", chip, "--virt", "--path-efuse-file", efuses, "--do-not-confirm")
    done = run_program("espefuse", *options, "write-protect-efuse", field)
    assert done.returncode == 0, done.stdout + done.stderr


def found_open(chip: str, efuses: Path) -> list[str]:
    """What the firmware would say on a chip with the registers in espefuse's file."""
    start, content = CHIPS[chip][0], efuses.read_bytes()[::-1]  # the file begins with the last bit
    registers = {
        start + offset: int.from_bytes(content[offset : offset + 4], "little")
        for offset in range(0, len(content), 4)
    }
    return sorted(lock.check(registers, chip.upper()))


@pytest.mark.parametrize("chip", CHIPS)
def test_what_espefuse_burns_is_found(tmp_path: Path, chip: str) -> None:
    efuses = tmp_path / "efuses"
    left = dict(CHIPS[chip][1])
    if chip == "esp32":  # UART_DOWNLOAD_DIS needs revision 3
        burn(chip, efuses, CHIP_VER_REV1=1, CHIP_VER_REV2=1)
        assert found_open(chip, efuses) == sorted(left)
    while left:
        _, fields = left.popitem()
        burn(chip, efuses, **fields)
        assert found_open(chip, efuses) == sorted(left)


@pytest.mark.parametrize("chip", CHIPS)
def test_a_count_of_one_has_to_be_write_protected(tmp_path: Path, chip: str) -> None:
    efuses = tmp_path / "efuses"
    fields = dict(CHIPS[chip][1]["flash_encryption"])
    count = next(iter(fields))
    burn(chip, efuses, **(fields | {count: 1}))
    assert "flash_encryption" in found_open(chip, efuses)
    protect(chip, efuses, count)
    assert "flash_encryption" not in found_open(chip, efuses)
