"""The flash of a virtual board: partitions, platform updates, and power cuts at every operation."""

import dataclasses
import itertools
from pathlib import Path

import pytest

from host_tests.board_helpers import (
    BY_LABEL,
    FIRST,
    SEALED,
    SECOND,
    build_app,
    exits,
    make_board,
    power_cuts,
    read_partition,
    run_board,
    said,
)
from signet.board.virtual.board import FlashOp, VirtualBoard
from signet.board.virtual.cycle import Cause, Exit, PowerCut
from signet.formats import esp_image, filesystem, flash, idf

OTADATA = BY_LABEL["otadata"].offset
APP = esp_image.synthetic_app("1.25.0")


# esp32.Partition, as in esp32_partition.c.


def partition_says(folder: Path, *lines: str, **partitions: bytes) -> list[str]:
    """What a main.py of these lines prints; `fails(f, ...)` prints the error that f raises."""
    prelude = (
        "from esp32 import Partition as P\n"
        "def fails(f, *args):\n"
        " try: print('no error', f(*args))\n"
        " except Exception as error: print(type(error).__name__, error.args)\n"
    )
    return said(run_board(folder, prelude + "\n".join(lines), "", **partitions))


def test_partition_lookups(tmp_path: Path) -> None:
    assert partition_says(
        tmp_path,
        "print([p.info()[4] for p in P.find()])",
        "print([p.info()[4] for p in P.find(P.TYPE_DATA, 0x41)])",
        "print(P.find(label='vfs'), P.find(0xff, 0x40))",
        "print(P.find(0x3f, label='esp_secure_cert')[0].info())",
        "print(P.find(type=P.TYPE_DATA, label='slot_b', block_size=8192)[0].ioctl(4, 0))",
        "print(P('vfs').info(), P('ota_1').info()[0])",
        "print(P(P.RUNNING).info()[4], P(P.BOOT).info()[4])",
        "print(P(P.RUNNING).get_next_update().info()[4], P('ota_1').get_next_update().info()[4])",
        "fails(P, 'esp_secure_cert')",
        "fails(P, 7)",
    ) == [
        "['ota_0', 'ota_1']",
        "['slot_a']",
        "[] []",
        "(63, 0, 3211264, 8192, 'esp_secure_cert', False)",
        "32",
        "(1, 129, 3751936, 442368, 'vfs', False) 0",
        "ota_0 ota_0",
        "ota_1 ota_0",
        "OSError (2,)",
        "ValueError ()",
    ]


def test_partition_reads_and_writes(tmp_path: Path) -> None:
    assert partition_says(
        tmp_path,
        "p = P('bootstate'); b = bytearray(4)",
        "print([p.ioctl(op, 0) for op in range(1, 8)])",
        "p.writeblocks(1, b'\\x00' * 4096)",
        "p.writeblocks(1, b'\\xff\\xff', 2)",
        "p.readblocks(1, b); print(b)",
        "p.ioctl(6, 1); p.writeblocks(1, b'\\xf3\\x0f', 1); p.writeblocks(1, b'\\x3f', 1)",
        "p.readblocks(0, b, 4096); print(b)",
        "p.writeblocks(0, b'z' * 8192); p.readblocks(1, b, 4092); print(b)",
    ) == [
        "[0, 0, 0, 2, 4096, 0, None]",
        "bytearray(b'\\x00\\x00\\x00\\x00')",
        "bytearray(b'\\xff3\\x0f\\xff')",
        "bytearray(b'zzzz')",
    ]


