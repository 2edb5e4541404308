"""The screen of `signet dev`: what is known of the board, on 80 columns and 24 lines or more."""

from collections.abc import Iterable

from rich.layout import Layout
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from signet.app.facts import Facts, Series
from signet.board.virtual.board import HEAP_LEN
from signet.options import printable

KEYS = {
    "p": "power", "r": "reset", "n": "network", "c": "command", "u": "update", "q": "quit",
}  # fmt: skip
_BARS = "▁▂▃▄▅▆▇█"
_TOP_LINES = 9
_EVENT_LINES = 5
_PROBLEM_LINES = 2
# All but the console's: its frame, a line at the top and one for the keys, too.
_OTHER_LINES = _TOP_LINES + _EVENT_LINES + _PROBLEM_LINES + 4
_PLOT_LEN = 18
_KB = 1024


def render(facts: Facts, width: int, height: int) -> Layout:
    """The whole screen, for a terminal of this size."""
    layout = Layout()
    layout.split_column(
        Layout(_headline(facts), size=1),
        Layout(name="top", size=_TOP_LINES),
        Layout(_panel("events", _last(facts.events, _EVENT_LINES - 2)), size=_EVENT_LINES),
        Layout(_panel("console", _last(facts.console, height - _OTHER_LINES))),
        Layout(_problem(facts), size=_PROBLEM_LINES),
        Layout(_keys(), size=1),
    )
    layout["top"].split_row(
        Layout(_panel("telemetry", _telemetry(facts.telemetry)), size=width * 5 // 8),
        Layout(_panel("board", _board(facts))),
    )
    return layout


def sparkline(numbers: Iterable[float]) -> str:
    """A bar for each of the last numbers, between the least and the greatest of them."""
    shown = list(numbers)[-_PLOT_LEN:]
    if not shown:
        return ""
    least, span = min(shown), max(shown) - min(shown)
    top = len(_BARS) - 1
    return "".join(_BARS[round((number - least) / span * top) if span else 0] for number in shown)


def _headline(facts: Facts) -> Text:
    if not facts.powered:
        standing, style = "no power", "bold red"
    elif facts.connected:
        standing, style = "connected", "bold green"
    else:
        standing, style = "starting" if facts.network else "no network", "bold yellow"
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f" {facts.name} ", "bold reverse").append(f" {standing}", style)
    text.append("" if facts.network else " · network down", "yellow")
    text.append(f" · {facts.doing}" if facts.doing else "", "cyan")
    return text


def _panel(title: str, content: Text | Table) -> Panel:
    return Panel(content, title=title, title_align="left", border_style="dim", padding=(0, 1))


def _last(lines: Iterable[str], count: int) -> Text:
    found = list(lines)[-max(1, count) :]
    return Text("\n".join(found), no_wrap=True, overflow="ellipsis")


def _telemetry(series: dict[str, Series]) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=16)
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=10, justify="right")
    table.add_column(no_wrap=True, style="cyan")
    for name, one in list(series.items())[: _TOP_LINES - 2]:
        table.add_row(Text(name), Text(one.text), Text(sparkline(one.numbers)))
    return table


def _board(facts: Facts) -> Table:
    state, live = facts.state, facts.heap_live
    rows = {
        "version": state.get("version"),
        "slot": f"{state['slot']}, {state.get('status')}" if "slot" in state else None,
        "heap left": None if live is None else f"{(HEAP_LEN - live) / _KB:.1f} KB",
        "in use": None if live is None else f"{live / _KB:.1f} KB",
        "start": f"{facts.start_s:.1f} s" if facts.start_s is not None else None,
        "save to run": f"{facts.edit_s:.1f} s" if facts.edit_s is not None else None,
    }
    table = Table.grid(padding=(0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for name, value in rows.items():
        table.add_row(name, Text("–" if value is None else printable(value)))
    return table


def _problem(facts: Facts) -> Text:
    """What is being typed, or went wrong last."""
    if facts.typed is None:
        return Text(facts.problem or " ", "bold red", overflow="fold")  # a layout needs something
    text = Text(f"command: {facts.typed}▏", "bold", overflow="fold")
    return text.append('   name {"argument": 1}', "dim")


def _keys() -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    for key, name in KEYS.items():
        text.append(f" {key} ", "reverse").append(f" {name} ")
    return text
