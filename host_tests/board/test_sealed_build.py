"""`make firmware`: what the build needs, and what it says of the one that was made."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import sealed_build
from host_tests.board.sealed_options import BOARD, SIZES, documented_options, used_options
from host_tests.tool_helpers import REPO, run_program
from signet.device.sealing.efuse_plan import CHIPS

pytest_plugins = ["host_tests.tool_fixtures"]


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, str]:
    """Folders with what the versions are read from, and an idf.py."""
    for name, text in {
        "idf/tools/cmake/version.cmake": "set(IDF_VERSION_MAJOR 5)\nset(IDF_VERSION_MINOR 4)\n",
        "mp/py/mpconfig.h": "#define MICROPY_VERSION_MAJOR 1\n#define MICROPY_VERSION_MINOR 26\n",
        "mp/ports/esp32/Makefile": "all:\n\t@echo $(BOARD_DIR) $(CMAKE_ARGS) $(BUILD)\n",
        "mp/lib/micropython-lib/README.md": "",
        "bin/idf.py": "",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "bin/idf.py").chmod(0o755)
    return {
        "IDF_PATH": str(tmp_path / "idf"),
        "MICROPYTHON_DIR": str(tmp_path / "mp"),
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
    }


def unset_idf(found: dict[str, str]) -> None:
    del found["IDF_PATH"]


def unset_micropython(found: dict[str, str]) -> None:
    del found["MICROPYTHON_DIR"]


def old_idf(found: dict[str, str]) -> None:
    Path(found["IDF_PATH"], "tools/cmake/version.cmake").write_text(
        "set(IDF_VERSION_MAJOR 4)\nset(IDF_VERSION_MINOR 4)\n"
    )


def old_micropython(found: dict[str, str]) -> None:
    Path(found["MICROPYTHON_DIR"], "py/mpconfig.h").write_text(
        "#define MICROPY_VERSION_MAJOR 1\n#define MICROPY_VERSION_MINOR 25\n"
    )


def no_idf_py(found: dict[str, str]) -> None:
    found["PATH"] = os.environ["PATH"]


def no_submodules(found: dict[str, str]) -> None:
    Path(found["MICROPYTHON_DIR"], "lib/micropython-lib/README.md").unlink()


MISSING = [
    (unset_idf, "IDF_PATH is not set"),
    (unset_micropython, "MICROPYTHON_DIR is not set"),
    (old_idf, "5.4.x or 5.5.x: found 4.4"),
    (old_micropython, "1.26 or later: found 1.25"),
    (no_idf_py, "idf.py is not on the PATH"),
    (no_submodules, "submodules are missing"),
]


@pytest.mark.parametrize(("change", "message"), MISSING)
def test_make_firmware_says_what_is_missing(
    change: Callable[[dict[str, str]], None], message: str, sources: dict[str, str]
) -> None:
    change(sources)
    done = make_firmware(sources)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("error") == 1


@dataclass
class Build:
    """A finished build, as the IDF leaves it: the options that it was given, and images."""

    chip: str
    flash_mb: int
    folder: Path

    def __post_init__(self) -> None:
        cmake = (BOARD / "mpconfigboard.cmake").read_text()
        part = re.findall(r'file\(WRITE \$\{SIGNET_PART\} "\n(.*?)"\)', cmake, re.S)[0]
        for name, value in {
            "${SIGNET_FLASH}": str(self.flash_mb), "${MICROPY_BOARD_DIR}": str(BOARD), '\\"': '"',
        }.items():  # fmt: skip
            part = part.replace(name, value)
        (self.folder / "bootloader").mkdir(parents=True)
        (self.folder / "sdkconfig.signet").write_text(part)
        self.options = {
            "CONFIG_BOOTLOADER_OFFSET_IN_FLASH": hex(CHIPS[self.chip].bootloader_offset)
        }
        for text in (
            (BOARD / "sdkconfig.sealed").read_text(),
            (BOARD / f"sdkconfig.{self.chip}").read_text(), part,
        ):  # fmt: skip
            self.options |= dict(re.findall(r"^(CONFIG_\w+)=(.*)$", text, re.M))
        self.images(26_010, 1_300_000)

    def images(self, boot_loader: int, platform: int) -> None:
        (self.folder / "bootloader/bootloader.bin").write_bytes(b"\xe9" * boot_loader)
        (self.folder / "micropython.bin").write_bytes(b"\xe9" * platform)

    def faults(self) -> list[str]:
        lines = [
            f"# {name} is not set" if value == "n" else f"{name}={value}"
            for name, value in self.options.items()
        ]
        (self.folder / "sdkconfig").write_text("\n".join(lines) + "\n")
        return sealed_build.find_faults(self.chip, self.flash_mb, self.folder)


@pytest.fixture(params=[(chip, size) for chip in CHIPS for size in SIZES], ids=str)
def build(request: pytest.FixtureRequest, tmp_path: Path) -> Build:
    chip, flash_mb = request.param
    return Build(chip, flash_mb, tmp_path / "build")


@pytest.mark.parametrize("length", [1, 4095, 4096, 4097, 26_010, 0x7000, 0x7001, 0x8000])
def test_a_signed_image_is_as_long_as_espsecure_makes_it(
    length: int, keys: Path, tmp_path: Path
) -> None:
    (tmp_path / "image").write_bytes(b"\xe9" * length)
    done = run_program(
        "espsecure", "sign-data", "--version", "2", "--keyfile", keys / "release.key",
        "--output", tmp_path / "signed", tmp_path / "image",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "signed").stat().st_size == sealed_build.signed_len(length)


def test_a_signed_boot_loader_ends_before_the_table(build: Build) -> None:
    """The largest that fits, and a byte more; the IDF compares the unsigned one."""
    start = 0x1000 if build.chip == "esp32" else 0
    largest = 0x9000 - 0x1000 - start
    assert build.faults() == []
    build.images(largest, 1_300_000)
    assert build.faults() == []
    build.images(largest + 1, 1_300_000)
    (fault,) = build.faults()
    assert f"{largest + 1} bytes, padded and signed {largest + 0x2000:#x}" in fault
    assert "to 0xa000, but the partition table starts at 0x9000" in fault


def test_the_table_at_the_idf_s_place_is_refused(build: Build) -> None:
    """26,010 bytes, as GCC 13.3 makes it for the ESP32, are 0x8000 once they are signed."""
    build.options["CONFIG_PARTITION_TABLE_OFFSET"] = "0x8000"
    option, *size = build.faults()
    assert option == (
        "CONFIG_PARTITION_TABLE_OFFSET=0x9000 took no effect: "
        "the IDF made it 'CONFIG_PARTITION_TABLE_OFFSET=0x8000'"
    )
    overlap = "from 0x1000 to 0x9000, but the partition table starts at 0x8000"
    assert [overlap in fault for fault in size] == ([True] if build.chip == "esp32" else [])


def test_a_signed_platform_ends_before_the_next(build: Build) -> None:
    room = {4: 0x180000, 8: 0x270000, 16: 0x300000}[build.flash_mb]
    build.images(26_010, room - 0x1000)
    assert build.faults() == []
    build.images(26_010, room - 0x1000 + 1)
    (fault,) = build.faults()
    assert f"but ota_1 starts at {0x10000 + room:#x}" in fault


def test_every_option_has_to_take_effect(build: Build) -> None:
    """The IDF drops what it does not know in a place, without a word."""
    options = dict(build.options)
    own = set(options) - {"CONFIG_BOOTLOADER_OFFSET_IN_FLASH"}
    assert own <= set(documented_options())
    for name in own:
        for dropped in (True, False):
            build.options = dict(options)
            if dropped:
                del build.options[name]
                found = "the IDF does not know it here"
            else:
                build.options[name] = "other"
                found = f"the IDF made it '{name}=other'"
            assert f"{name}={options[name]} took no effect: {found}" in build.faults()


def test_what_secure_boot_takes_away_may_not_come_back(build: Build) -> None:
    """MicroPython asks for it; the IDF drops it where Secure Boot is on, so we cannot set it."""
    name = "CONFIG_BOOTLOADER_SKIP_VALIDATE_IN_DEEP_SLEEP"
    assert name not in used_options()
    build.options[name] = "n"
    assert build.faults() == []
    build.options[name] = "y"
    assert build.faults() == [f"{name}=y: a platform would not be verified after deep sleep"]


def test_a_build_without_its_files_is_refused(tmp_path: Path) -> None:
    build = Build("esp32", 4, tmp_path / "build")
    del build.options["CONFIG_BOOTLOADER_OFFSET_IN_FLASH"]
    assert build.faults() == [f"{build.folder / 'sdkconfig'}: no CONFIG_BOOTLOADER_OFFSET_IN_FLASH"]
    for name in ("micropython.bin", "bootloader/bootloader.bin", "sdkconfig.signet"):
        (build.folder / name).unlink()
        (fault,) = build.faults()
        assert fault == f"{build.folder / name}: not built (No such file or directory)"


def make_firmware(
    sources: dict[str, str], *options: str | Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, REPO / "tools/sealed_build.py", *options],
        env=sources, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_make_firmware_hands_over_board_chip_and_flash(
    sources: dict[str, str], tmp_path: Path
) -> None:
    build = Build("esp32s3", 8, tmp_path / "build")
    options = ("--chip", "esp32s3", "--flash", "8", "--output", build.folder)
    assert build.faults() == []
    done = make_firmware(sources, *options)
    assert done.returncode == 0, done.stderr
    assert f"{BOARD} -DSIGNET_CHIP=esp32s3 -DSIGNET_FLASH=8 {build.folder}" in done.stdout
    assert done.stdout.endswith(f"\n{build.folder}\n")
    build.images(0x9000, 1)
    refused = make_firmware(sources, *options)
    assert refused.returncode == 1
    assert "signet: error: " in refused.stderr
    assert "but the partition table starts at 0x9000" in refused.stderr
    assert not refused.stdout.endswith(f"\n{build.folder}\n")


def test_what_make_says_is_passed_on(sources: dict[str, str], tmp_path: Path) -> None:
    Path(sources["MICROPYTHON_DIR"], "ports/esp32/Makefile").write_text("all:\n\t@false\n")
    done = make_firmware(sources, "--output", tmp_path / "build")
    assert done.returncode == 2
    assert "not built" not in done.stderr
