"""The figures of a benchmark: a table with floor and aim beside each, and a file of JSON."""

import json
import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from demo.stage import claim_folder
from demo.transcript import NotHeldError
from signet import files
from signet.errors import SignetError
from signet.sources import SOURCE

WIDTH = 80
WORD_LEN = 8  # bytes of a machine word, in the host's MicroPython


class Row(NamedTuple):
    """A figure. floor: in words. at_most, at_least: its aim; neither: for information."""

    key: str
    value: float
    floor: str
    at_most: float | None = None
    at_least: float | None = None

    @property
    def aim(self) -> str:
        if self.at_most is not None:
            return f"≤ {self.at_most:,}"
        return "report" if self.at_least is None else f"≥ {self.at_least:,}"

    @property
    def verdict(self) -> str:
        if self.at_most is None and self.at_least is None:
            return "–"
        too_high = self.at_most is not None and self.value > self.at_most
        too_low = self.at_least is not None and self.value < self.at_least
        return "missed" if too_high or too_low else "met"


Notes = list[str]
Progress = Callable[[str], None]  # told what is measured now
Measure = Callable[[Path, Progress], tuple[list[Row], Notes]]  # in a folder that is wiped first


def run(name: str, measure: Measure) -> None:
    """Measure in build/<name>, write build/<name>.json, print the table and the notes to it.

    name: of the command, for its messages. Ends with exit code 2 if something could not be
    measured, 1 if interrupted; no file is written then.
    """
    os.chdir(SOURCE)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the broker would be left over
    folder, result = Path("build", name), Path("build", f"{name}.json")
    started = time.monotonic()

    def progress(what: str) -> None:
        click.echo(f"{name}: measuring {what}", err=True)

    try:
        with claim_folder(folder):
            rows, notes = measure(folder, progress)
        content = json.dumps({row.key: row.value for row in rows}, indent=2) + "\n"
        files.replace_file(result, content.encode(), files.OURS)
    except (SignetError, NotHeldError) as error:
        click.echo(f"{name}: error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        click.echo(f"{name}: interrupted", err=True)
        sys.exit(1)
    _show(rows, notes)
    click.echo(f"Measured in {time.monotonic() - started:.0f} s; written to {result}.")


def words(length: float) -> int:
    """Bytes of heap in machine words."""
    return round(length / WORD_LEN)


def _show(rows: list[Row], notes: Notes) -> None:
    table = Table(box=SIMPLE_HEAD, width=WIDTH, padding=(0, 1), pad_edge=False)
    table.add_column("figure", no_wrap=True)
    for name in ("measured", "floor", "aim"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows:
        style = "red" if row.verdict == "missed" else None
        table.add_row(row.key, f"{row.value:,}", row.floor, row.aim, row.verdict, style=style)
    Console(width=WIDTH, highlight=False).print(table)
    for note in notes:
        click.echo(textwrap.fill(note, WIDTH, subsequent_indent="  ", break_on_hyphens=False))
