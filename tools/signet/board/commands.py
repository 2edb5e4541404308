"""The commands `signet board`: virtual boards, and the flash of real ones."""

import os
import shlex
import threading
from dataclasses import asdict
from pathlib import Path

import click

from signet.board import deploy, emulator, esptool, real_flash
from signet.board.virtual import console
from signet.board.virtual.board import VirtualBoard
from signet.board.virtual.cycle import BoardError
from signet.errors import RefusedError
from signet.image import stage1
from signet.options import FILE, FOLDER, JSON, PKI, echo, echo_json
from signet.sources import SOURCE

_BOARD = click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
_FLASH = click.argument("path", metavar="FLASH", type=FILE)
_WATCH_S = 0.05
_MIB = 1024 * 1024


@click.group("board")
def group() -> None:
    """Boards: virtual ones, and the flash of real ones."""


@group.command("run")
@_BOARD
def board_run(folder: Path) -> None:
    """Power on the board in FOLDER and show its console; Ctrl-C takes the power away."""
    reader_gone = threading.Event()

    def show(line: str) -> None:
        try:
            echo(line)
        except BrokenPipeError:
            reader_gone.set()

    with VirtualBoard(folder, on_line=show) as board:
        board.power_on()
        try:
            while board.running:
                if reader_gone.wait(_WATCH_S):
                    raise BrokenPipeError
        except KeyboardInterrupt:
            return
        raise BoardError(f"the board stopped: {board.stopped}")


@group.command("console")
@_BOARD
def board_console(folder: Path) -> None:
    """Show the console of the board that runs in FOLDER, until it is off or Ctrl-C."""
    try:
        for line in console.watch(folder):
            echo(line)
    except KeyboardInterrupt:
        return


@group.command("image")
@click.option("--micropython", required=True, metavar="BIN", type=FILE,
              help="ESP32_GENERIC-OTA-….bin, 1.25.0 or later.")  # fmt: skip
@click.option("--device", required=True, metavar="FLASH", type=FILE,
              help="Flash file of `signet device provision`.")  # fmt: skip
@click.option("-o", "--output", required=True, type=FILE,
              help="The whole flash; holds the device's key.")  # fmt: skip
def board_image(micropython: Path, device: Path, output: Path) -> None:
    """Make the whole flash of a real ESP32 from an official MicroPython and a device.

    The result is what `signet board flash` writes to a board, and what an emulator starts. An
    existing file is never overwritten.
    """
    chip, board = real_flash.build_board_flash(micropython, device)
    chip.save_new(output)
    echo(f"{output}: {board}, {len(chip.content) // _MIB} MB")


@group.command("flash")
@_FLASH
@click.option("--port", required=True, help="Serial port: /dev/ttyUSB0.")
@click.option("--baud", default=esptool.BAUD, show_default=True,
              type=click.IntRange(9600, 2_000_000))  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Check the file and print the commands only.")
def board_flash(path: Path, port: str, baud: int, dry_run: bool) -> None:
    """Write FLASH, of `signet board image`, to an ESP32, and compare.

    All that the board held is replaced: its identity, its security floor, its files.
    """
    board = real_flash.check_file(path)
    if dry_run:
        for arguments in esptool.commands(path, port, baud):
            echo(shlex.join(["esptool", *arguments]))
        return
    esptool.write_board(path, port, baud)
    echo(f"{port}: {board}, written and compared")


@group.command("deploy")
@click.option("--port", required=True, help="Serial port of a development board, in its REPL.")
@click.option("--source", type=FOLDER, default=SOURCE,
              help="Device code. Default: Signet's own.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the commands only.")
def board_deploy(port: str, source: Path, dry_run: bool) -> None:
    """Copy stage 1 to a development board and restart it.

    Stop the board with Ctrl-C first (`make console`). The application is in a signed slot: build,
    sign and publish it as any release. Any other board than one of profile dev is refused.
    """
    contents = stage1.compile_stage1(source)
    with deploy.unpacked(contents) as folder:
        if dry_run:
            for arguments in deploy.commands(port, folder):
                for line in shlex.join(["mpremote", *arguments]).splitlines():
                    echo(line)
            return
        deploy.copy_to_board(port, folder)
    echo(f"{port}: {len(contents)} files of stage 1 copied, restarted")


@group.command("emulate")
@_FLASH
@click.option("--port", default=5555, show_default=True, type=click.IntRange(1, 65535),
              help="TCP port of the board's console, on 127.0.0.1.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Check the file and print the command only.")
@click.argument("more", metavar="[-- QEMU_OPTIONS]", nargs=-1)
def board_emulate(path: Path, port: int, dry_run: bool, more: tuple[str, ...]) -> None:
    """Start FLASH, of `signet board image`, in an ESP32 emulator, until Ctrl-C.

    It needs qemu-system-xtensa with the machine esp32 and the network device esp32_wifi. FLASH is
    the chip: what the board writes is in it. This machine is 10.0.2.2 to the board. On a busy
    machine, `-- -icount 3` keeps the chip's hardware watchdogs from running ahead of its program.
    """
    board = real_flash.check_file(path)
    arguments = emulator.command_line(
        emulator.find_emulator(), path, emulator.console_port(port), more
    )
    if dry_run:
        echo(shlex.join(arguments))
        return
    emulator.claim(path, port)
    echo(f"signet: {board}; console: 127.0.0.1:{port}; Ctrl-C takes the power away", err=True)
    os.execv(arguments[0], arguments)


@group.command("measure")
@click.argument("path", metavar="FLASH|FOLDER", type=click.Path(path_type=Path, exists=True))
@PKI
@click.option("--image", type=FILE, help="Signed image to update to; without, no update.")
@click.option("--bad", type=FILE, help="Signed image that the board has to roll back.")
@click.option("--restarts", default=1, show_default=True, type=click.IntRange(0, 1000),
              help="How often the broker is restarted.")  # fmt: skip
@click.option("--limit", "limit_s", default=180.0, show_default=True,
              type=click.FloatRange(1, 86400), help="Seconds for any one thing.")  # fmt: skip
@click.option("--work", type=FOLDER, help="New folder that keeps console and logs.")
@JSON
@click.argument("more", metavar="[-- QEMU_OPTIONS]", nargs=-1)
def board_measure(
    path: Path,
    pki_folder: Path,
    image: Path | None,
    bad: Path | None,
    restarts: int,
    limit_s: float,
    work: Path | None,
    as_json: bool,
    more: tuple[str, ...],
) -> None:
    """Drive a board through its work, and print its memory at each step.

    FLASH, of `signet board image`, runs in the emulator, FOLDER as a virtual board: each on a copy.
    The servers are started here, at the addresses in the board's identity, which for the emulator
    are at 10.0.2.2. QEMU's options are `-icount 3` unless others are given.
    """
    # Here: a fleet's servers take longer to import than most commands to run.
    from signet.board.measure import figures
    from signet.board.measure.drive import Plan
    from signet.board.measure.run import measure, work_folder

    with work_folder(work) as folder:
        run = measure(path, Plan(pki_folder, restarts, image, bad, limit_s, more), folder)
    if as_json:
        echo_json(asdict(run))
    else:
        figures.show(run)
        for line in figures.LEGEND.splitlines():
            echo(line)
    if run.failure:
        raise RefusedError(run.verdict)
