"""The commands of who develops an application: `signet test`."""

import subprocess
import sys
from pathlib import Path

import click

from signet import project
from signet.errors import EXIT_ENVIRONMENT, EXIT_REFUSED
from signet.options import FOLDER

_PROJECT = click.option(
    "--project", "folder", type=FOLDER, default=".", help="Folder with signet.toml. Default: this."
)
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
    done = subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ours.folder)
    if done.returncode:
        failed = done.returncode == _PYTEST_FAILED
        raise click.exceptions.Exit(EXIT_REFUSED if failed else EXIT_ENVIRONMENT)