INVALID_ARG = "OSError (-258, 'ESP_ERR_INVALID_ARG')"
INVALID_SIZE = "OSError (-260, 'ESP_ERR_INVALID_SIZE')"


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("p.readblocks, 3, bytearray(1)", INVALID_ARG),
        ("p.readblocks, -1, bytearray(1)", INVALID_ARG),
        ("p.readblocks, 1, bytearray(4097)", INVALID_SIZE),
        ("p.readblocks, 2, bytearray(1)", INVALID_SIZE),
        ("p.writeblocks, 1, bytes(8192)", INVALID_SIZE),
        ("p.writeblocks, 0, bytes(100)", INVALID_SIZE),
        ("p.writeblocks, 1, bytes(2), 4095", INVALID_SIZE),
        ("p.ioctl, 6, 2", INVALID_SIZE),
        ("P('bootstate', 8192).ioctl, 6, 0", "no error -22"),
    ],
)
def test_partition_bounds(tmp_path: Path, call: str, error: str) -> None:
    assert partition_says(tmp_path, "p = P('bootstate')", f"fails({call})") == [error]
    assert read_partition(VirtualBoard(tmp_path), "bootstate") == b"\xff" * 8192


def test_the_table_of_a_sealed_build(tmp_path: Path) -> None:
    main = "from esp32 import Partition as P\nprint(P.find(1, label='nvs')[0].info()[2:4])"
    with make_board(tmp_path, main) as board:
        with (board.folder / "flash.bin").open("r+b") as file:
            file.seek(flash.TABLE_OFFSET)
            file.write(b"\xff" * flash.SECTOR_LEN + flash.build_table(SEALED))
        board.power_on()
        board.wait_until_stopped()
    assert said(board) == [str((0xA000, 0x3000))]


def replace_table(board: VirtualBoard, rows: list[flash.Partition]) -> None:
    with (board.folder / "flash.bin").open("r+b") as file:
        file.seek(flash.TABLE_OFFSET)
        file.write(flash.build_table(rows))


def test_a_read_only_partition(tmp_path: Path) -> None:
    main = (
        "from esp32 import Partition\n"
        "for write in (lambda p: p.ioctl(6, 0), lambda p: p.writeblocks(0, b'', 0)):\n"
        " try: write(Partition('bootstate'))\n"
        " except OSError as error: print(error.args)"
    )
    with make_board(tmp_path, main) as board:
        read_only = {"bootstate": dataclasses.replace(BY_LABEL["bootstate"], flags=2)}
        replace_table(board, list((BY_LABEL | read_only).values()))
        board.power_on()
        board.wait_until_stopped()
    assert said(board) == ["(-269, 'ESP_ERR_NOT_ALLOWED')"] * 2


def test_the_stock_flash_map_gets_a_vfs_of_what_is_left(tmp_path: Path) -> None:
    with make_board(tmp_path) as board:
        replace_table(board, list(BY_LABEL.values())[:5])
        board.power_on()
        board.wait_until_stopped()
        assert said(board) == ["Performing initial setup"]
    content = (tmp_path / "flash.bin").read_bytes()[0x310000:]
    assert list(filesystem.list_files(content)) == ["/boot.py"]


# Platform updates through otadata.


def otadata(board: VirtualBoard) -> list[tuple[int, int]]:
    """(sequence, state) of the two records."""
    content = read_partition(board, "otadata")
    records = [idf.parse_record(content[at : at + idf.RECORD_LEN]) for at in (0, flash.SECTOR_LEN)]
    return [(record.sequence, record.state) for record in records]


UPDATE = (
    "from esp32 import Partition as P\nimport machine\n"
    "print(P(P.RUNNING).info()[4], P(P.BOOT).info()[4])\n"
    "if machine.reset_cause() == 1:\n"
    " P('ota_1').set_boot()\n print(P(P.BOOT).info()[4])\n machine.reset()\n"
)


def test_a_platform_that_is_marked_valid_stays(tmp_path: Path) -> None:
    board = run_board(tmp_path, main=UPDATE + "P.mark_app_valid_cancel_rollback()", ota_1=APP)
    assert said(board) == ["ota_0 ota_0", "ota_1", "ota_1 ota_1"]
    assert [boot.app for boot in board.boots] == ["ota_0", "ota_1"]
    assert otadata(board) == [(1, idf.VALID), (2, idf.VALID)]


