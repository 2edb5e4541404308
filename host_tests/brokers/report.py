"""The table of what works with which broker, in Markdown of 80 columns."""

import textwrap
from typing import NamedTuple

from host_tests.brokers.run import DEVIATES, FAILED, NO, UNTESTED, WORKS, Outcome

_WIDTH = 80
_MEANING = (
    f"`{WORKS}`: as the standard says; `{NO}`: the broker says that it does not do this; "
    f"`{DEVIATES}`: the broker does otherwise than the standard says; `{FAILED}`: neither, so "
    f"probably our client; `{UNTESTED}`: not tried, for it is not set up here."
)


class Column(NamedTuple):
    """The outcomes of one broker with one version of MQTT (4 is 3.1.1)."""

    broker: str
    version: int
    outcomes: list[Outcome]


def render(columns: list[Column], versions: dict[str, str], missing: dict[str, str]) -> str:
    """versions: of the brokers; missing: those that this machine cannot have, and why."""
    brokers = ", ".join(f"{name} {version}" for name, version in versions.items())
    parts = [_wrap(f"With {brokers}, over mutual TLS. {_MEANING}")]
    parts += [_wrap(f"**{name} is missing:** {why}") for name, why in missing.items()]
    notes: list[str] = []
    for version, title in ((4, "MQTT 3.1.1"), (5, "MQTT 5")):
        of_version = [column for column in columns if column.version == version]
        if of_version:
            parts.append(_table(title, of_version, notes))
    listed = (_wrap(f"{number}. {text}", "   ") for number, text in enumerate(notes, 1))
    return "\n\n".join([*parts, "\n".join(listed)]).rstrip() + "\n"


def _wrap(text: str, indent: str = "") -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def _table(title: str, columns: list[Column], notes: list[str]) -> str:
    names = list(dict.fromkeys(each.case for column in columns for each in column.outcomes))
    rows = [[title, *(column.broker for column in columns)]]
    for name in names:
        cells = (_cell(_find(column, name), notes) for column in columns)
        rows.append([name, *cells])
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(widths[at]) for at, cell in enumerate(row)) + " |"
        for row in rows
    )


def _find(column: Column, name: str) -> Outcome | None:
    return next((each for each in column.outcomes if each.case == name), None)


def _cell(outcome: Outcome | None, notes: list[str]) -> str:
    if outcome is None:
        return ""
    if not outcome.text:
        return outcome.verdict
    if outcome.text not in notes:
        notes.append(outcome.text)
    return f"{outcome.verdict} ({notes.index(outcome.text) + 1})"
