"""Virtual boards for tests: made of a few lines of Python instead of a provisioned firmware."""

from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copyfile
from typing import NamedTuple

from host_tests.esp_images import make_image
from signet.board.virtual.board import FlashOp, VirtualBoard
from signet.board.virtual.cycle import Cause, Exit, PowerCut
from signet.formats import esp_image, filesystem, flash

LAYOUT = Path(__file__).resolve().parents[1] / "firmware/board/partitions.csv"
PARTITIONS = flash.load_layout(LAYOUT)
BY_LABEL = {partition.label: partition for partition in PARTITIONS}
SEALED = flash.load_layout(LAYOUT.with_name("sealed") / "partitions-4mb.csv")
REPL = ["MicroPython on a virtual board", ">>> "]
# For main.py: what follows, indented by one space, runs on the first boot; later ones tell why.
SECOND = (
    "import machine, time\n"
    "if machine.reset_cause() != 1: print('cause', machine.reset_cause())\nelse:\n"
)
FIRST = bytes(range(256))  # a first segment that is long enough for the app description


def blank_flash(layout: tuple[flash.Partition, ...] = PARTITIONS) -> flash.Flash:
    """A chip with the partition table and a platform in ota_0, else erased."""
    chip = flash.Flash.blank(layout)
    chip.write("ota_0", esp_image.synthetic_app("1.25.0"))
    return chip


def build_app(*segments: bytes, hashed: bool = True) -> bytes:
    """An app image of segments that are not mapped from flash."""
    return make_image([(0x3FFB0000, segment) for segment in segments], hashed=hashed)


def make_board(folder: Path, main: str = "", boot: str = "", **partitions: bytes) -> VirtualBoard:
    """A board that is off; boot.py and main.py are left out if they are empty.

    partitions: content by label, over what would be there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chip = blank_flash()
    scripts = {"/boot.py": boot.encode(), "/main.py": main.encode()}
    files = {path: text for path, text in scripts.items() if text}
    blocks = BY_LABEL["vfs"].size // flash.SECTOR_LEN
    chip.write("vfs", filesystem.pack(files, blocks))
    for label, content in partitions.items():
        chip.write(label, content)
    chip.save_new(folder / "flash.bin")
    return VirtualBoard(folder)


def run_board(folder: Path, main: str = "", boot: str = "", **partitions: bytes) -> VirtualBoard:
    """Make a board and let it run until it falls to the REPL."""
    board = make_board(folder, main, boot, **partitions)
    with board:
        board.power_on(record_flash=True)
        board.wait_until_stopped()
    return board


def exits(board: VirtualBoard) -> list[tuple[Cause, Exit | None]]:
    return [(boot.cause, boot.exit) for boot in board.boots]


def said(board: VirtualBoard) -> list[str]:
    """What the board printed until it fell to the REPL."""
    assert board.lines[-2:] == REPL
    return board.lines[:-2]


def read_partition(board: VirtualBoard, label: str) -> bytes:
    place = BY_LABEL[label]
    return (board.folder / "flash.bin").read_bytes()[place.offset : place.end]


class Cut(NamedTuple):
    """A power cut that was made: which operation of how many, and what it was."""

    cut: PowerCut
    op: FlashOp
    board: VirtualBoard


def power_cuts(
    source: VirtualBoard,
    work: Path,
    done: Callable[[VirtualBoard], object],
    torn: tuple[int, ...] = (0,),
    timeout_s: float = 30,
) -> Iterator[Cut]:
    """Run what a board does once, then again for a power cut at each of its flash operations.

    source: a board that is off; its flash is copied into `work`, never changed. done: true when
    the board has done what is tested. torn: bytes of the operation that still happen; more than it
    has: all. Yields each board, off, with the flash as the power cut left it.
    """
    count = _copy(source, work / "count")
    with count:
        count.power_on(record_flash=True)
        count.wait_for(lambda board: done(board) or not board.running, timeout_s)
        ops = count.flash_ops()
    for number, op in enumerate(ops, 1):
        for length in torn:
            cut = PowerCut(number, length)
            board = _copy(source, work / f"cut-{number}-{length}")
            with board:
                board.power_on(cut=cut)
                board.wait_until_stopped(timeout_s)
            yield Cut(cut, op, board)
            (board.folder / "flash.bin").unlink()  # 4 MiB each


def _copy(source: VirtualBoard, folder: Path) -> VirtualBoard:
    folder.mkdir(parents=True)
    copyfile(source.folder / "flash.bin", folder / "flash.bin")
    return VirtualBoard(folder)
