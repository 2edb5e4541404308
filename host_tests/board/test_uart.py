"""The UART of a virtual board: where Ctrl-C comes up, where it waits, what it cannot tear."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from host_tests.board_helpers import make_board, read_partition, said
from signet.board.virtual.board import VirtualBoard

LISTEN = (
    "import socket\ns = socket.socket()\n"
    "s.bind(socket.getaddrinfo('127.0.0.1', 0)[0][-1]); s.listen(1)\n"
)
WAITS = {
    "bytecode": "while True: pass",
    "sleep": "time.sleep(60)",
    "sleep_ms": "time.sleep_ms(60_000)",
    "event loop": "async def wait(): await asyncio.sleep(60)\nasyncio.run(wait())",
    "socket": LISTEN + "print('waits')\ns.accept()",
    "poll": LISTEN + "import select\np = select.poll(); p.register(s, 1)\nprint('waits')\np.poll()",
    # It comes before the wait begins: no signal will end that one.
    "soon": LISTEN + "print('waits')\npow(3, 1 << 3000, (1 << 3000) + 1)\ns.accept()",
    "stdin": "import sys\nsys.stdin.read(1)",
}


def run_typing(folder: Path, main: str, type_at: Callable[[VirtualBoard], None]) -> list[str]:
    """Run main.py to the REPL, and type when it says that it waits; what it printed."""
    with make_board(folder, main="import asyncio, micropython, time\n" + main) as board:
        board.power_on()
        board.wait_for_line("waits")
        type_at(board)
        board.wait_until_stopped()
    return said(board)


@pytest.mark.parametrize("code", WAITS.values(), ids=WAITS.keys())
def test_ctrl_c_comes_up_wherever_the_code_is(tmp_path: Path, code: str) -> None:
    main = code if "waits" in code else f"print('waits')\n{code}"
    printed = run_typing(tmp_path, main, lambda board: print(board.type(b"\x03")))
    assert printed[-1] == "KeyboardInterrupt: "


def test_what_is_no_interrupt_waits_in_stdin_which_holds_259_bytes(tmp_path: Path) -> None:
    main = (
        "import select, sys\nmicropython.kbd_intr(-1)\n"
        "p = select.poll(); p.register(sys.stdin, 1); got = b''\n"
        "print('waits')\np.poll()\ntime.sleep(1)\n"  # the first byte is in, the rest on its way
        "while p.poll(50): got += sys.stdin.buffer.read(1)\n"
        "print(len(got), got == bytes(n % 256 for n in range(259)))"
    )
    printed = run_typing(tmp_path, main, lambda board: print(board.type(bytes(range(256)) * 3)))
    assert printed[-1] == "259 True"


def test_off_means_off_and_an_earlier_one_comes_up_later(tmp_path: Path) -> None:
    main = (
        "def later():\n"
        " print('waits')\n"
        " pow(3, 1 << 3000, (1 << 3000) + 1)\n"  # C code, without a check
        " micropython.kbd_intr(-1)\n"
        " print('off')\n"
        " try:\n  while True: pass\n"
        " except KeyboardInterrupt: print('came up')\n"
        "later()\ntime.sleep(0.5)\nprint('left alone')"
    )
    printed = run_typing(tmp_path, main, lambda board: print(board.type(b"\x03")))
    assert printed == ["waits", "off", "came up", "left alone"]


def test_each_script_arms_it_again(tmp_path: Path) -> None:
    boot = "import micropython\nmicropython.kbd_intr(-1)"
    with make_board(tmp_path, boot=boot, main="print('waits')\nwhile True: pass") as board:
        board.power_on()
        board.wait_for_line("waits")
        board.type(b"\x03")
        board.wait_until_stopped()
    assert said(board)[-1] == "KeyboardInterrupt: "


def test_an_interrupt_does_not_tear_a_flash_operation(tmp_path: Path) -> None:
    """On the chip they are C code: done, and then the exception. littlefs relies on it, too."""
    main = (
        "from esp32 import Partition\nslot = Partition('slot_a')\n"
        "hits = n = 0\ndone = False\nprint('waits')\n"
        "def work():\n"
        " global n, done\n"
        " while n < 60 or hits < 11:\n"
        "  n += 1\n  block = (n - 1) % 60 + 1\n"
        "  slot.writeblocks(block, bytes((block,)) * 4096)\n"
        "  with open('file', 'w') as file: file.write('x' * 3000)\n"
        " micropython.kbd_intr(-1)\n done = True\n"  # here, where guards are all around
        "def guard(depth):\n"  # one that comes up in a handler is the next guard's
        " global hits\n"
        " while not done:\n"
        "  try: guard(depth - 1) if depth else work()\n"
        "  except KeyboardInterrupt: hits += 1\n"
        "guard(5)\nprint(hits > 10)\n"
        "with open('file') as file: print(len(file.read()) in (0, 3000))"
    )

    def hammer(board: VirtualBoard) -> None:
        while board.running and len(board.lines) == 1:
            board.type(b"\x03")
            time.sleep(0.001)

    assert run_typing(tmp_path, main, hammer) == ["waits", "True", "True"]
    with make_board(tmp_path / "look") as board:
        (board.folder / "flash.bin").write_bytes((tmp_path / "flash.bin").read_bytes())
        slot = read_partition(board, "slot_a")
    for n in range(1, 61):
        assert slot[n * 4096 : (n + 1) * 4096] in (bytes([n]) * 4096, b"\xff" * 4096), n


def test_a_board_that_is_off_hears_nothing(tmp_path: Path) -> None:
    board = make_board(tmp_path)
    assert board.type(b"\x03") == 0
    board.power_on()
    board.wait_until_stopped()
    board.power_off()
    assert board.type(b"\x03") == 0
