"""The virtual board: the firmware under MicroPython's unix port, with the boot loader around it.

A board is a folder: flash.bin (the chip), rtc (clock and RTC memory, gone when the power goes),
control (radio link), perhaps air (networks), console.log and console.sock. `VirtualBoard` gives it
power, watches it, and can take its power away at any flash operation. What runs inside is in
tools/virtual_board, what restarts it in cycle.py, the boot loader in bootloader.py.
"""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from signet import locks
from signet.board.virtual import console
from signet.board.virtual.cycle import (
    BoardError,
    Boot,
    PowerCut,
    PowerCycle,
    Setup,
    Wake,
    write_private,
)
from signet.sources import find_tool

# 64 KB scaled by the size of a word (an ESP32 has 56,000 bytes before it takes more from the IDF),
# and 13 for the shims, which are in flash on a chip. What this allows a chip may not, as bytecode
# and strings do not shrink with the word; but a chip's heap can grow (docs/benchmarks.md).
_HEAP_KW = 77
HEAP = f"{_HEAP_KW}wK"
HEAP_LEN = _HEAP_KW * 1024 * 2  # bytes, with words of 64 bits: twice an ESP32's
# An ESP32's first segment of heap, and what the firmware, connected and idle, takes of it for each
# byte here: 43,700 on an emulated chip with a stock 1.25.0 where this board had 67,800 without the
# shims. Words are half as long there, bytecode and texts as long as here.
FIRST_SEGMENT_LEN = 56_000
_CHIP_RATIO = 0.65
# What esp32.idf_heap_info tells, (total, free, largest, least) of each heap by capability: 4 is
# HEAP_DATA, 1 HEAP_EXEC. There is no such heap here; an emulated 1.25.0 said so in a session.
IdfHeaps = dict[int, list[tuple[int, int, int, int]]]
_FULL = [(240, 4, 0, 4), (7288, 4, 0, 4), (16648, 4, 0, 4), (85992, 4, 0, 4)]
_SHARED = [(15072, 4, 0, 4), (113840, 67980, 63488, 61324)]
IDF_HEAPS: IdfHeaps = {4: _FULL + _SHARED, 1: [*_SHARED, (21024, 20264, 19456, 20232)]}
# The control file: the radio link, then whether the heap is asked for.
_LINK_UP, _LINK_DOWN = b"1", b"0"
_ASKED, _NOT_ASKED = b"1", b"0"
_AIR_LEN = 1024
_POLL_S = 0.05
_BLOCK_LEN = 32  # of MicroPython's heap, on a machine with words of 64 bits
_SAMPLE = re.compile(r"^(boot|op|asked) (\d+)$", re.MULTILINE)
_DETAILS = re.compile(r"max free sz: (\d+)\n.* n_qstr=(\d+)")
_TAIL_LEN = 15
_Result = TypeVar("_Result")


class FlashOp(NamedTuple):
    """A flash operation: "erase" of a sector, or "program" of up to 4096 bytes."""

    kind: str
    address: int
    length: int


