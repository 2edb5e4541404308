"""The virtual board: real MicroPython under the shims, restarted by the host."""

import time
from pathlib import Path

import pytest

from host_tests.board_helpers import (
    SECOND,
    exits,
    make_board,
    read_partition,
    run_board,
    said,
)
from signet.board.virtual.board import VirtualBoard
from signet.board.virtual.cycle import BoardError, Cause, Exit, Wake, exit_of
from signet.formats import filesystem

# The start, as main.c and _boot.py do it.


def test_scripts_find_what_they_find_on_the_chip(tmp_path: Path) -> None:
    board = run_board(
        tmp_path,
        boot="import sys\n"
        "print(sys.path, sys.argv)\n"
        "print(sorted(dir()), __name__)\n"
        "print(sorted(sys.modules))\n"
        "import os\n"
        "print(sorted(os.listdir('/')), os.getcwd())\n"
        "import gc\n"
        "print(gc.mem_alloc() + gc.mem_free() < 77 * 1024 * 2)\n"
        "shared = 'seen by main'\n",
        main="print(shared, __file__)\nimport boot_helper\n",
    )
    assert said(board)[:-4] == [
        "['', '.frozen', '/lib'] []",
        "['__file__', '__name__', 'sys'] __main__",
        "['esp32', 'machine', 'network', 'time']",
        "['boot.py', 'main.py'] /",
        "True",
        "seen by main main.py",
    ]
    assert said(board)[-1] == "ImportError: no module named 'boot_helper'"
    assert board.stopped == "fell to the REPL"
    assert exits(board) == [(Cause.POWER_ON, Exit.REPL)]


def test_an_exception_in_boot_skips_main(tmp_path: Path) -> None:
    board = run_board(tmp_path, boot="raise KeyboardInterrupt", main="print('main ran')")
    assert said(board)[-1] == "KeyboardInterrupt: "


@pytest.mark.parametrize("boot", ["", "print('boot ran')", "def broken(:"])
def test_what_runs_without_or_with_a_broken_boot(tmp_path: Path, boot: str) -> None:
    board = run_board(tmp_path, boot=boot, main="print('main ran')")
    assert ("main ran" in board.lines) == (":" not in boot)
    assert ("SyntaxError: invalid syntax" in board.lines) == (":" in boot)


def test_an_erased_vfs_is_formatted_and_ends_in_the_repl(tmp_path: Path) -> None:
    board = run_board(tmp_path, main="print('gone')", vfs=b"")
    assert said(board) == ["Performing initial setup"]
    assert list(filesystem.list_files(read_partition(board, "vfs"))) == ["/boot.py"]


def test_a_corrupt_vfs_stops_the_boot_and_is_left_alone(tmp_path: Path) -> None:
    with make_board(tmp_path, main="print('gone')", vfs=b"garbage") as board:
        before = read_partition(board, "vfs")
        board.power_on()
        board.wait_for_line("The filesystem appears to be corrupted.")
        assert board.running
    assert "gone" not in board.lines
    assert read_partition(board, "vfs") == before


def test_no_bootable_app_is_said(tmp_path: Path) -> None:
    with make_board(tmp_path, main="print('ran')", ota_0=b"") as board:
        board.power_on()
        assert "no bootable app: ota_0: magic" in board.wait_until_stopped()
    assert board.boots == []
    assert "no bootable app" in (tmp_path / "console.log").read_text()


# Resets. Each main.py does its thing on the first boot and tells the cause on the second.

RESETS = {
    "reset": ("machine.reset()", Exit.RESET, Cause.HARD),
    "reset is not to be caught": (
        "try:\n  try: machine.reset()\n  finally: print('finally')\n"
        " except BaseException: print('caught')", Exit.RESET, Cause.HARD),
    "watchdog in a busy loop": (
        "machine.WDT(timeout=150)\n while True: pass", Exit.WATCHDOG, Cause.WATCHDOG),
    "watchdog in a sleep": (
        "machine.WDT(timeout=150)\n time.sleep(20)", Exit.WATCHDOG, Cause.WATCHDOG),
    "watchdog reconfigured": (
        "machine.WDT(timeout=20_000); machine.WDT(0, 150)\n while True: pass",
        Exit.WATCHDOG, Cause.WATCHDOG),
    "watchdog in the REPL": ("machine.WDT(timeout=150)", Exit.REPL, Cause.WATCHDOG),
    "soft reset": ("machine.soft_reset()", Exit.SOFT_RESET, Cause.SOFT),
    "sys.exit": ("raise SystemExit(3)", Exit.SOFT_RESET, Cause.SOFT),
    "deep sleep": ("machine.deepsleep(10)", Exit.DEEP_SLEEP, Cause.DEEP_SLEEP),
    "writing over the running app": (
        "import esp32; esp32.Partition('ota_0').ioctl(6, 0)", Exit.RESET, Cause.HARD),
}  # fmt: skip