def test_a_platform_that_resets_unmarked_is_rolled_back(tmp_path: Path) -> None:
    main = UPDATE + "if P(P.RUNNING).info()[4] == 'ota_1': machine.reset()"
    board = run_board(tmp_path, main=main, ota_1=APP)
    assert [boot.app for boot in board.boots] == ["ota_0", "ota_1", "ota_0"]
    assert otadata(board) == [(1, idf.VALID), (2, idf.ABORTED)]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("P('ota_1').set_boot", "OSError (-5379, 'ESP_ERR_OTA_VALIDATE_FAILED')"),
        ("P('slot_a').set_boot", "OSError (-5379, 'ESP_ERR_OTA_VALIDATE_FAILED')"),
        ("P('slot_b').set_boot", "OSError (-258, 'ESP_ERR_INVALID_ARG')"),
    ],
)
def test_what_set_boot_refuses(tmp_path: Path, call: str, error: str) -> None:
    assert partition_says(
        tmp_path, f"fails({call})", ota_1=b"garbage", slot_b=build_app(FIRST)
    ) == [error]
    assert otadata(VirtualBoard(tmp_path)) == [(1, idf.VALID), (0xFFFFFFFF, idf.UNDEFINED)]


def test_set_boot_of_the_running_app_makes_it_new(tmp_path: Path) -> None:
    assert partition_says(tmp_path, "P('ota_0').set_boot()") == []
    assert otadata(VirtualBoard(tmp_path))[0] == (1, idf.NEW)


def test_no_deep_sleep_between_set_boot_and_reset(tmp_path: Path) -> None:
    """The boot loader starts what slept, without a look at otadata."""
    main = UPDATE.replace("machine.reset()", "machine.deepsleep(1)")
    board = run_board(tmp_path, main=main, ota_1=APP)
    assert [boot.app for boot in board.boots] == ["ota_0", "ota_0"]
    assert otadata(board)[1] == (2, idf.NEW)


# Flash under power cuts.

STATE = BY_LABEL["bootstate"].offset
WRITES = (
    "from esp32 import Partition\n"
    "p = Partition('bootstate')\n"
    "p.writeblocks(0, b'new!' * 1024)\n"
    "p.writeblocks(1, b'more', 8)\n"
)
OLD = b"old." * 1024 + b"\xff" * 4096
ERASED = b"\xff" * 4096
NEW = b"new!" * 1024

# Operation, torn bytes, both sectors after the cut. The boot loader's two come first.
CUTS = {
    "before the erase": (3, 0, OLD),
    "erase torn": (3, 6, b"\xff" * 6 + OLD[6:]),
    "after the erase": (3, 4096, ERASED + ERASED),
    "before the program": (4, 0, ERASED + ERASED),
    "program torn in a chunk": (4, 3, b"new" + ERASED[3:] + ERASED),
    "program torn": (4, 1001, NEW[:1001] + ERASED[1001:] + ERASED),
    "after the program": (4, 4096, NEW + ERASED),
    "before the second write": (5, 0, NEW + ERASED),
    "second write torn": (5, 2, NEW + ERASED[:8] + b"mo" + ERASED[10:]),
    "after all": (5, 9999, NEW + ERASED[:8] + b"more" + ERASED[12:]),
}


@pytest.mark.parametrize(("at", "torn", "left"), CUTS.values(), ids=CUTS.keys())
def test_power_cut_leaves_exactly_this(tmp_path: Path, at: int, torn: int, left: bytes) -> None:
    with make_board(tmp_path, main=WRITES + "print('done')", bootstate=OLD) as board:
        board.power_on(cut=PowerCut(at, torn))
        assert board.wait_until_stopped() == "power cut"
        assert exits(board) == [(Cause.POWER_ON, Exit.POWER_CUT)]
    assert read_partition(board, "bootstate") == left
    assert "done" not in board.lines
    assert not list(tmp_path.glob("console.sock"))


def test_flash_operations_are_logged_in_order(tmp_path: Path) -> None:
    board = run_board(tmp_path, main=WRITES)
    assert board.flash_ops() == [
        FlashOp("erase", OTADATA, 4096),
        FlashOp("program", OTADATA, 32),
        FlashOp("erase", STATE, 4096),
        FlashOp("program", STATE, 4096),
        FlashOp("program", STATE + 4104, 4),
    ]


