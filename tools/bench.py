"""`make bench`: what Signet costs, measured: a table, and build/bench.json.

Each figure has its floor beside it: what the same work, or as many files, take with nothing of
ours in them. An aim that is missed is shown as missed; the exit code is 0 if all could be measured.
docs/benchmarks.md says how each is measured, and what it says about an ESP32.
"""

import json
import os
import signal
import sys
import textwrap
import time
from pathlib import Path
from typing import NamedTuple

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import bench_figures
from bench_figures import Board, Heap, Size, Update
from demo_stage import REPO, Stage, claim_folder
from demo_transcript import NotHeldError, Transcript
from signet import files
from signet.errors import SignetError

WIDTH = 80
WORD_LEN = 8  # bytes of a machine word, in the host's MicroPython
FOLDER = Path("build/bench")
RESULT = Path("build/bench.json")


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


def make_rows(stage1: Size, board: Board, heap: Heap, update: Update) -> list[Row]:
    """The table, under the names of build/bench.json."""
    bare_us, real_us = board.verify
    size, download = list(board.downloads.items())[-1]
    above_idle = [_words(peak - idle) for _, idle, peak in heap.updates]
    return [
        Row("boot_verify_ratio", round(real_us / bare_us, 3), f"bare {bare_us / 1000:.2f} ms",
            at_most=1.25),
        Row("stage1_mpy_bytes", stage1.total, f"empty {stage1.empty:,}", at_most=10_240),
        Row("agent_resident_mpy_bytes", board.resident.total, f"empty {board.resident.empty:,}",
            at_most=24_576),
        Row("agent_live_heap_words", _words(heap.idle - heap.shims),
            f"shims {_words(heap.shims):,}", at_most=9_216),
        Row("update_heap_above_idle_words", max(above_idle),
            f"idle {_words(heap.updates[0][1]):,}", at_most=3_072),
        Row("download_ratio", round(download.bare_us / download.real_us, 3),
            f"bare {(size - 4096) / download.bare_us:.1f} MB/s", at_least=0.8),
        Row("order_to_confirmed_s", round(update.confirmed_s, 3),
            f"{update.restarts} × {update.online_s:.2f} s start"),
    ]  # fmt: skip


def make_notes(board: Board, heap: Heap, update: Update) -> list[str]:
    """What stands behind the figures."""
    peaks = ", ".join(
        f"{_words(peak - idle):,} ({size // 1024} KB)" for size, idle, peak in heap.updates
    )
    downloads = "; ".join(
        f"{size // 1024} KB in {all_real / 1000:.1f} ms, bare {all_bare / 1000:.1f}; from the "
        f"first block on {real / 1000:.1f}, bare {bare / 1000:.1f}"
        for size, (bare, real, all_bare, all_real) in board.downloads.items()
    )
    modules = ", ".join(f"{name} {size:,}" for name, size in board.resident.modules.items())
    return [
        f"Heap of an update, words above idle, by image: {peaks}.",
        f"Agent idle, words: {_words(heap.idle):,} in all, {_words(heap.shims):,} of them the "
        "virtual board's own.",
        f"Download, by image: {downloads}.",
        f"Order to confirmed: {update.restarts} restarts included.",
        f"Resident, bytes of .mpy: {modules}.",
    ]


def measure(stage: Stage) -> tuple[list[Row], list[str]]:
    """Measure everything; rows of the table and notes to it."""
    _progress("code")
    stage1 = bench_figures.measure_stage1()
    bench_figures.make_fleet(stage)
    _progress("verification and download, on the board")
    board = bench_figures.measure_board(stage)
    _progress("updates, by the clock")
    update = bench_figures.measure_update(stage)
    _progress("heap, idle and during updates")
    heap = bench_figures.measure_heap(stage)
    return make_rows(stage1, board, heap, update), make_notes(board, heap, update)


def show(rows: list[Row], notes: list[str]) -> None:
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


def _words(length: int) -> int:
    return round(length / WORD_LEN)


def _progress(what: str) -> None:
    click.echo(f"bench: measuring {what}", err=True)


@click.command()
def main() -> None:
    """Measure, print a table and write build/bench.json; 0 if all could be measured."""
    os.chdir(REPO)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the broker would be left over
    transcript = Transcript()
    transcript.console.quiet = True  # what the stage would tell about a demo
    started = time.monotonic()
    try:
        with claim_folder(FOLDER), Stage(FOLDER, transcript) as stage:
            rows, notes = measure(stage)
        content = json.dumps({row.key: row.value for row in rows}, indent=2) + "\n"
        files.replace_file(RESULT, content.encode())
    except (SignetError, NotHeldError) as error:
        click.echo(f"bench: error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        click.echo("bench: interrupted", err=True)
        sys.exit(1)
    show(rows, notes)
    click.echo(f"Measured in {time.monotonic() - started:.0f} s; written to {RESULT}.")


if __name__ == "__main__":
    main()
