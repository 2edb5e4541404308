"""The commands of who develops an application: `signet dev`, `doctor` and `test`."""

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from signet import project
from signet.app import doctor as checks
from signet.app.doctor import Check
from signet.errors import EXIT_ENVIRONMENT, EXIT_REFUSED
from signet.options import FOLDER, JSON, echo, echo_json, printable
from signet.project import manifest

_PROJECT = click.option(
    "--project", "folder", type=FOLDER, default=".", help="Folder with signet.toml. Default: this."
)
_WIDTH = 80
_PYTEST_FAILED = 1  # some tests did; the other codes are about how it was called


@click.command("test", context_settings={"ignore_unknown_options": True})
@_PROJECT
@click.argument("arguments", metavar="[PYTEST_ARGS]", nargs=-1, type=click.UNPROCESSED)
def test(folder: Path, arguments: tuple[str, ...]) -> None:
    """Run the project's own tests with pytest: on CPython, and on virtual boards.

    A test that takes `board`, `fleet` or `power` as an argument gets a board of its own, which runs
    the application: "signet test --fixtures" describes them. All other arguments are pytest's, too.
    Exit code 1: a test failed.
    """
    ours = project.load(folder)
    checks.check_quickly(ours)
    done = subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ours.folder)
    if done.returncode:
        failed = done.returncode == _PYTEST_FAILED
        raise click.exceptions.Exit(EXIT_REFUSED if failed else EXIT_ENVIRONMENT)


@click.command("dev")
@_PROJECT
def dev(folder: Path) -> None:
    """Run the application on a virtual board, with its servers, until "q" or Ctrl-C.

    One screen shows the board, its telemetry, events and console; a file that is saved is built and
    running a second later. Keys cut the power, press reset, drop the network, send a command and
    publish the next version. Into a pipe it prints plain lines. Keys, servers and the board are in
    .signet of the project.
    """
    from signet.app import dev as running  # here: it takes longer to import than others to run

    ours = project.load(folder)
    checks.check_quickly(ours)
    running.run(ours)


@click.command("doctor")
@_PROJECT
@JSON
@click.option("--install", is_flag=True, help="Put MicroPython and mosquitto where Signet looks.")
def doctor(folder: Path, as_json: bool, install: bool) -> None:
    """Say what is missing on this machine, and the command that mends it.

    In a project's folder it looks at the project, too. Exit code 1: something that is needed is
    missing.
    """
    if install:
        echo(f"{checks.install()}: MicroPython and mosquitto", err=True)
    found = checks.check_all(project.load(folder) if (folder / manifest.NAME).exists() else None)
    if as_json:
        echo_json([asdict(check) | ({"command": None} if check.good else {}) for check in found])
    else:
        _show(found)
    if not all(check.good for check in found if check.needed):
        raise click.exceptions.Exit(EXIT_REFUSED)


def _show(found: list[Check]) -> None:
    table = Table("", "what", box=SIMPLE_HEAD, width=_WIDTH, padding=(0, 1))
    table.add_column("found", overflow="fold")
    for check in found:
        mark = "✓" if check.good else "✗" if check.needed else "!"
        style = None if check.good else "red" if check.needed else "yellow"
        table.add_row(mark, check.what, Text(printable(check.found)), style=style)
    Console(highlight=False, width=_WIDTH).print(table)
    commands = dict.fromkeys(check.command for check in found if not check.good and check.command)
    for command in commands:
        echo(f"to mend it: {command}")
    if all(check.good for check in found):
        echo("nothing is missing")
