"""Build the sealed platform: `make firmware CHIP=esp32 FLASH_MB=4`.

It needs ESP-IDF (IDF_PATH, with its export.sh sourced) and MicroPython's source (MICROPYTHON_DIR).
What is missing or of another version is named, with what was expected and found, and the exit code
is 2. The result is unsigned: bootloader, partition table and platform in build/firmware/<chip>.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

BOARD = Path(__file__).resolve().parent.parent / "firmware/board/sealed"
CHIPS = ("esp32", "esp32s3", "esp32c3")
FLASH_MB = (4, 8, 16)
# ports/esp32/README.md of MicroPython 1.26.1 and 1.28.0 name these of ESP-IDF.
LEAST_MICROPYTHON = (1, 26)
IDF_VERSIONS = ("5.4", "5.5")


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


def build(chip: str, flash_mb: int, environment: Mapping[str, str]) -> int:
    """Run MicroPython's own make; its exit code."""
    output = BOARD.parents[2] / "build/firmware" / f"{chip}-{flash_mb}mb"
    command = [
        "make", "-C", str(Path(environment["MICROPYTHON_DIR"], "ports/esp32")),
        f"BOARD_DIR={BOARD}", f"BUILD={output}",
        f"CMAKE_ARGS=-DSIGNET_CHIP={chip} -DSIGNET_FLASH={flash_mb}",
    ]  # fmt: skip
    code = subprocess.run(command, env=dict(environment), check=False).returncode
    if code == 0:
        print(output)
    return code


def main() -> int:
    """Entry point; exit code 2 where something is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chip", choices=CHIPS, default=CHIPS[0])
    parser.add_argument("--flash", type=int, choices=FLASH_MB, default=FLASH_MB[0], help="MB")
    arguments = parser.parse_args()
    problems = find_problems(os.environ)
    for problem in problems:
        print(f"signet: error: {problem}", file=sys.stderr)
    if problems:
        print("signet: hint: firmware/board/sealed/OPTIONS.md names the versions", file=sys.stderr)
        return 2
    return build(arguments.chip, arguments.flash, os.environ)


if __name__ == "__main__":
    sys.exit(main())