def test_power_cut_in_the_boot_loader_and_power_that_returns(tmp_path: Path) -> None:
    with make_board(tmp_path, main="print('up')") as board:
        board.power_on(cut=PowerCut(2, 4), power_returns=True)
        board.wait_until_stopped()
        assert exits(board) == [(Cause.POWER_ON, Exit.REPL)]
        assert said(board) == ["up"]
        assert len(board.flash_ops()) == 2  # torn, the record says nothing: it is left as it is
        assert otadata(board)[0] == (1, idf.UNDEFINED)


def test_operations_are_counted_over_resets(tmp_path: Path) -> None:
    main = SECOND + " import esp32; esp32.Partition('slot_a').ioctl(6, 0); machine.reset()\n"
    with make_board(tmp_path, main=main + WRITES, bootstate=OLD) as board:
        board.power_on(cut=PowerCut(4, 4096), power_returns=True)
        board.wait_until_stopped()
    assert exits(board) == [
        (Cause.POWER_ON, Exit.RESET),
        (Cause.HARD, Exit.POWER_CUT),
        (Cause.POWER_ON, Exit.RESET),
        (Cause.HARD, Exit.REPL),
    ]
    assert read_partition(board, "bootstate") == CUTS["after all"][2]


def test_a_kill_loses_nothing_that_was_written(tmp_path: Path) -> None:
    main = (
        "from esp32 import Partition\np = Partition('slot_a')\n"
        "for n in range(1, 96): p.writeblocks(n, bytes([n]) * 4096); print(f'wrote {n}')"
    )
    with make_board(tmp_path, main=main) as board:
        board.power_on()
        board.wait_for_line("wrote 20")
    assert board.boots[-1].exit in (Exit.POWER_OFF, Exit.REPL)
    content = read_partition(board, "slot_a")
    for line in board.lines:
        if line.startswith("wrote"):
            number = int(line.split()[1])
            assert content[number * 4096 :][:4096] == bytes([number]) * 4096


def test_every_power_cut_of_a_scenario(tmp_path: Path) -> None:
    """power_cuts itself: a file that is replaced by a rename is the old or the new one."""
    main = (
        "import os\n"
        "def read(): return open('value').read()\n"
        "try: print('value', read())\n"
        "except OSError: print('value none')\n"
        "with open('temp', 'w') as f: f.write('x' * 300)\n"
        "os.rename('temp', 'value')\nprint('value', read())\n"
    )
    source = make_board(tmp_path / "source", main=main)
    before = (source.folder / "flash.bin").read_bytes()
    numbers, values = [], set()
    for cut, op, board in power_cuts(source, tmp_path / "work", lambda b: False, torn=(0, 5, 9999)):
        numbers.append(cut.at)
        assert op.kind in ("erase", "program")
        with board:
            board.power_on()
            board.wait_until_stopped()
            first, last = said(board)
        values.add(first)
        assert first in ("value none", "value " + "x" * 300)
        assert last == "value " + "x" * 300
    assert len(values) == 2
    assert numbers == [number for number in range(1, max(numbers) + 1) for _ in range(3)]
    assert (source.folder / "flash.bin").read_bytes() == before


def test_a_file_written_in_place_is_what_it_was_or_what_it_is(tmp_path: Path) -> None:
    """What `note` of firmware/ondemand/store.py counts on: littlefs empties no file meanwhile."""
    main = (
        "try: print('found', open('value').read()[:3])\n"
        "except OSError: print('found none')\n"
        "for value in ('new', 'old', 'end'):\n"
        " with open('value', 'w') as f: f.write(value * 30)\n"
    )
    source = make_board(tmp_path / "source", main=main)
    found: list[str] = []
    for _, _, board in power_cuts(source, tmp_path / "work", lambda b: False, torn=(0, 5, 9999)):
        with board:
            board.power_on()
            board.wait_until_stopped()
            found += said(board)
    values = [value for value, _ in itertools.groupby(line.rstrip() for line in found)]
    assert values == ["found none", "found", "found new", "found old", "found end"]