@pytest.mark.parametrize("case", RESETS.values(), ids=RESETS.keys())
def test_reset(tmp_path: Path, case: tuple[str, Exit, Cause]) -> None:
    code, exit_, cause = case
    board = run_board(tmp_path, main=SECOND + " " + code)
    assert exits(board) == [(Cause.POWER_ON, exit_), (cause, Exit.REPL)]
    assert said(board)[-1] == f"cause {cause.value}"
    assert not {"finally", "caught"} & set(board.lines)


def test_a_soft_reset_can_be_caught(tmp_path: Path) -> None:
    board = run_board(
        tmp_path,
        main="import machine\ntry: machine.soft_reset()\nexcept SystemExit: print('caught')",
    )
    assert said(board) == ["caught"]


def test_a_fed_watchdog_lets_the_board_live(tmp_path: Path) -> None:
    board = run_board(
        tmp_path,
        main=SECOND
        + " watchdog = machine.WDT(timeout=2000)\n for _ in range(5):\n"
        + "  time.sleep_ms(500); watchdog.feed()\n print('lived')\n while True: pass",
    )
    assert "lived" in board.lines
    assert exits(board) == [(Cause.POWER_ON, Exit.WATCHDOG), (Cause.WATCHDOG, Exit.REPL)]
    assert board.boots[0].duration_s > 4.4


def test_a_watchdog_survives_a_soft_reset(tmp_path: Path) -> None:
    board = run_board(
        tmp_path,
        main="import machine\n"
        "if machine.reset_cause() == 1: machine.WDT(timeout=300); machine.soft_reset()\n"
        "while machine.reset_cause() == 5: pass\n",
    )
    assert exits(board) == [
        (Cause.POWER_ON, Exit.SOFT_RESET),
        (Cause.SOFT, Exit.WATCHDOG),
        (Cause.WATCHDOG, Exit.REPL),
    ]
    assert board.boots[0].duration_s + board.boots[1].duration_s > 0.2


def test_deep_sleep_lasts_and_power_ends_it(tmp_path: Path) -> None:
    with make_board(tmp_path, main=SECOND + " machine.deepsleep()") as board:
        board.power_on()
        board.wait_for(lambda board: board.boots and board.boots[-1].exit == Exit.DEEP_SLEEP)
        time.sleep(0.3)
        assert board.running
        assert len(board.boots) == 1
    assert not board.running


SLEEPER = (  # for main.py: sleeps for an hour, four times, and tells what it wakes to
    "import machine, time\n"
    "rtc = machine.RTC()\n"
    "count = len(rtc.memory())\n"
    "print(machine.reset_cause(), machine.wake_reason(), time.time() // 3600, rtc.memory())\n"
    "rtc.memory(b'x' * (count + 1))\n"
    "if count < 4: machine.deepsleep(3_600_000)\n"
)


def test_the_host_ends_a_sleep_by_the_timer_or_by_a_pin(tmp_path: Path) -> None:
    with make_board(tmp_path, main=SLEEPER) as board:
        board.power_on()
        for reason in (Wake.TIMER, Wake.PIN, Wake.TIMER, Wake.PIN):
            board.wait_for(lambda board: board.asleep)
            board.wake(reason)
        board.wait_until_stopped()
        with pytest.raises(BoardError, match="not asleep"):
            board.wake()
    # Hours pass with the timer alone: a pin wakes it at once.
    assert said(board) == [
        "1 0 0 b''", "4 4 1 b'x'", "4 2 1 b'xx'", "4 4 2 b'xxx'", "4 2 2 b'xxxx'",
    ]  # fmt: skip
    assert [boot.wake for boot in board.boots] == [0, Wake.TIMER, Wake.PIN, Wake.TIMER, Wake.PIN]


