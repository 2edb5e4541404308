"""Progress on stderr: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from signet.options import echo

_LINE_S = 10.0
_SHORTEST = 10  # boards: fewer are done before one has read it


class Progress:
    """Of `total` boards."""

    def __init__(self, total: int):
        self._total = total
        self._done = 0
        self._line_due = time.monotonic() + _LINE_S
        self._bar = Bar(
            TextColumn("boards"), BarColumn(None), MofNCompleteColumn(), TimeRemainingColumn(),
            console=Console(stderr=True), transient=True,
            disable=total < _SHORTEST or not sys.stderr.isatty(),
        )  # fmt: skip
        self._task = self._bar.add_task("boards", total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        self._bar.stop()

    def step(self, _device_id: str) -> None:
        """One more board is done with."""
        self._done += 1
        self._bar.advance(self._task)
        is_due = self._done < self._total and time.monotonic() >= self._line_due
        if self._bar.disable and is_due:
            echo(f"signet: {self._done} of {self._total} boards", err=True)
            self._line_due = time.monotonic() + _LINE_S
