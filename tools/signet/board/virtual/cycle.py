"""One power cycle of a virtual board: from power-on to power-off, with every restart between.

The thread of a PowerCycle does what the chip does around the firmware: it runs the boot loader,
starts the interpreter, passes its console on, and when it ends, starts it again with the reset
cause that follows, until the power goes or nothing would start it any more.
"""

import atexit
import contextlib
import functools
import hashlib
import json
import os
import signal
import struct
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from pathlib import Path
from typing import NamedTuple

from signet.board.virtual import bootloader
from signet.board.virtual.console import Console
from signet.board.virtual.uart import Uart
from signet.errors import SignetError
from signet.formats import idf
from signet.formats.flash import Partition
from signet.image import mpy
from signet.sources import SOURCE

_SHIMS = SOURCE / "tools/virtual_board"
_START = "start.py"  # the only one that the interpreter takes as source
_ESPRESSIF_OUI = "240ac4"
_MAX_LINES = 100_000
_JOIN_S = 10
# The RTC file (chip.py): clock's origin in ns, ms to sleep, ms of watchdog left, memory length.
_RTC = struct.Struct("<qIIHH2048x")
_ORIGIN = struct.Struct("<q")
_SLEEP_FOREVER_MS = 0xFFFFFFFF


class BoardError(SignetError):
    """The board cannot be started, or did not do in time what was waited for."""


class Cause(IntEnum):
    """Why a boot began; the values of machine.reset_cause()."""

    POWER_ON = 1
    HARD = 2
    WATCHDOG = 3
    DEEP_SLEEP = 4
    SOFT = 5


class Wake(IntEnum):
    """What ended a deep sleep; the values of machine.wake_reason()."""

    NONE = 0
    PIN = 2
    TIMER = 4


class Exit(Enum):
    """How a boot ended."""

    RESET = "machine.reset"
    DEEP_SLEEP = "deep sleep"
    POWER_CUT = "power cut"
    REPL = "fell to the REPL"
    SOFT_RESET = "soft reset"
    WATCHDOG = "watchdog"
    PANIC = "panic"
    POWER_OFF = "power off"


_EXITS = {
    64: Exit.RESET,
    65: Exit.DEEP_SLEEP,
    66: Exit.POWER_CUT,
    67: Exit.REPL,
    68: Exit.SOFT_RESET,
}
_NEXT_CAUSES = {
    Exit.RESET: Cause.HARD,
    Exit.PANIC: Cause.HARD,  # the port resets after printing what it knows
    Exit.WATCHDOG: Cause.WATCHDOG,
    Exit.SOFT_RESET: Cause.SOFT,
}


@dataclass
class Boot:
    """One run of the firmware. app: label of its partition. exit is None while it runs."""

    cause: Cause
    app: str
    wake: Wake = Wake.NONE
    exit: Exit | None = None
    duration_s: float = 0


class PowerCut(NamedTuple):
    """Cut the power at the flash operation `at`, counted from 1 at power-on, boot loader included.

    Those before it are done, of it `torn` bytes (0: none), those after it never begin.
    """

    at: int
    torn: int = 0


@dataclass(frozen=True)
class Setup:
    """How a board is run. heap: an argument of -X heapsize. cut: see PowerCut; power_returns:
    whether it comes back after that. ops, heap_log: logs that the chip keeps (watch.py), or None.
    idf_heaps: what esp32.idf_heap_info tells, by capability. skip_sleeps: see VirtualBoard.
    """

    folder: Path
    micropython: Path
    heap: str
    cut: PowerCut | None = None
    power_returns: bool = False
    ops: Path | None = None
    heap_log: Path | None = None
    idf_heaps: dict[int, list[tuple[int, int, int, int]]] = field(default_factory=dict)
    skip_sleeps: bool = False


