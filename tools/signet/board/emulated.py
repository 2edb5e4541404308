"""A chip in the emulator that a program drives: its console, line by line, and its end.

It has the attributes of a virtual board by which one is watched: `lines`, `running`, `stopped`.
"""

import subprocess
import threading
import time
from pathlib import Path

from signet.board import emulator
from signet.run import ending_with_us

# On a busy machine a chip without it would be reset by its own watchdogs (`board emulate`).
DEFAULT_OPTIONS = ("-icount", "3")
_STOP_S = 20
_MAX_LINES = 100_000
_MAX_QUOTE_LEN = 400


class EmulatedBoard:
    """The flash in `flash` is the chip. The console is kept in console.log beside it."""

    def __init__(self, flash: Path, more: tuple[str, ...] = ()):
        """more: further options of QEMU; DEFAULT_OPTIONS if there are none."""
        self.lines: list[str] = []  # what it printed, the first 100,000 lines
        self._flash = flash
        self._more = more or DEFAULT_OPTIONS
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None

    def power_on(self) -> None:
        """Start it; SignetError if there is no emulator that could."""
        arguments = emulator.command_line(
            emulator.find_emulator(), self._flash, emulator.STDIO, self._more
        )
        with self._path("qemu.log").open("wb") as errors:
            self._process = subprocess.Popen(
                [*ending_with_us(), *arguments],
                # A console that is at its end on one side says nothing on the other.
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                start_new_session=True,  # Ctrl-C is for us: we stop it in order
            )  # fmt: skip
        self._reader = threading.Thread(
            target=self._read, args=(self._process,), name="console", daemon=True
        )
        self._reader.start()

    def power_off(self) -> None:
        """Take the power away; nothing if it is off."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._reader is not None:
            self._reader.join()
        self._process = self._reader = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def stopped(self) -> str | None:
        """Why it stopped although nobody switched it off."""
        if self._process is None or self._process.poll() is None:
            return None
        said = self._path("qemu.log").read_text(errors="replace").strip()[-_MAX_QUOTE_LEN:]
        return f"the emulator ended with {self._process.returncode}: {said or 'it gave no reason'}"

    def _path(self, name: str) -> Path:
        return self._flash.with_name(name)

    def _read(self, process: "subprocess.Popen[bytes]") -> None:
        """The console's thread: keep what the chip says, each line with the seconds since now."""
        started = time.monotonic()
        assert process.stdout is not None
        with process.stdout, self._path("console.log").open("a") as log:
            for raw in process.stdout:
                line = raw.decode("utf-8", "replace").rstrip("\r\n")
                log.write(f"{time.monotonic() - started:9.2f} {line}\n")
                log.flush()
                if len(self.lines) < _MAX_LINES:
                    self.lines.append(line)
