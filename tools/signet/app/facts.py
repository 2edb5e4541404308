"""What `signet dev` knows of the board, gathered from its console and its reports."""

import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from signet.fleet.reports import Report
from signet.options import printable

CONNECTED = "signet: connected to "
MEMORY_ID = "signet-dev-memory"  # of the command that asks for it
_PLOTTED = 60
_KEPT = 200
_MAX_SERIES = 16
_SHORT = "slot", "version", "status"


@dataclass
class Series:
    """A value of telemetry: its last text, and its last numbers, if it is one."""

    text: str = ""
    numbers: deque[float] = field(default_factory=lambda: deque(maxlen=_PLOTTED))

    def add(self, value: Any) -> None:
        self.text = printable(value if isinstance(value, str) else json.dumps(value))
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.numbers.append(value)


@dataclass
class Facts:
    """All that is on the screen.

    doing: what is at work. problem: why the last thing failed. start_s: from power-on to connected;
    edit_s: from a saved file to connected. heap_live: bytes of heap in use. typed: the command that
    is being typed, or None. What a board says is printable in all but `state`.
    """

    name: str
    doing: str = ""
    problem: str = ""
    powered: bool = False
    connected: bool = False
    network: bool = True
    state: Report = field(default_factory=dict)
    heap_live: int | None = None
    telemetry: dict[str, Series] = field(default_factory=dict)
    events: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT))
    console: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT))
    start_s: float | None = None
    edit_s: float | None = None
    typed: str | None = None

    def take_line(self, line: str) -> str:
        """A line of the console; as it may be shown."""
        self.connected = self.connected or CONNECTED in line
        shown = printable(line)
        self.console.append(shown)
        return shown

    def take_report(self, kind: str, report: Report) -> str | None:
        """What it reported, in a line; None for what nobody asked for but the screen."""
        if kind == "telemetry":
            for name, value in zip(map(printable, report), report.values(), strict=True):
                if name in self.telemetry or len(self.telemetry) < _MAX_SERIES:
                    self.telemetry.setdefault(name, Series()).add(value)
            return f"telemetry {printable(json.dumps(report))}"
        if kind == "state":
            if not report.get("online"):
                self.connected = False
                return None
            self.state = report
            told = " ".join(f"{name} {report.get(name)}" for name in _SHORT)
            return f"state {printable(told)}"
        if report.get("event") == "command" and report.get("id") == MEMORY_ID:
            result = report.get("result")
            live = result.get("live") if isinstance(result, dict) else None
            self.heap_live = live if isinstance(live, int) else None  # all that this port tells
            return None
        line = printable(_describe(report))
        self.events.append(line)
        return f"event {line}"

    def lose_power(self) -> None:
        self.powered = self.connected = False


def _describe(report: Report) -> str:
    """An event in a line: its name, then what it says."""
    name = str(report.get("event"))
    more = {key: value for key, value in report.items() if key != "event"}
    if name == "command":
        answer = more.get("result") if more.get("ok") else more.get("reason")
        return f"command: {answer if isinstance(answer, str) else json.dumps(answer)}"
    return f"{name} " + " ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in more.items()
    )
