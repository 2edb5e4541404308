"""Stage 1 onto a development board, with mpremote.

Stage 1 lies on `vfs`, and no update brings it. What is in a slot, the application too, is signed:
it goes to a development board as to any other, by `signet release publish`. A production board
lets nobody in; one whose console was opened for service is refused.
"""

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from signet import run
from signet.board.serial_device import check_device, check_name
from signet.errors import RefusedError, SignetError
from signet.image import stage1
from signet.options import echo

_HINT = "only a development board in its REPL takes this: `make console`, then Ctrl-C"
_CHECK_S = 40
_COPY_S = 300
# Run on the board first. Under a slot the archive is mounted, and `sys.path` has no /lib.
_CHECK = f"""\
import sys
if "trust" not in sys.modules:
    sys.path.append("/lib")
    import vfs
    from romfs import Archive, Blocks
    blocks = Blocks("/{stage1.ARCHIVE}")
    vfs.mount(Archive(blocks, 0, blocks.length), "/stage1", readonly=True)
    sys.path.append("/stage1")
from esp32 import Partition
from trust.identity import Identity
record = Identity(Partition.find(0x3F, label="esp_secure_cert")[0]).record()
if record.get("profile") not in (0, "dev"):
    raise ValueError("not a development board")
print("development board", record["id"])
"""


@contextlib.contextmanager
def unpacked(contents: dict[str, bytes]) -> Iterator[Path]:
    """A folder with these files, which is gone when the block ends."""
    with tempfile.TemporaryDirectory(prefix="signet-") as folder:
        for name, content in contents.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        yield Path(folder)


def commands(port: str, folder: Path) -> tuple[list[str], list[str]]:
    """What mpremote is told: to ask the board what it is, and to copy what differs and restart it.

    The first does no soft reset, which would start boot.py.
    """
    check = ["connect", check_name(port), "resume", "exec", _CHECK]
    names = ("lib", stage1.ARCHIVE, "main.mpy", "boot.py")
    copied = [f"{folder}/{name}" for name in names]
    return check, ["connect", port, "resume", "fs", "cp", "-r", *copied, ":", "+", "reset"]


def copy_to_board(port: str, folder: Path) -> None:
    """Copy an unpacked stage 1, and restart the board; RefusedError if it is not for development.

    SignetError if it does not answer, which a production board never does, or is no serial device.
    """
    check, copy = commands(port, folder)
    _run_mpremote(check, port, _CHECK_S)
    _run_mpremote(copy, port, _COPY_S)


def _run_mpremote(arguments: list[str], port: str, timeout_s: int) -> None:
    check_device(port)
    program = run.find_program("mpremote")
    try:
        done = subprocess.run(
            [program, *arguments], stdin=subprocess.DEVNULL, capture_output=True,
            encoding="utf-8", errors="replace", timeout=timeout_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SignetError(f"{port}: no answer from a REPL within {timeout_s} s", _HINT) from None
    for line in done.stdout.splitlines():
        echo(line, err=True)  # the board's words
    if done.returncode != 0:
        if "not a development board" in done.stderr:
            raise RefusedError(f"{port}: not a development board: its identity says so")
        last = (done.stderr.strip() or "mpremote gave no reason").splitlines()[-1]
        raise SignetError(f"{port}: {last}", _HINT)
