"""`signet board deploy`: this checkout's stage 1 onto a development board, with mpremote.

Stage 1 (boot.py, main.py, lib/trust) lies on `vfs`, and no update brings it. What is in a slot, the
application too, is signed: it goes to a development board as to any other, by `signet release
publish`. A production board lets nobody in; one whose console was opened for service is refused.
"""

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from signet import files, run
from signet.errors import RefusedError, SignetError
from signet.image import slot_image

_PROJECT = Path(__file__).resolve().parents[3]
_HINT = "only a development board in its REPL takes this: `make console`, then Ctrl-C"
_CHECK_S = 40
_COPY_S = 300
# Run on the board first. Under a slot `sys.path` has no /lib.
_CHECK = """\
import sys
sys.path.append("/lib")
from esp32 import Partition
from trust.identity import Identity
record = Identity(Partition.find(0x3F, label="esp_secure_cert")[0]).record()
if record.get("profile") not in (0, "dev"):
    raise ValueError("not a development board")
print("development board", record["id"])
"""


def stage1_files(source: Path) -> dict[str, bytes]:
    """Stage 1 as it lies on `vfs`: path and content, lib/trust compiled."""
    contents = slot_image.compile_sources(slot_image.python_files(source, ("lib/trust",)))
    for name in ("boot.py", "main.py"):
        contents[name] = files.read_file(source / name, "stage 1 file")
    return contents


def check_arguments(port: str) -> list[str]:
    """mpremote asks the board what it is: without a soft reset, which would start boot.py."""
    return ["connect", port, "resume", "exec", _CHECK]


def copy_arguments(port: str, folder: Path) -> list[str]:
    """mpremote copies what differs, and restarts the board."""
    stage1 = [f"{folder}/lib", f"{folder}/main.py", f"{folder}/boot.py"]
    return ["connect", port, "resume", "fs", "cp", "-r", *stage1, ":", "+", "reset"]


@click.command("deploy")
@click.option("--port", required=True, help="Serial port of a development board, in its REPL.")
@click.option("--source", type=click.Path(path_type=Path, file_okay=False), default=_PROJECT,
              help="Project folder. Default: this checkout.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the commands only.")
def command(port: str, source: Path, dry_run: bool) -> None:
    """Copy this checkout's stage 1 to a development board and restart it.

    Stop the board with Ctrl-C first (`make console`). The application is in a signed slot: build,
    sign and publish it as any release. Any other board than one of profile dev is refused.
    """
    contents = stage1_files(source)
    with tempfile.TemporaryDirectory(prefix="signet-") as folder:
        for name, content in contents.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        check, copy = check_arguments(port), copy_arguments(port, Path(folder))
        if dry_run:
            click.echo(shlex.join(["mpremote", *check]))
            click.echo(shlex.join(["mpremote", *copy]))
            return
        _run_mpremote(check, port, _CHECK_S)
        _run_mpremote(copy, port, _COPY_S)
    click.echo(f"{port}: {len(contents)} files of stage 1 copied, restarted")


def _run_mpremote(arguments: list[str], port: str, timeout_s: int) -> None:
    program = run.find_program("mpremote")
    try:
        done = subprocess.run(
            [program, *arguments], stdin=subprocess.DEVNULL, stdout=sys.stderr,
            stderr=subprocess.PIPE, encoding="utf-8", errors="replace", timeout=timeout_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SignetError(f"{port}: no answer from a REPL within {timeout_s} s", _HINT) from None
    if done.returncode != 0:
        if "not a development board" in done.stderr:
            raise RefusedError(f"{port}: not a development board: its identity says so")
        last = (done.stderr.strip() or "mpremote gave no reason").splitlines()[-1]
        raise SignetError(f"{port}: {last}", _HINT)
