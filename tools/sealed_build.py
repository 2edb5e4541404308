"""Build the sealed platform: `make firmware CHIP=esp32 FLASH_MB=4`.

It needs ESP-IDF (IDF_PATH, with its export.sh sourced) and MicroPython's source (MICROPYTHON_DIR).
What is missing or of another version is named, with what was expected and found, and the exit code
is 2. The result is unsigned: bootloader, partition table and platform in build/firmware/<chip>.
What the IDF does not check of it is checked here: do bootloader and platform fit their places once
they are signed, and did each option take effect? If not, the exit code is 1.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from signet.formats import flash

BOARD = Path(__file__).resolve().parent.parent / "firmware/board/sealed"
CHIPS = ("esp32", "esp32s3", "esp32c3")
FLASH_MB = (4, 8, 16)
# ports/esp32/README.md of MicroPython 1.26.1 and 1.28.0 name these of ESP-IDF.
LEAST_MICROPYTHON = (1, 26)
IDF_VERSIONS = ("5.4", "5.5")
# MicroPython asks for it, and Secure Boot takes it away.
NOT_VERIFIED = "CONFIG_BOOTLOADER_SKIP_VALIDATE_IN_DEEP_SLEEP=y"
BOOT_LOADER, PLATFORM = "bootloader/bootloader.bin", "micropython.bin"  # in the build's folder


def find_problems(environment: Mapping[str, str]) -> list[str]:
    """What keeps the build from starting, a line each; empty if nothing does."""
    return _idf_problems(environment) + _micropython_problems(environment)


def _idf_problems(environment: Mapping[str, str]) -> list[str]:
    wanted = " or ".join(f"{version}.x" for version in IDF_VERSIONS)
    folder = environment.get("IDF_PATH")
    if not folder:
        return [f"ESP-IDF {wanted}: IDF_PATH is not set"]
    file = Path(folder, "tools/cmake/version.cmake")
    if not file.is_file():
        return [f"ESP-IDF {wanted}: {file} is not there (IDF_PATH={folder})"]
    numbers = re.findall(r"set\(IDF_VERSION_(?:MAJOR|MINOR) (\d+)\)", file.read_text())
    problems = []
    if ".".join(numbers[:2]) not in IDF_VERSIONS:
        problems.append(f"ESP-IDF {wanted}: found {'.'.join(numbers) or 'no version'} in {folder}")
    if not shutil.which("idf.py", path=environment.get("PATH")):
        problems.append(f"idf.py is not on the PATH: source {folder}/export.sh")
    return problems


def _micropython_problems(environment: Mapping[str, str]) -> list[str]:
    wanted = "MicroPython's source, {}.{} or later".format(*LEAST_MICROPYTHON)
    folder = environment.get("MICROPYTHON_DIR")
    if not folder:
        return [f"{wanted}: MICROPYTHON_DIR is not set"]
    file = Path(folder, "py/mpconfig.h")
    if not file.is_file() or not Path(folder, "ports/esp32").is_dir():
        return [f"{wanted}: {file} is not there (MICROPYTHON_DIR={folder})"]
    numbers = re.findall(r"define MICROPY_VERSION_(?:MAJOR|MINOR) (\d+)", file.read_text())
    found = tuple(int(number) for number in numbers)
    if found < LEAST_MICROPYTHON:
        return [f"{wanted}: found {'.'.join(numbers) or 'no version'} in {folder}"]
    if not any(Path(folder, "lib/micropython-lib").glob("*")):
        return [f"{wanted}: its submodules are missing: make -C {folder}/ports/esp32 submodules"]
    return []


def signed_len(length: int) -> int:
    """Bytes of an image once it is signed: filled to whole sectors, and one more."""
    return length + -length % flash.SECTOR_LEN + flash.SECTOR_LEN


def find_faults(chip: str, flash_mb: int, output: Path) -> list[str]:
    """What is wrong with a finished build, a line each; empty if nothing is."""
    parts = (BOARD / "sdkconfig.sealed", BOARD / f"sdkconfig.{chip}", output / "sdkconfig.signet")
    try:
        wanted = "\n".join(part.read_text() for part in parts)
        options = (output / "sdkconfig").read_text()
        lengths = {name: (output / name).stat().st_size for name in (BOOT_LOADER, PLATFORM)}
    except OSError as error:
        return [f"{error.filename}: not built ({error.strerror})"]
    return _option_faults(wanted, options) + _size_faults(flash_mb, output, options, lengths)


def _option_faults(wanted: str, options: str) -> list[str]:
    """Options that the IDF dropped or set otherwise: it does not say so by itself.

    wanted: our parts, of which the last word counts. options: the IDF's sdkconfig.
    """
    faults = []
    for name, value in dict(re.findall(r"^(CONFIG_\w+)=(.*)$", wanted, re.M)).items():
        line = f"# {name} is not set" if value == "n" else f"{name}={value}"
        if line not in options.splitlines():
            found = re.search(rf"^(?:# )?{name}\b.*$", options, re.M)
            shown = f"the IDF made it {found[0]!r}" if found else "the IDF does not know it here"
            faults.append(f"{name}={value} took no effect: {shown}")
    if NOT_VERIFIED in options.splitlines():
        faults.append(f"{NOT_VERIFIED}: a platform would not be verified after deep sleep")
    return faults


def _size_faults(
    flash_mb: int, output: Path, options: str, lengths: Mapping[str, int]
) -> list[str]:
    """Images that lie over what is behind them once they are signed; the IDF measures unsigned."""
    rows = {row.label: row for row in flash.load_layout(BOARD / f"partitions-{flash_mb}mb.csv")}
    found = dict(re.findall(r"^CONFIG_(\w+_OFFSET\w*)=(0x[0-9a-f]+)$", options, re.M))
    missing = {"BOOTLOADER_OFFSET_IN_FLASH", "PARTITION_TABLE_OFFSET"} - found.keys()
    if missing:
        return [f"{output / 'sdkconfig'}: no CONFIG_{name}" for name in sorted(missing)]
    start = int(found["BOOTLOADER_OFFSET_IN_FLASH"], 0)
    table = int(found["PARTITION_TABLE_OFFSET"], 0)
    places = {
        BOOT_LOADER: (start, table, "the partition table"),
        PLATFORM: (rows["ota_0"].offset, rows["ota_0"].end, "ota_1"),
    }
    return [
        f"{output / name}: {length} bytes, padded and signed {signed_len(length):#x}: from {at:#x} "
        f"to {at + signed_len(length):#x}, but {behind} starts at {end:#x}"
        for name, length in lengths.items()
        for at, end, behind in [places[name]]
        if at + signed_len(length) > end
    ]


def build(chip: str, flash_mb: int, output: Path, environment: Mapping[str, str]) -> int:
    """Run MicroPython's own make, and check what it made; the exit code."""
    command = [
        "make", "-C", str(Path(environment["MICROPYTHON_DIR"], "ports/esp32")),
        f"BOARD_DIR={BOARD}", f"BUILD={output}",
        f"CMAKE_ARGS=-DSIGNET_CHIP={chip} -DSIGNET_FLASH={flash_mb}",
    ]  # fmt: skip
    code = subprocess.run(command, env=dict(environment), check=False).returncode
    if code:
        return code
    faults = find_faults(chip, flash_mb, output)
    for fault in faults:
        print(f"signet: error: {fault}", file=sys.stderr)
    if faults:
        print("signet: hint: neither sign nor flash it; it would not start", file=sys.stderr)
        return 1
    print(output)
    return 0


def main() -> int:
    """Entry point; exit code 2 where something is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chip", choices=CHIPS, default=CHIPS[0])
    parser.add_argument("--flash", type=int, choices=FLASH_MB, default=FLASH_MB[0], help="MB")
    parser.add_argument("--output", type=Path, help="folder; build/firmware/<chip>-<flash>mb")
    arguments = parser.parse_args()
    problems = find_problems(os.environ)
    for problem in problems:
        print(f"signet: error: {problem}", file=sys.stderr)
    if problems:
        print("signet: hint: firmware/board/sealed/OPTIONS.md names the versions", file=sys.stderr)
        return 2
    chip, flash_mb = arguments.chip, arguments.flash
    default = BOARD.parents[2] / "build/firmware" / f"{chip}-{flash_mb}mb"
    return build(chip, flash_mb, (arguments.output or default).resolve(), os.environ)


if __name__ == "__main__":
    sys.exit(main())