class VirtualBoard:
    """A board in a folder that holds flash.bin. As a context manager it ends with `power_off`."""

    def __init__(
        self,
        folder: Path,
        micropython: Path | None = None,
        heap: str = HEAP,
        on_line: Callable[[str], None] | None = None,
        idf_heaps: IdfHeaps = IDF_HEAPS,
    ):
        """micropython: the interpreter; None: the one that Signet installs.

        heap: an argument of -X heapsize. on_line: called with each stamped console line.

        idf_heaps: what the firmware is told of the IDF's heaps.
        """
        self.folder = folder
        self._micropython = micropython
        self._heap = heap
        self._on_line = on_line
        self._idf_heaps = idf_heaps
        self._cycle: PowerCycle | None = None
        self._lock: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.power_off()

    def power_on(
        self,
        *,
        cut: PowerCut | None = None,
        power_returns: bool = False,
        record_flash: bool = False,
        record_heap: bool = False,
        skip_sleeps: bool = False,
    ) -> None:
        """Switch the board on, and come back while it boots; BoardError if it cannot be run.

        cut: cut its power once. power_returns: and give it back. record_flash, record_heap: let
        flash_ops and heap_samples work; the heap is then collected at every flash operation.
        skip_sleeps: a deep sleep ends at once, and the board's clock says that it was as long as
        it was to be.
        """
        self.power_off()
        micropython = self._micropython or find_tool("micropython")
        if not micropython.exists():
            raise BoardError(f"{micropython}: no MicroPython")
        self._lock = _lock_flash(self.folder)
        setup = Setup(
            self.folder,
            micropython,
            self._heap,
            cut,
            power_returns,
            self.folder / "flash.log" if record_flash or cut else None,
            self.folder / "heap.log" if record_heap else None,
            self._idf_heaps,
            skip_sleeps,
        )
        for log in (setup.ops, setup.heap_log):
            if log:
                write_private(log)
        write_private(self.folder / "control", _LINK_UP + _NOT_ASKED)
        self._cycle = PowerCycle(setup, console.Console(self.folder, self._on_line))

    def power_off(self) -> None:
        """Take the power away at once; nothing if it is off."""
        if self._cycle is not None:
            self._cycle.end()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def running(self) -> bool:
        """Whether it has power and would run, be it asleep."""
        return self._cycle is not None and self._cycle.running

    @property
    def asleep(self) -> bool:
        """Whether it is in deep sleep."""
        return self._cycle is not None and self._cycle.asleep

    def wake(self, reason: Wake = Wake.TIMER) -> None:
        """End a deep sleep now: by a pin, or as if all of its time had passed."""
        if self._cycle is None or not self._cycle.wake(reason):
            raise BoardError(f"{self.folder}: the board is not asleep")

    @property
    def boots(self) -> list[Boot]:
        """Every boot since power-on."""
        return self._cycle.boots if self._cycle else []

    @property
    def lines(self) -> list[str]:
        """What it printed since power-on, the first 100,000 lines; console.log has all."""
        return self._cycle.lines if self._cycle else []

    @property
    def stopped(self) -> str | None:
        """Why it stopped although nobody switched it off: REPL, power cut, no bootable app."""
        return self._cycle.stopped if self._cycle else None

    def wait_for(
        self, predicate: Callable[["VirtualBoard"], _Result], timeout_s: float = 30
    ) -> _Result:
        """The predicate's result as soon as it is true; BoardError if it is not in time.

        It is asked again whenever the board says or does something, and every 50 ms.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            running = self.running
            result = predicate(self)
            if result:
                return result
            if not running or self._cycle is None:
                raise BoardError(f"the board stopped: {self.stopped or 'power off'}{self.tail()}")
            if time.monotonic() > deadline:
                raise BoardError(f"the board did not do it within {timeout_s} s{self.tail()}")
            with self._cycle.changed:
                self._cycle.changed.wait(_POLL_S)

    def wait_for_line(self, text: str, timeout_s: float = 30, start: int = 0) -> int:
        """Wait for a console line that contains `text`, from index `start` of `lines` on.

        Returns the index after it, to go on from.
        """

        def find(board: "VirtualBoard") -> int:
            lines = enumerate(board.lines[start:], start + 1)
            return next((after for after, line in lines if text in line), 0)

        return self.wait_for(find, timeout_s)

    def wait_until_stopped(self, timeout_s: float = 30) -> str:
        """Wait until it runs no more; why: `stopped`."""
        return self.wait_for(lambda board: not board.running and board.stopped, timeout_s) or ""

    def set_link(self, up: bool) -> None:
        """Take the radio's access point away, or give it back; power-on gives it back, too.

        Only what the WLAN driver says changes: connections are the host's, and stay.
        """
        self._write_control(0, _LINK_UP if up else _LINK_DOWN)

    def set_air(self, networks: dict[str, str], cable: str = "up") -> None:
        """Say which access points are there, by name with their passphrases, from now on.

        cable: what Ethernet's leads to: "up", "no address", "no link"; or "no PHY". A board that
        was powered on without knows no bounds: all access points take it, and the cable is "up".
        """
        lines = [cable, *(f"{name}\t{key}" for name, key in networks.items())]
        path = self.folder / "air"
        if not path.exists():
            write_private(path)
        with path.open("r+b") as file:  # at once, for a board that reads it meanwhile
            file.write("\n".join(lines).encode().ljust(_AIR_LEN, b"\n"))

    def type(self, data: bytes) -> int:
        """Send bytes to its UART, as a terminal would; how many reached the line.

        None do while it is off or restarting, nor those that it has no room for.
        """
        return self._cycle.type(data) if self._cycle else 0

    def flash_ops(self) -> list[FlashOp]:
        """The flash operations since power-on, the boot loader's too; needs record_flash."""
        rows = [line.split() for line in (self.folder / "flash.log").read_text().splitlines()]
        return [FlashOp(kind, int(address), int(length)) for kind, address, length in rows]

    def heap_samples(self) -> list[tuple[str, int]]:
        """(when, live bytes of heap) in order; needs record_heap.

        When: "boot", before boot.py, which is what the shims take; "op", at a flash program
        operation; "asked", by measure_heap.
        """
        return [(when, int(used)) for when, used in _SAMPLE.findall(self._heap_log())]

    def heap_details(self) -> list[tuple[int, int]]:
        """(names, bytes in the largest free block) at each sample but those of "op"."""
        return [
            (int(names), int(blocks) * _BLOCK_LEN)
            for blocks, names in _DETAILS.findall(self._heap_log())
        ]

    def _heap_log(self) -> str:
        return (self.folder / "heap.log").read_text()

    def measure_heap(self, timeout_s: float = 30) -> int:
        """Live bytes of heap when the firmware next asks for the ticks; needs record_heap."""

        def asked(board: VirtualBoard) -> list[int]:
            return [used for when, used in board.heap_samples() if when == "asked"]

        before = len(asked(self))
        self._write_control(1, _ASKED)
        return self.wait_for(lambda board: asked(board)[before:], timeout_s)[0]

    def _write_control(self, offset: int, value: bytes) -> None:
        with (self.folder / "control").open("r+b") as file:
            file.seek(offset)
            file.write(value)

    def tail(self) -> str:
        """The last lines of the console, for the end of a message."""
        return "".join(f"\n  | {line}" for line in self.lines[-_TAIL_LEN:])


def on_a_chip(live: int) -> int:
    """About what live bytes of heap are on an ESP32."""
    return round(live * _CHIP_RATIO)


def _lock_flash(folder: Path) -> int:
    """Hold flash.bin, so that no second board runs on it; the descriptor that holds it."""
    path = folder / "flash.bin"
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise BoardError(f"{path}: {error.strerror}", "signet device provision") from error
    if not locks.try_lock(lock):
        os.close(lock)
        raise BoardError(f"{folder}: the board is running already")
    return lock
