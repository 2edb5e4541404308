"""The console of a virtual board, the commands `signet board`, and what is left when they end."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from host_tests.board_helpers import (
    make_board,
    said,
)
from signet.board.virtual import console
from signet.board.virtual.board import VirtualBoard
from signet.board.virtual.cycle import BoardError

SIGNET = (sys.executable, "-m", "signet")
WAIT_S = 60  # reached by what hangs alone


def run_signet(*args: str | Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*SIGNET, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def read_until(program: "subprocess.Popen[str]", text: str) -> str:
    """The program's first line of stdout that contains `text`."""
    for line in program.stdout or ():
        if text in line:
            return line
    pytest.fail(f"{text!r} was not printed; stderr: {program.stderr and program.stderr.read()}")


TICKING = "import time\nfor n in range(10_000): print('tick', n); time.sleep_ms(20)"


def test_run_and_console_commands(tmp_path: Path) -> None:
    folder = make_board(tmp_path / ("long" * 30), main=TICKING).folder
    runner = run_signet("board", "run", folder)
    stamped = read_until(runner, "tick 3")
    assert stamped[10] == "T"
    assert stamped.endswith("Z tick 3\n")
    watchers = [run_signet("board", "console", folder) for _ in range(2)]
    for watcher in watchers:
        assert "tick" in read_until(watcher, "tick")
    with VirtualBoard(folder) as second, pytest.raises(BoardError, match="running already"):
        second.power_on()
    assert (folder / "console.log").stat().st_mode & 0o777 == 0o600
    runner.send_signal(signal.SIGINT)
    assert runner.wait(WAIT_S) == 0
    for watcher in watchers:  # they end with the board
        assert watcher.wait(WAIT_S) == 0
    assert "Z -- power off" in (folder / "console.log").read_text()
    absent = run_signet("board", "console", folder)
    assert absent.wait(WAIT_S) == 2
    assert "the board is not running" in absent.communicate()[1]


def test_run_says_why_the_board_stopped(tmp_path: Path) -> None:
    runner = run_signet("board", "run", make_board(tmp_path, main="print('hello')").folder)
    out, err = runner.communicate(timeout=WAIT_S)
    assert "Z hello\n" in out
    assert err == "signet: error: the board stopped: fell to the REPL\n"
    assert runner.returncode == 2


def test_run_ends_when_nobody_reads_it(tmp_path: Path) -> None:
    runner = run_signet("board", "run", make_board(tmp_path, main=TICKING).folder)
    read_until(runner, "tick 1")
    if runner.stdout:
        runner.stdout.close()
    assert runner.wait(WAIT_S) == 2
    assert "Traceback" not in runner.communicate()[1]
    assert find_interpreters(tmp_path) == []


def test_run_without_a_flash_file(tmp_path: Path) -> None:
    runner = run_signet("board", "run", tmp_path)
    _, err = runner.communicate(timeout=WAIT_S)
    assert "flash.bin: No such file or directory" in err
    assert runner.returncode == 2
    assert list(tmp_path.iterdir()) == []


def find_interpreters(folder: Path) -> list[int]:
    """Process ids of interpreters whose board is in `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.fsencode(folder) in (process / "environ").read_bytes():
                found.append(int(process.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_no_board_lives_on_when_its_host_is_killed(tmp_path: Path) -> None:
    silent = "import time\nprint('tick')\nwhile True: time.sleep_ms(50)"  # no broken pipe to notice
    runner = run_signet("board", "run", make_board(tmp_path, main=silent).folder)
    read_until(runner, "tick")
    assert len(find_interpreters(tmp_path)) == 1
    runner.kill()
    runner.wait(WAIT_S)
    deadline = time.monotonic() + WAIT_S
    while find_interpreters(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert find_interpreters(tmp_path) == []
    with VirtualBoard(tmp_path) as board:  # and what it left behind is in nobody's way
        board.power_on()
        board.wait_for_line("tick")


def test_a_watcher_that_does_not_read_holds_nothing_up(tmp_path: Path) -> None:
    main = "for n in range(3000): print('x' * 200)\nprint('through')"
    with make_board(tmp_path, main=main) as board:
        board.power_on()
        with contextlib.closing(console.watch(tmp_path)) as watcher:
            next(watcher)
            board.wait_until_stopped()
    assert len(said(board)) == 3001


def test_waiting_ends_in_an_error_that_shows_the_console(tmp_path: Path) -> None:
    with make_board(tmp_path, main=TICKING) as board:
        board.power_on()
        with pytest.raises(BoardError, match=r"within 0\.3 s\n(.*\n)*  \| tick"):
            board.wait_for_line("never", timeout_s=0.3)
        after = board.wait_for_line("tick 5")
        assert "tick 6" in board.lines[board.wait_for_line("tick", start=after) - 1]
    with pytest.raises(BoardError, match="the board stopped: power off"):
        board.wait_for_line("never")
