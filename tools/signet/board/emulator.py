"""The flash of a real board in QEMU's ESP32.

The firmware speaks Wi-Fi only, so the emulator needs a model of it, `esp32_wifi`; a QEMU that has
no more than Espressif's `open_eth` is refused. The guest reaches this machine as 10.0.2.2, which is
127.0.0.1 here.
"""

import os
import shutil
import socket
import subprocess
from pathlib import Path

from signet import locks
from signet.errors import RefusedError, SignetError

PROGRAM = "qemu-system-xtensa"
MACHINE = "esp32"
WIFI = "esp32_wifi"
STDIO = "stdio"
HOST = "10.0.2.2"  # this machine, as QEMU's user-mode network shows it
_LOOPBACK = "127.0.0.1"
_PROBE_S = 20


def find_emulator() -> str:
    """Path of a QEMU that can run the firmware; SignetError says what it lacks."""
    program = shutil.which(PROGRAM)
    if program is None:
        raise SignetError(
            f"{PROGRAM}: not installed, or not in PATH",
            f"it takes a QEMU with the machine {MACHINE} and the network device {WIFI}",
        )
    machines = _ask(program, "-machine", "help").stdout.split("\n")
    if not any(line.split()[:1] == [MACHINE] for line in machines):
        raise SignetError(
            f"{program}: it has no machine {MACHINE}",
            "a distribution's QEMU has none; Espressif's fork and those of it do",
        )
    if _ask(program, "-machine", "none", "-device", f"{WIFI},help").returncode != 0:
        raise SignetError(
            f"{program}: it has the machine {MACHINE}, and no Wi-Fi (device {WIFI})",
            "Espressif's own QEMU has only Ethernet, which the firmware does not speak",
        )
    return program


def _ask(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False,
            encoding="utf-8", errors="replace", timeout=_PROBE_S,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SignetError(f"{program}: cannot be asked what it has: {error}") from error


def console_port(port: int) -> str:
    """The board's console on a TCP port: QEMU's name for it."""
    return f"tcp:{_LOOPBACK}:{port},server=on,wait=off"


def command_line(program: str, path: Path, console: str, more: tuple[str, ...] = ()) -> list[str]:
    """QEMU with the flash file as the chip, and the board's console: `console_port`, or STDIO.

    more: further options of QEMU, as they are.
    """
    drive = str(path).replace(",", ",,")  # QEMU's way to quote it
    return [
        program, "-machine", MACHINE, "-display", "none", "-monitor", "none",
        "-drive", f"file={drive},if=mtd,format=raw",
        "-serial", console,
        "-nic", f"user,model={WIFI}", *more,
    ]  # fmt: skip


def claim(path: Path, port: int) -> None:
    """See that the console's port is free, and lock the flash file for who takes our place.

    The lock is held for as long as this process lives, whatever program it becomes.
    """
    try:
        socket.create_server((_LOOPBACK, port)).close()
    except OSError as error:
        raise SignetError(
            f"console port {port}: {error.strerror}", "--port takes another"
        ) from None
    lock = os.open(path, os.O_RDWR)
    if not locks.try_lock(lock):
        raise RefusedError(f"{path}: a board runs on it already")
    os.set_inheritable(lock, True)
