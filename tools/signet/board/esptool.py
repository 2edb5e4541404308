"""`signet board flash`: write the flash of a real board with esptool, and compare what it holds.

Between the two the board stays in its boot ROM: one that started would change its flash.
"""

import shlex
import subprocess
import sys
from pathlib import Path

import click

from signet import run
from signet.board.real_flash import check_board
from signet.errors import RefusedError, SignetError, refusals_about
from signet.formats.flash import Flash

_BAUD = 460800


def commands(path: Path, port: str, baud: int = _BAUD) -> list[list[str]]:
    """The esptool commands that write a flash file and compare, without the program's own name."""
    where = ["--chip", "esp32", "--port", port, "--baud", str(baud)]
    file = ["0x0", str(path)]
    return [
        [*where, "--after", "no-reset", "write-flash", *file],
        [*where, "verify-flash", *file],
    ]


def write_board(path: Path, port: str, baud: int = _BAUD) -> None:
    """Write and compare; esptool's own words go to stderr.

    Raises SignetError if nothing could be written, RefusedError if what is in flash differs.
    """
    write, verify = commands(path, port, baud)
    if _run_esptool(write) != 0:
        raise SignetError(
            f"esptool could not write to {port}, see above",
            "is it the right port, is anything else using it, is the board in download mode?",
        )
    if _run_esptool(verify) != 0:
        raise RefusedError(
            f"the flash at {port} is not what was written to it, see above", "write it again"
        )


def _run_esptool(arguments: list[str]) -> int:
    """esptool's exit code. It runs for as long as it takes, and shows how far it is."""
    program = run.find_program("esptool")
    click.echo(f"$ {shlex.join(['esptool', *arguments])}", err=True)
    done = subprocess.run([program, *arguments], stdin=subprocess.DEVNULL, stdout=sys.stderr)
    return done.returncode


@click.command("flash")
@click.argument("path", metavar="FLASH", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--port", required=True, help="Serial port: /dev/ttyUSB0, socket://…, rfc2217://…")
@click.option("--baud", default=_BAUD, show_default=True, type=click.IntRange(9600, 2_000_000))
@click.option("--dry-run", is_flag=True, help="Check the file and print the commands only.")
def command(path: Path, port: str, baud: int, dry_run: bool) -> None:
    """Write FLASH, of `signet board image`, to an ESP32, and compare.

    All that the board held is replaced: its identity, its security floor, its files.
    """
    chip = Flash.load(path)
    with refusals_about(path):
        board = check_board(chip)
    if dry_run:
        for arguments in commands(path, port, baud):
            click.echo(shlex.join(["esptool", *arguments]))
        return
    write_board(path, port, baud)
    click.echo(f"{port}: {board}, written and compared")