def test_sleeps_are_skipped_but_not_by_the_clock(tmp_path: Path) -> None:
    with make_board(tmp_path, main=SLEEPER) as board:
        board.power_on(skip_sleeps=True)
        board.wait_until_stopped()
    assert said(board)[0] == "1 0 0 b''"
    assert said(board)[1:] == [f"4 4 {n} b'{'x' * n}'" for n in range(1, 5)]


def test_power_that_goes_in_a_sleep_takes_the_memory_with_it(tmp_path: Path) -> None:
    with make_board(tmp_path, main=SLEEPER) as board:
        for _ in range(2):
            board.power_on()
            board.wait_for(lambda board: board.asleep)
            assert board.lines == ["1 0 0 b''"]


@pytest.mark.parametrize("shell_stays", [False, True])
def test_the_exit_is_seen_through_a_wrapper(
    tmp_path: Path, micropython: Path, shell_stays: bool
) -> None:
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(
        f'#!/bin/sh\n{"" if shell_stays else "exec "}"{micropython}" "$@"\nexit $?\n'
    )
    wrapper.chmod(0o755)
    made = make_board(tmp_path / "board", main=SECOND + " machine.WDT(timeout=100)\n while 1: pass")
    with VirtualBoard(made.folder, wrapper) as board:
        board.power_on()
        board.wait_until_stopped()
        assert exits(board) == [(Cause.POWER_ON, Exit.WATCHDOG), (Cause.WATCHDOG, Exit.REPL)]


@pytest.mark.parametrize(
    ("status", "exit_"),
    [(64, Exit.RESET), (68, Exit.SOFT_RESET), (-14, Exit.WATCHDOG), (142, Exit.WATCHDOG),
     (-11, Exit.PANIC), (139, Exit.PANIC)],
)  # fmt: skip
def test_exit_statuses(status: int, exit_: Exit) -> None:
    assert exit_of(status) == exit_


def test_a_start_that_fails_is_an_error_and_no_reset_loop(tmp_path: Path) -> None:
    made = make_board(tmp_path)
    with VirtualBoard(made.folder, heap="4K") as board:
        board.power_on()
        assert "did not start (exit code 1)" in board.wait_until_stopped()
    assert len(board.boots) == 1


# Clock and RTC memory.

CLOCK = (
    "import machine, time\nrtc = machine.RTC()\n"
    "if machine.reset_cause() == 1:\n"
    " print(time.time() < 5, time.gmtime(0), rtc.memory())\n"
    " rtc.datetime((2026, 7, 1, 0, 12, 30, 15, 500_000))\n"
    " rtc.memory(b'kept')\n {how}\n"
    "else: print(time.time(), rtc.datetime()[:6], time.localtime()[3:5], rtc.memory())"
)


@pytest.mark.parametrize(
    "how",
    ["machine.reset()", "machine.soft_reset()", "machine.deepsleep(1)",
     "machine.WDT(timeout=100)\n while True: pass"],
)  # fmt: skip
def test_clock_and_memory_survive_every_reset(tmp_path: Path, how: str) -> None:
    board = run_board(tmp_path, main=CLOCK.replace("{how}", how))
    # 2026-07-01 12:30:15 UTC is Unix 1782909015, less 946684800.
    assert said(board)[0] == "True (2000, 1, 1, 0, 0, 0, 5, 1) b''"
    seconds, rest = said(board)[-1].split(" ", 1)
    assert 0 <= int(seconds) - 836224215 < 45  # a boot; the minute is looked at below
    assert rest == "(2026, 7, 1, 2, 12, 30) (12, 30) b'kept'"


def test_clock_and_memory_do_not_survive_the_power(tmp_path: Path) -> None:
    with make_board(tmp_path, main=CLOCK.replace("{how}", "pass")) as board:
        for _ in range(2):
            board.power_on()
            board.wait_until_stopped()
            assert said(board) == ["True (2000, 1, 1, 0, 0, 0, 5, 1) b''"]


