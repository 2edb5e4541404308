"""The UART of a virtual board, as the host sees it: the other end of a pty.

There is one for each boot: what the board did not read of it is gone with the restart.
"""

import contextlib
import errno
import io
import os
import pty
import select
import subprocess
import threading
import tty
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_MAX_LINE_LEN = 4096


class Uart:
    """`start` the interpreter, read its `lines` to the end, `close`; `type` at any time."""

    def __init__(self) -> None:
        self._host_end, self._board_end = pty.openpty()
        tty.setraw(self._board_end)
        os.set_blocking(self._host_end, False)
        self._lock = threading.Lock()
        self._open = True

    def start(
        self, command: Sequence[str | Path], environment: dict[str, str]
    ) -> "subprocess.Popen[bytes]":
        """Start a program at the board's end; nobody else has it open after that."""
        try:
            return subprocess.Popen(
                command,
                env=environment,
                stdin=self._board_end,
                stdout=self._board_end,
                stderr=self._board_end,
                start_new_session=True,  # Ctrl-C in the caller's terminal is not for the board
            )
        finally:
            os.close(self._board_end)

    def type(self, data: bytes) -> int:
        """Send bytes to the board; how many of them the line takes, 0 if it is closed."""
        with self._lock, contextlib.suppress(BlockingIOError):
            return os.write(self._host_end, data) if self._open else 0
        return 0

    def lines(self) -> Iterator[str]:
        """What the board prints, until its end is closed; a long line in pieces."""
        with io.BufferedReader(_Receiver(self._host_end)) as output:
            while raw := output.readline(_MAX_LINE_LEN):
                yield raw.decode("utf-8", "replace").rstrip("\r\n")

    def close(self) -> None:
        with self._lock:
            self._open = False
            os.close(self._host_end)


class _Receiver(io.RawIOBase):
    """Reads the host's end; what Linux calls EIO there is the end of the file."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._poll.poll()
        try:
            data = os.read(self._descriptor, len(buffer))
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return 0
        buffer[: len(data)] = data
        return len(data)
