"""The console of a production board on a stock build: shut, whatever is typed and raised.

Stage 1 is the real one. The mutants show that the tests can fail: stage 1 without each of the
lines that keep the board from the REPL.
"""

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from host_tests.board_helpers import exits, make_board
from host_tests.trust.console_helpers import (
    BOOT,
    MAIN,
    NOTHING,
    PAUSE,
    board_from,
    fell,
    finished,
    hammer,
    pack_vfs,
    provision,
)
from signet.board.virtual.board import VirtualBoard
from signet.board.virtual.cycle import Cause, Exit

pytest_plugins = ["host_tests.tool_fixtures"]

# An agent that goes through what agents do: bytecode, a wait in C, an event loop.
AGENT = """\
import asyncio, machine, time
async def work():
    for _ in range(5):
        await asyncio.sleep_ms(2)
def run(boot, watchdog):
    for _ in range(3000):
        pass
    time.sleep_ms(5)
    asyncio.run(work())
    print("agent: done")
    machine.reset()
"""


@pytest.fixture(scope="module")
def quick(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flash of a board whose agent is done after some 20 ms."""
    return provision(tmp_path_factory.mktemp("quick"), keys, agent=AGENT)


class Flood(NamedTuple):
    """What came of it: boots that ended by themselves, those in which the agent got through."""

    boots: int
    through: int
    exits: set[Exit | None]
    fell: bool


def flood(
    folder: Path,
    flash: Path,
    count: int,
    boots: int,
    changed: Mapping[str, str | None] = NOTHING,
    pause_s: float = 0,
) -> Flood:
    """Hammer `count` boards for `boots` boots each."""
    boards = [board_from(flash, folder / str(n), changed) for n in range(count)]
    hammer(boards, boots, pause_s)
    ended = [exit_ for board in boards for exit_ in finished(board)]
    through = sum(line == "agent: done" for board in boards for line in board.lines)
    result = Flood(len(ended), through, set(ended), any(map(fell, boards)))
    print(result)
    return result


def change(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


# What is typed.


@pytest.mark.parametrize("pause_s", [0.03, 0])
def test_nothing_typed_opens_the_console_or_gets_at_the_agent(
    tmp_path: Path, quick: Path, pause_s: float
) -> None:
    result = flood(tmp_path, quick, count=4, boots=40, pause_s=pause_s)
    assert result.boots >= 160
    assert result.exits == {Exit.RESET}
    assert not result.fell
    # One that comes between arming and the first statement costs a boot; it is microseconds long.
    assert result.through > 0.7 * result.boots


def test_a_key_before_the_first_statement_costs_a_boot_and_no_more(
    tmp_path: Path, quick: Path
) -> None:
    result = flood(tmp_path, quick, count=8, boots=10, changed={"boot.py": PAUSE + BOOT})
    assert result.exits == {Exit.RESET}
    assert not result.fell
    assert result.through < 0.9 * result.boots  # else it was not tested


def test_without_kbd_intr_no_agent_gets_through(tmp_path: Path, quick: Path) -> None:
    boot = change(BOOT, "micropython.kbd_intr(-1)\n", "")
    result = flood(tmp_path, quick, count=4, boots=5, changed={"boot.py": boot})
    assert result.through < 0.9 * result.boots


OPEN: dict[str, dict[str, str | None]] = {
    "no reset at the end": {"boot.py": change(PAUSE + BOOT, "machine.reset()", "pass")},
    # As most projects have it: each script shuts the console, main.py catches all and resets.
    "main.py apart": {
        "boot.py": PAUSE + "import micropython\nmicropython.kbd_intr(-1)\n",
        "main.py": BOOT.replace("main", "stage1"),
        "stage1.py": MAIN,
    },
    "no try": {
        "boot.py": PAUSE
        + "import micropython\nmicropython.kbd_intr(-1)\nimport main\nmain.run()\nimport machine\n"
        + "machine.reset()\n",
    },
}


@pytest.mark.parametrize("changed", OPEN.values(), ids=OPEN.keys())
def test_a_stage_1_with_a_gap_falls_to_the_repl(
    tmp_path: Path, quick: Path, changed: dict[str, str | None]
) -> None:
    assert flood(tmp_path, quick, count=1, boots=5, changed=changed).fell


# What is raised: (statement, what the note for the next boot begins with).

RAISED = {
    "raise KeyboardInterrupt": "KeyboardInterrupt",
    "raise SystemExit": "SystemExit",
    "machine.soft_reset()": "SystemExit",
    "raise GeneratorExit": "GeneratorExit",
    "raise asyncio.CancelledError": "CancelledError",
    "raise MemoryError('none left')": "MemoryError: none left",
    "bytes(1 << 30)": "MemoryError",
    "deep()": "RuntimeError: maximum recursion",
    "import nowhere": "ImportError",
    "raise Exception(b'\\xff' * 300)": "Exception",
}
# A module that raises the next of them at each boot, and says what the one before left behind.
THROW = f"""
import asyncio, machine
def throw():
    try:
        with open("/count") as file: n = int(file.read())
    except OSError: n = 0
    with open("/count", "w") as file: file.write(str(n + 1))
    print("case", n, machine.RTC().memory())
    if n < {len(RAISED)}: exec({tuple(RAISED)!r}[n])
    while True: pass
def deep(): deep()
"""
IN_AGENT = THROW + "def run(boot, watchdog): throw()\n"
IN_TASK = THROW + (
    "import asyncio\nasync def work(): throw()\nasync def all():\n"
    " task = asyncio.create_task(work())\n await asyncio.sleep_ms(50)\n await task\n"
    "def run(boot, watchdog): asyncio.run(all())\n"
)
IN_APP = THROW + "async def run(device): throw()\n"
SELECT = "\ndef select(*_): throw()\n"


@pytest.fixture(scope="module")
def throwing(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Flash of boards that raise in the agent's import, its `run`, a task, the application."""
    slots = {
        "import": {"agent": THROW + "throw()\n"},
        "run": {"agent": IN_AGENT},
        "task": {"agent": IN_TASK},
        "app": {"app": IN_APP},
    }
    return {
        name: provision(tmp_path_factory.mktemp(name), keys, **files)
        for name, files in slots.items()
    }


def boot_each(boards: dict[str, VirtualBoard]) -> None:
    """Run boards until each has raised everything."""
    for board in boards.values():
        board.power_on()
    for board in boards.values():
        board.wait_for(lambda board: len(finished(board)) >= len(RAISED) or not board.running, 120)
    for board in boards.values():
        board.power_off()


def notes(board: VirtualBoard) -> list[str]:
    """What each case left in RTC memory for the boot after it."""
    found = re.findall(r"^case \d+ (b.*)$", "\n".join(board.lines), re.MULTILINE)
    return [ast.literal_eval(text).decode().lstrip("0123456789 ") for text in found[1:]]


def test_nothing_raised_anywhere_opens_the_console(
    tmp_path: Path, quick: Path, throwing: dict[str, Path]
) -> None:
    vfs: dict[str, dict[str, str | None]] = {
        "boot.py's import": {"main.py": THROW + "throw()\n" + MAIN},
        "main.py's import": {"romfs.py": THROW + "throw()\n"},  # shadows lib/romfs
        "main.run": {"stage1.romfs/trust/boot.mpy": THROW + SELECT},
    }
    boards = {
        place: board_from(quick, tmp_path / str(n), files)
        for n, (place, files) in enumerate(vfs.items())
    }
    for slot, flash in throwing.items():
        boards[slot] = board_from(flash, tmp_path / slot)
    boot_each(boards)
    for place, board in boards.items():
        assert not fell(board), place
        assert set(finished(board)) == {Exit.RESET}, place
    for place in ("main.run", "import", "run", "task"):
        left = notes(boards[place])
        assert len(left) >= len(RAISED) - 1, place
        for note, expected in zip(left, RAISED.values(), strict=False):
            assert note.startswith(expected), place


def test_a_heap_that_is_full_does_not_open_the_console(
    tmp_path: Path, keys: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    hog = "hog = None\ndef run(boot, watchdog):\n global hog\n while True: hog = (hog,)\n"
    flash = provision(tmp_path_factory.mktemp("hog"), keys, agent=hog)
    with board_from(flash, tmp_path) as board:
        board.power_on()
        board.wait_for(lambda board: len(finished(board)) >= 3 or not board.running)
    assert any("MemoryError" in line for line in board.lines)
    assert set(finished(board)) == {Exit.RESET}


# What a stock build cannot hold: `vfs` itself. Measured, so that the documents say what is true.


def test_known_limit_a_blank_vfs_ends_in_the_repl(tmp_path: Path) -> None:
    with make_board(tmp_path, vfs=b"") as board:
        board.power_on()
        board.wait_until_stopped()
    assert exits(board) == [(Cause.POWER_ON, Exit.REPL)]


def test_known_limit_a_vfs_that_does_not_mount_stops_the_board_for_good(tmp_path: Path) -> None:
    """_boot.py says so every 3 s, with Ctrl-C off: no REPL, and no restart either."""
    vfs = pack_vfs()
    with make_board(tmp_path, vfs=b"\x5a" * 8192 + vfs[8192:]) as board:
        board.power_on()
        board.wait_for_line("The filesystem appears to be corrupted.")
        for _ in range(50):
            board.type(b"\x03\x03\x01\x04\x05")
        board.wait_for_line("The filesystem appears to be corrupted.", start=len(board.lines))
        assert board.running
        assert len(board.boots) == 1
    assert not fell(board)


DAMAGED: dict[str, dict[str, str | None]] = {
    "no boot.py": {"boot.py": None},
    "boot.py is empty": {"boot.py": "", "main.py": None},
    "boot.py is not Python": {"boot.py": "\x00\x5a damaged("},
}


@pytest.mark.parametrize("changed", DAMAGED.values(), ids=DAMAGED.keys())
def test_known_limit_a_boot_py_that_does_not_run_ends_in_the_repl(
    tmp_path: Path, quick: Path, changed: dict[str, str | None]
) -> None:
    with board_from(quick, tmp_path, changed) as board:
        board.power_on()
        board.wait_until_stopped()
    assert exits(board)[-1][1] == Exit.REPL


@pytest.mark.parametrize(
    "path",
    ["main.py", "lib/romfs/__init__.py", "stage1.romfs", "stage1.romfs/trust/signature.mpy"],
)
def test_any_other_file_that_is_damaged_restarts(tmp_path: Path, quick: Path, path: str) -> None:
    with board_from(quick, tmp_path, {path: "\x00\x5a damaged("}) as board:
        board.power_on()
        board.wait_for(lambda board: len(finished(board)) >= 2 or not board.running)
    assert set(finished(board)) == {Exit.RESET}
