"""esptool, by which the flash of a real board is written and compared.

It runs as a program (it is GPL), once for each command. Between two a board stays in its boot ROM:
one that started would change its flash.
"""

import shlex
import subprocess
import sys
from pathlib import Path

from signet import run
from signet.board.serial_device import check_device, check_name
from signet.errors import RefusedError, SignetError
from signet.options import echo

BAUD = 460800
_TIMEOUT_S = 600  # 4 MB at 115200 baud
_STAY = ("--after", "no-reset")


def write(path: Path, *options: str) -> list[str]:
    """The words that write a file to the whole flash."""
    return ["write-flash", *options, "0x0", str(path)]


def verify(path: Path) -> list[str]:
    """The words that let the chip hash what it holds, and compare that with a file."""
    return ["verify-flash", "0x0", str(path)]


def commands(path: Path, port: str, baud: int = BAUD) -> list[list[str]]:
    """What writes a flash file, compares, and lets the board start; without the program's name."""
    where = ["--chip", "esp32", "--port", check_name(port), "--baud", str(baud)]
    return [[*where, *_STAY, *write(path)], [*where, *verify(path)]]


def write_board(path: Path, port: str, baud: int = BAUD) -> None:
    """Write and compare; esptool's own words go to stderr.

    port: a serial device. Raises SignetError if nothing could be written, RefusedError if what is
    in flash differs.
    """
    check_device(port)
    to_write, to_verify = commands(path, port, baud)
    if _show(to_write) != 0:
        raise SignetError(
            f"esptool could not write to {port}, see above",
            "is it the right port, is anything else using it, is the board in download mode?",
        )
    if _show(to_verify) != 0:
        raise RefusedError(
            f"the flash at {port} is not what was written to it, see above", "write it again"
        )


def _show(arguments: list[str]) -> int:
    """esptool's exit code. It runs for as long as it takes, and shows how far it is."""
    program = run.find_program("esptool")
    echo(f"$ {shlex.join(['esptool', *arguments])}", err=True)
    done = subprocess.run([program, *arguments], stdin=subprocess.DEVNULL, stdout=sys.stderr)
    return done.returncode


def ask(port: str, *words: str | Path, chip: str = "auto", baud: int | None = None) -> str:
    """What esptool prints; the board stays in its boot ROM. Raises ProgramError if it fails.

    port: a serial device; SignetError, and esptool is not started, if it is none.
    """
    check_device(port)
    speed = ["--baud", str(baud)] if baud else []
    where = ("--chip", chip, "--port", port, *speed, *_STAY)
    return run.run_program("esptool", *where, *words, timeout_s=_TIMEOUT_S)
