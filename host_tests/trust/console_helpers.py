"""Virtual boards with the real stage 1, for the console: other scripts, another agent, a flood."""

import random
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from host_tests.board_helpers import BY_LABEL, REPL, make_board
from host_tests.tool_helpers import RELEASE, REPO, SETTINGS
from signet.board.virtual.board import VirtualBoard
from signet.board.virtual.cycle import Exit
from signet.device import flash_file
from signet.errors import SignetError
from signet.formats import filesystem, flash, romfs
from signet.image import mpy, slot_image
from signet.image.stage1 import ARCHIVE, compile_stage1

BOOT = (REPO / "boot.py").read_text()
MAIN = (REPO / "main.py").read_text()
NOTHING: Mapping[str, str | None] = {}
# C code that looks for no exception, 50 ms of it or more: a Ctrl-C that arrives meanwhile is still
# waiting when the next statement runs. In front of boot.py it makes the few microseconds between
# arming and `kbd_intr(-1)` so long that every boot is hit.
PAUSE = "pow(3, 1 << 500, (1 << 3000) + 1)\n"
# What a terminal, mpremote and somebody impatient send: Ctrl-C, raw REPL, paste mode, soft reset.
KEYS = (
    b"\x03", b"\x03", b"\x03" * 16, b"\r\x03\x03", b"\x03\x01", b"\x03\x05", b"\x03\x04",
    b"\x01print(1)\x04", b"\x05import os\x04", b"\x02\r\n", b"import os\r", b"\x03" * 300,
)  # fmt: skip


@cache
def stage1_files() -> dict[str, bytes]:
    """Path and content of what provisioning puts on `vfs`."""
    return compile_stage1(REPO)


@cache
def slot_files() -> dict[str, bytes]:
    """Path and content of what is in a slot; compiled once, for that takes seconds."""
    compiled = mpy.compile_sources(slot_image.slot_sources(REPO))
    return {name.removeprefix("lib/"): code for name, code in compiled.items()}


@cache
def verifier_files() -> dict[str, bytes]:
    """Path and content of what is in stage 1's archive."""
    compiled = mpy.compile_sources(mpy.python_files(REPO, ("lib/trust",)))
    return {name.removeprefix("lib/"): code for name, code in compiled.items()}


def pack_vfs(changed: Mapping[str, str | None] = NOTHING) -> bytes:
    """The `vfs` of a provisioned board; changed: other content by path, None for no such file.

    A path in stage1.romfs is that of the compiled file; what is no Python takes its place as it is.
    """
    files = dict(stage1_files())
    for path, text in changed.items():
        if path.startswith(f"{ARCHIVE}/"):
            inside = {path.removeprefix(f"{ARCHIVE}/"): compile_text(text or "")}
            files[ARCHIVE] = romfs.pack(verifier_files() | inside)
            continue
        files.pop(path.removesuffix(".py") + ".mpy", None)
        files.pop(path, None)
        if text is not None:
            files[path] = text.encode()
    blocks = BY_LABEL["vfs"].size // flash.SECTOR_LEN
    return filesystem.pack(files, blocks)


def compile_text(text: str) -> bytes:
    """What mpy-cross makes of it; the text itself if it is damaged."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "in.py")
        path.write_text(text)
        try:
            return mpy.compile_sources({"in.py": path})["in.mpy"]
        except SignetError:
            return text.encode()


def provision(folder: Path, keys: Path, **firmware: str) -> Path:
    """The flash of a provisioned board; firmware: modules that take the place of the real ones."""
    sources = {}
    for name, text in firmware.items():
        sources[f"firmware/{name}.py"] = folder / f"{name}.py"
        (folder / f"{name}.py").write_text(text)
    files = slot_files() | mpy.compile_sources(sources)
    payload = romfs.pack(files)
    signed = folder / "signed.img"
    unsigned = slot_image.pack_descriptor(RELEASE, len(payload)) + payload
    signed.write_bytes(slot_image.sign_image(unsigned, keys / "release.key"))
    flash_file.provision(SETTINGS, keys, signed, REPO, folder / "flash.bin")
    return folder / "flash.bin"


def board_from(
    provisioned: Path, folder: Path, changed: Mapping[str, str | None] = NOTHING
) -> VirtualBoard:
    """A board, off, with the flash of `provision` and a `vfs` of its own; changed: see pack_vfs."""
    content = provisioned.read_bytes()

    def read(label: str) -> bytes:
        return content[BY_LABEL[label].offset : BY_LABEL[label].end]

    return make_board(
        folder,
        vfs=pack_vfs(changed),
        esp_secure_cert=read("esp_secure_cert"),
        bootstate=read("bootstate"),
        slot_a=read("slot_a"),
    )


def hammer(
    boards: Sequence[VirtualBoard], boots: int, pause_s: float = 0, timeout_s: float = 120
) -> None:
    """Power boards on and type at them until each has booted so often, or stopped; then off.

    pause_s: longest silence between two bursts; 0 is a flood.
    """
    rng = random.Random(len(boards) * boots)
    for board in boards:
        board.power_on()
    deadline = time.monotonic() + timeout_s
    busy = list(boards)
    while busy and time.monotonic() < deadline:
        for board in busy.copy():
            if not board.running or len(board.boots) > boots:
                busy.remove(board)
                board.power_off()  # or it would go on booting in peace
            board.type(rng.choice(KEYS))
        time.sleep(rng.uniform(0, pause_s) if pause_s else 0.0005)
    for board in busy:
        board.power_off()
    assert not busy, "too slow"


def finished(board: VirtualBoard) -> list[Exit | None]:
    """How its boots ended, without one that the end of the power cut off."""
    return [boot.exit for boot in board.boots if boot.exit not in (None, Exit.POWER_OFF)]


def fell(board: VirtualBoard) -> bool:
    """Whether it ever came to the REPL."""
    return Exit.REPL in finished(board) or bool(set(REPL) & set(board.lines))
