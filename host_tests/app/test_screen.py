"""The screen of `signet dev`: what is on it at 80 × 24, whatever a board says."""

import io

import pytest
from rich.console import Console

from signet.app.facts import MEMORY_ID, Facts
from signet.app.screen import render, sparkline

HOSTILE = "\x1b[2J\u202e[red]\r\n"
HEAP = {"free": None, "live": 100 * 1024}


def draw(facts: Facts, width: int = 80, height: int = 24) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO(), record=True)
    console.print(render(facts, width, height))
    return console.export_text().splitlines()[:height]


@pytest.fixture
def facts() -> Facts:
    """A board that has run for a while."""
    facts = Facts("kettle", powered=True, start_s=0.42, edit_s=1.16)
    for number in range(100):
        facts.take_report("telemetry", {"level": number % 8, "mode": "heating"})
        facts.take_line(f"line {number}")
    facts.take_line("signet: connected to 127.0.0.1")
    state = {"online": True, "version": "1.0.0", "slot": "b", "status": "confirmed"}
    facts.take_report("state", state)
    facts.take_report("event", {"event": "boot", "cause": 1})
    facts.take_report("event", {"event": "command", "id": 7, "ok": True, "result": [1]})
    facts.take_report("event", {"event": "command", "id": MEMORY_ID, "ok": True, "result": HEAP})
    return facts


def test_all_is_on_80_columns_and_24_lines(facts):
    lines = draw(facts)
    assert len(lines) == 24
    assert {len(line) for line in lines} == {80}
    shown = "\n".join(lines)
    for expected in (
        " kettle  connected", "level ", "▁▂▃▄▅▆▇█", "heating", "version     1.0.0", "b, confirmed",
        "heap left   54.0 KB", "in use      100.0 KB", "start       0.4 s", "save to run 1.2 s",
        "boot cause=1", "command: [1]", "line 99", "signet: connected to", " p  power  r  reset",
    ):  # fmt: skip
        assert expected in shown, shown
    assert MEMORY_ID not in shown


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 50), (60, 20)])
def test_what_a_board_says_is_text_and_stays_in_its_place(facts, width, height):
    facts.take_line(HOSTILE + "x" * 500)
    for _ in range(50):
        facts.take_report("event", {"event": HOSTILE, HOSTILE: [HOSTILE] * 50})
    for number in range(50):
        facts.take_report("telemetry", {f"{HOSTILE}{number}": HOSTILE, "level": 1e300})
    facts.take_report("state", {"online": True, "version": HOSTILE, "slot": HOSTILE})
    facts.problem = "app.py: does not compile " * 20
    lines = draw(facts, width, height)
    assert len(lines) == height
    assert max(map(len, lines)) <= width
    assert all(line.isprintable() for line in lines)
    assert " p  power" in lines[-1]


STANDINGS = {
    "off": ({"powered": False}, "no power"),
    "starting": ({"connected": False}, "starting"),
    "no network": ({"connected": False, "network": False}, "no network"),
    "at work": ({"doing": "building"}, "connected · building"),
    "a problem": ({"problem": "app.py: line 2"}, "app.py: line 2"),
    "typing": ({"typed": "greet"}, "command: greet▏"),
}


@pytest.mark.parametrize(("changes", "expected"), STANDINGS.values(), ids=STANDINGS)
def test_how_it_stands_is_said(facts, changes, expected):
    for name, value in changes.items():
        setattr(facts, name, value)
    assert expected in "\n".join(draw(facts))


PLOTS = {
    "nothing": ([], ""),
    "all the same": ([5, 5], "▁▁"),
    "up": ([0, 7], "▁█"),
    "in between": ([-1.0, 0.0, 1.0], "▁▅█"),
    "more than fit": (range(100), "▁▁▂▂▃▃▃▄▄▅▅▆▆▆▇▇██"),
}


@pytest.mark.parametrize(("numbers", "bars"), PLOTS.values(), ids=PLOTS)
def test_a_plot_is_between_its_least_and_its_greatest(numbers, bars):
    assert sparkline(numbers) == bars
