"""What a board's memory was at each step of its work: the table, and a file of JSON that is kept.

Figures are bytes, as the board's command `memory` tells them (firmware/ondemand/memory.py).
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from signet import files
from signet.errors import SignetError
from signet.formats.documents import load_object
from signet.options import printable

WIDTH = 80
_FILE = files.Kind("measured figures", lambda head: b'"command"' in head and b'"runs"' in head)
_IDF = ("idf_free", "idf_largest", "idf_least")
_COLUMNS = {
    "uptime_s": "up", "live": "live", "largest": "largest",
    "idf_free": "IDF\nfree", "idf_largest": "IDF\nlargest", "idf_least": "IDF\nleast",
}  # fmt: skip
# What the columns are, once for all tables.
LEGEND = """\
Bytes. s: seconds by this machine's clock; up: by the board's, since its agent
began. live, largest: of MicroPython's heap, in use and free in one piece, when
the board was asked, with what is loaded for the answer. Then the IDF's heap:
free, free in one piece, the least that was free since the board started."""

Memory = dict[str, int | None]


@dataclass
class Row:
    """A step that held. seconds: by this machine's clock. memory: after it, {} if not known."""

    step: str
    seconds: float
    memory: Memory = field(default_factory=dict)


@dataclass
class Run:
    """One board that was driven. emulated: or it was a virtual one, which has no heap of the IDF.

    application: what is said of it. failure: why the next step did not hold, None if all held.
    console: then its last lines.
    """

    board: str
    emulated: bool
    date: str
    application: str = ""
    failure: str | None = None
    rows: list[Row] = field(default_factory=list)
    console: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """Why it failed, with what the board said last."""
        return "\n  | ".join([self.failure or "every step held", *self.console])

    @property
    def idf_least(self) -> int | None:
        """Bytes of the IDF's heap that were free at the worst of all steps."""
        found = [row.memory.get("idf_free") for row in self.rows]
        return min((value for value in found if value is not None), default=None)


def without_idf(memory: Memory) -> Memory:
    """A virtual board's: what it says of the IDF was put in its mouth."""
    return {name: value for name, value in memory.items() if name not in _IDF}


def show(run: Run) -> None:
    """Print the table, in 80 columns."""
    heading = Text(printable(f"{run.board}{run.application}, {run.date}"))
    Console(width=WIDTH, highlight=False).print(heading)
    table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1), show_edge=False)
    table.add_column("step", no_wrap=True)
    for title in ("s", *_COLUMNS.values()):
        table.add_column(title, justify="right", no_wrap=True)
    for row in run.rows:
        figures = (row.memory.get(name) for name in _COLUMNS)
        shown = ("–" if figure is None else f"{figure:,}" for figure in figures)
        table.add_row(Text(printable(row.step)), f"{row.seconds:.1f}", *shown)
    Console(width=WIDTH, highlight=False).print(table)


def save(path: Path, command: str, runs: list[Run]) -> None:
    """Keep the runs, with the command that measures them anew."""
    content = {"command": command, "runs": [asdict(run) for run in runs]}
    files.replace_file(path, json.dumps(content, indent=1).encode() + b"\n", _FILE)


def load(path: Path) -> tuple[str, list[Run]]:
    """What `save` kept: the command and the runs; SignetError if it is something else."""
    try:
        content = load_object(files.read_file(path, "measured figures"))
        runs = [
            Run(**(run | {"rows": [Row(**row) for row in run["rows"]]})) for run in content["runs"]
        ]
        return str(content["command"]), runs
    except (ValueError, KeyError, TypeError) as error:
        raise SignetError(
            f"{path}: {type(error).__name__}: {error}, expected what `make qemu-check` keeps"
        ) from error
