"""The demo's transcript: what a person reads, and the table of what came of it at the end."""

import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from signet.errors import SignetError
from signet.options import printable

_MIN_WIDTH, _MAX_WIDTH = 80, 100
_WRAP: dict[str, Any] = {"subsequent_indent": "    ", "break_on_hyphens": False}


class Row(NamedTuple):
    """What was tried and what came of it."""

    held: bool
    name: str
    outcome: str


class NotHeldError(Exception):
    """The demo claims something that is not so."""


class Transcript:
    """What the person at the terminal reads, and the rows of the table at the end."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        if not self.console.is_terminal:
            self.console = Console(highlight=False, width=_MIN_WIDTH, color_system=None)
        self._width = max(_MIN_WIDTH, min(self.console.width, _MAX_WIDTH))
        self.rows: list[Row] = []

    def title(self, text: str, level: int = 0) -> None:
        self.console.print()
        self._print(text, "bold", 2 * level)

    def command(self, text: str) -> None:
        """A command line that can be copied, wrapped or not."""
        lines = textwrap.wrap(f"$ {text}", self._width - 4, **_WRAP)
        for number, line in enumerate(lines, 1):
            end = "" if number == len(lines) else " \\"
            self.console.print(Text(f"  {line}{end}", "cyan"), soft_wrap=True)

    def said(self, text: str) -> None:
        """What a program or the board said."""
        self._print(text, "dim", 4)

    def held(self, text: str) -> None:
        self._print(f"✓ {text}", "green", 2)

    def failed(self, text: str) -> None:
        self._print(f"✗ {text}", "bold red", 2)

    def perform(self, name: str, action: Callable[[], str]) -> bool:
        """Perform one step or case; what it returns, or why it failed, is its row in the table."""
        place = len(self.rows)  # before the rows that it may make itself
        try:
            row = Row(True, name, action())
        except (NotHeldError, SignetError) as error:
            row = Row(False, name, str(error))
            self.failed(row.outcome)
        self.rows.insert(place, row)
        return row.held

    def table(self) -> None:
        table = Table("", "what", "came of it", box=SIMPLE_HEAD, width=self._width, padding=(0, 1))
        for held, name, outcome in self.rows:
            shown = Text(printable(outcome))
            table.add_row("✓" if held else "✗", name, shown, style=None if held else "red")
        self.console.print(table)

    def _print(self, text: str, style: str, indent: int) -> None:
        for paragraph in text.splitlines():
            for line in textwrap.wrap(paragraph, self._width - indent, **_WRAP):
                self.console.print(Text(" " * indent + printable(line), style), soft_wrap=True)