class PowerCycle:
    """boots, lines, stopped, asleep: as in VirtualBoard. changed is notified when they change."""

    def __init__(self, setup: Setup, console: Console):
        """Power on. The console is closed at the end."""
        self.boots: list[Boot] = []
        self.lines: list[str] = []
        self.stopped: str | None = None
        self.asleep = False
        self.changed = threading.Condition()
        self._setup = setup
        self._console = console
        self._off = threading.Event()
        self._wake = Wake.NONE  # what has ended the last deep sleep, and with it the boot that runs
        self._process: subprocess.Popen[bytes] | None = None
        self._uart: Uart | None = None  # of the boot that runs, or of the last one
        self._thread = threading.Thread(target=self._run, name="board", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def type(self, data: bytes) -> int:
        """Send bytes to the UART; how many the board's line takes, 0 while none runs."""
        uart = self._uart
        return uart.type(data) if uart else 0

    def wake(self, reason: Wake) -> bool:
        """End a deep sleep; False if the board does not sleep."""
        with self.changed:
            was_asleep, self.asleep = self.asleep, False
            if was_asleep:
                self._wake = reason
                self.changed.notify_all()
            return was_asleep

    def end(self) -> None:
        """Power off: kill what runs, and wait for the thread."""
        with self.changed:
            self._off.set()
            self.changed.notify_all()  # whoever waits out a sleep
        self._kill()
        self._thread.join(_JOIN_S)

    def _kill(self) -> None:
        with self.changed:
            if self._process is not None:
                with contextlib.suppress(ProcessLookupError):  # it ended just now
                    os.killpg(self._process.pid, signal.SIGKILL)

    def _run(self) -> None:
        cause: Cause | None = Cause.POWER_ON
        app: Partition | None = None
        try:
            while cause is not None and not self._off.is_set():
                if cause == Cause.POWER_ON:
                    self._forget_rtc()
                if cause not in (Cause.SOFT, Cause.DEEP_SLEEP):
                    # A wake from deep sleep starts the app that slept without looking at it
                    # (CONFIG_BOOTLOADER_SKIP_VALIDATE_IN_DEEP_SLEEP), a soft reset no boot loader.
                    app = self._load_app()
                exit_ = Exit.POWER_CUT if app is None else self._run_app(cause, app)
                self._console.write(f"-- {exit_.value}")
                cause = self._next_cause(exit_)
        except (SignetError, OSError) as error:
            self.stopped = str(error)
            self._console.write(f"-- {error}")
        finally:
            self._kill()
            self._console.close()
            with self.changed:
                self.changed.notify_all()

    def _forget_rtc(self) -> None:
        write_private(self._setup.folder / "rtc", _RTC.pack(time.time_ns(), 0, 0, 0, 0))

    def _load_app(self) -> Partition | None:
        """The app that the boot loader starts; None if the power is cut meanwhile."""
        cut = self._cut_from_here()
        flash = self._setup.folder / "flash.bin"
        try:
            booted = bootloader.boot(bootloader.FlashFile(flash, *cut, self._setup.ops))
        except bootloader.PowerCutError:
            return None
        for note in booted.notes:
            self._console.write(f"-- boot loader: {note}")
        return booted.partition

    def _run_app(self, cause: Cause, app: Partition) -> Exit:
        self._console.write(f"-- reset cause {cause.value} ({cause.name}), app {app.label}")
        boot = Boot(cause, app.label, self._wake if cause == Cause.DEEP_SLEEP else Wake.NONE)
        started = time.monotonic()
        with self.changed:
            if self._off.is_set():
                return Exit.POWER_OFF
            self._uart = uart = Uart()
            self._process = process = self._start(boot, app, uart)
            self.boots.append(boot)
        for line in uart.lines():
            self._take_line(line)
        status = process.wait()
        uart.close()
        with self.changed:
            self._process = None
            boot.exit = Exit.POWER_OFF if self._off.is_set() else exit_of(status)
            boot.duration_s = time.monotonic() - started
            self.changed.notify_all()
        return boot.exit

    def _take_line(self, line: str) -> None:
        self._console.write(line)
        with self.changed:
            if len(self.lines) < _MAX_LINES:
                self.lines.append(line)
            self.changed.notify_all()

    def _start(self, boot: Boot, app: Partition, uart: Uart) -> subprocess.Popen[bytes]:
        cut = self._cut_from_here()
        folder = self._setup.folder.resolve()
        unique = hashlib.sha256(os.fsencode(folder)).hexdigest()[:6]
        settings = {
            "flash": str(folder / "flash.bin"),
            "rtc": str(folder / "rtc"),
            "control": str(folder / "control"),
            "ops": self._setup.ops and str(self._setup.ops.resolve()),
            "heap": self._setup.heap_log and str(self._setup.heap_log.resolve()),
            "cause": boot.cause.value,
            "wake": boot.wake.value,
            "app": app.offset,
            "mac": _ESPRESSIF_OUI + unique,
            "cut_at": cut.at,
            "torn": cut.torn,
            "idf_heaps": self._setup.idf_heaps,
        }
        # TZ: an ESP32 knows no time zones. The caller's MICROPYPATH and the like stay out.
        environment = {"PATH": os.environ.get("PATH", os.defpath), "TZ": "UTC"}
        return uart.start(
            [self._setup.micropython, "-X", f"heapsize={self._setup.heap}", shims() / _START],
            environment | {"VBOARD": json.dumps(settings)},
        )

    def _next_cause(self, exit_: Exit) -> Cause | None:
        """Wait out what the chip would; the next boot's cause, None if there is no next boot."""
        _, sleep_ms, watchdog_ms, _, _ = _RTC.unpack((self._setup.folder / "rtc").read_bytes())
        if exit_ == Exit.DEEP_SLEEP:
            return Cause.DEEP_SLEEP if self._sleep(sleep_ms) else None
        if exit_ == Exit.REPL and watchdog_ms:  # nobody feeds it there
            return None if self._off.wait(watchdog_ms / 1000) else Cause.WATCHDOG
        if exit_ == Exit.POWER_CUT and self._setup.power_returns:
            return Cause.POWER_ON
        if exit_ in (Exit.POWER_CUT, Exit.REPL):
            self.stopped = exit_.value
        return _NEXT_CAUSES.get(exit_)

    def _sleep(self, sleep_ms: int) -> bool:
        """Wait out a deep sleep, or skip it; False if the power went meanwhile."""
        has_timer = sleep_ms != _SLEEP_FOREVER_MS
        ends = time.monotonic() + sleep_ms / 1000
        with self.changed:
            self._wake = Wake.TIMER if has_timer and self._setup.skip_sleeps else Wake.NONE
            self.asleep = True
            self.changed.notify_all()
            self.changed.wait_for(
                lambda: self._wake or self._off.is_set(), sleep_ms / 1000 if has_timer else None
            )
            self.asleep = False
            self._wake = self._wake or Wake.TIMER
        left_ns = int((ends - time.monotonic()) * 1e9)
        if has_timer and self._wake == Wake.TIMER and left_ns > 0:
            self._forward_clock(left_ns)
        return not self._off.is_set()

    def _forward_clock(self, ns: int) -> None:
        with (self._setup.folder / "rtc").open("r+b") as rtc:
            (origin_ns,) = _ORIGIN.unpack(rtc.read(_ORIGIN.size))
            rtc.seek(0)
            rtc.write(_ORIGIN.pack(origin_ns - ns))

    def _cut_from_here(self) -> PowerCut:
        """The power cut, counted from the operations that are done; at 0 or below is none."""
        cut, ops = self._setup.cut, self._setup.ops
        if cut is None or ops is None:
            return PowerCut(0)
        return PowerCut(cut.at - len(ops.read_bytes().splitlines()), cut.torn)


def exit_of(status: int) -> Exit:
    """What an exit status of the interpreter means; a shell that waits for it adds 128."""
    if status in _EXITS:
        return _EXITS[status]
    number = -status if status < 0 else status - 128
    if number == signal.SIGALRM:
        return Exit.WATCHDOG
    if number > 0:
        return Exit.PANIC
    raise BoardError(f"the board did not start (exit code {status}): see its console")


@functools.cache
def shims() -> Path:
    """The folder with the virtual chip's code, compiled: on a chip none of it is in the heap.

    Compiled, it leaves fewer names there. Lives as long as this process.
    """
    keeper = tempfile.TemporaryDirectory(prefix="signet-board-")
    atexit.register(keeper.cleanup)
    folder = Path(keeper.name, _SHIMS.name)
    folder.mkdir()
    sources = {path.name: path for path in _SHIMS.glob("*.py") if path.name != _START}
    sources["idf.py"] = Path(idf.__file__)
    for name, code in mpy.compile_sources(sources).items():
        (folder / name).write_bytes(code)
    (folder / _START).write_bytes((_SHIMS / _START).read_bytes())
    return folder


def write_private(path: Path, content: bytes = b"") -> None:
    """Write a file of the board, from its start, for this user only."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