def test_time_is_that_of_the_port(tmp_path: Path) -> None:
    board = run_board(
        tmp_path,
        main="import time, machine\n"
        "print(time.gmtime(836224215), time.mktime((2026, 7, 1, 12, 30, 15, 0, 0)))\n"
        "print(time.localtime(0) == time.gmtime(0), type(time.time()), time.time_ns() < 5e9)\n"
        "start = time.ticks_ms(); time.sleep_ms(30)\n"
        "print(25 <= time.ticks_diff(time.ticks_ms(), start) < 1000)\n"
        "try: machine.RTC().memory(bytes(2049))\n"
        "except ValueError as error: print(error)\n"
        "machine.RTC().memory(bytes(2048)); print(len(machine.RTC().memory()))\n"
        "print(len(machine.unique_id()))",
    )
    assert said(board) == [
        "(2026, 7, 1, 12, 30, 15, 2, 182) 836224215",
        "True <class 'int'> True",
        "True",
        "buffer too long",
        "2048",
        "6",
    ]


def test_the_callers_environment_stays_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("MICROPYPATH", str(tmp_path))
    (tmp_path / "asyncio.py").write_text("print('not of the board')")
    board = run_board(tmp_path / "board", main="import asyncio, time; print(time.localtime(0)[3])")
    assert said(board) == ["0"]


# Radio and heap.


def test_the_host_takes_the_link_down_and_up(tmp_path: Path) -> None:
    main = (
        "import network, time\nw = network.WLAN(network.STA_IF)\n"
        "print(w.active(), w.isconnected(), w.status())\n"
        "try: w.connect('here', 'key')\nexcept OSError as error: print(error)\n"
        "w.active(True); w.connect('here', 'key')\n"
        "print(w.isconnected(), w.status() == network.STAT_CONNECTING, w.ifconfig()[0])\n"
        "while not w.isconnected(): time.sleep_ms(5)\n"
        "print(w.isconnected(), w.status() == network.STAT_GOT_IP, w.ifconfig()[0])\n"
        "print(w.config('ssid'), len(w.config('mac')), w.status('rssi') < 0)\n"
        "while w.isconnected(): time.sleep_ms(5)\n"
        "print('down', w.status() == network.STAT_NO_AP_FOUND, w.ifconfig()[0])\n"
        "while not w.isconnected(): time.sleep_ms(5)\n"
        "w.disconnect()\nprint('up', w.isconnected(), w.status() == network.STAT_IDLE)\n"
        "network.hostname('dev-0001'); print(network.hostname())\n"
    )
    with make_board(tmp_path, main=main) as board:
        board.power_on()
        board.wait_for_line("here 6 True")
        board.set_link(False)
        board.wait_for_line("down")
        board.set_link(True)
        board.wait_until_stopped()
    assert said(board) == [
        "False False 1000", "Wifi Not Started", "False True 0.0.0.0",
        "True True 127.0.0.1", "here 6 True",
        "down True 0.0.0.0", "up False True", "dev-0001",
    ]  # fmt: skip


SHIMS_LIMIT = 30_000  # bytes of 64-bit heap; they take about 29,000


def test_the_heap_is_measured_from_outside(tmp_path: Path) -> None:
    main = (
        "import asyncio\nfrom esp32 import Partition\n"
        "kept = bytes(20_000)\nPartition('slot_a').writeblocks(0, b'x' * 4096)\n"
        "async def idle():\n while True: await asyncio.sleep_ms(20)\n"
        "asyncio.run(idle())"
    )
    with make_board(tmp_path, main=main) as board:
        board.power_on(record_heap=True)
        idle = board.measure_heap()
        again = board.measure_heap()
        samples = board.heap_samples()
        (names, _), (more_names, largest), _ = board.heap_details()
    assert [when for when, _ in samples] == ["boot", "op", "asked", "asked"]
    shims = samples[0][1]
    assert 10_000 < shims < SHIMS_LIMIT
    assert samples[1][1] > shims + 24_000
    assert 20_000 < idle - shims < 60_000
    assert abs(again - idle) < 1000
    assert 3 <= more_names - names < 10  # kept, idle, asked for: none of them in MicroPython
    assert 30_000 < largest < 77 * 2048 - idle
    assert not any("max free" in line for line in board.lines)
