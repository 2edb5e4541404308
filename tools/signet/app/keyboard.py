"""Single keys of a terminal, as they are pressed."""

import codecs
import os
import select
import sys
import termios
import tty
from typing import Self

_MOST = 64


class Keyboard:
    """The keys of this process's terminal, in a `with` statement; without one, there are none."""

    def __init__(self) -> None:
        self._terminal = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def __enter__(self) -> Self:
        if self._terminal is not None:
            self._before = termios.tcgetattr(self._terminal)
            tty.setcbreak(self._terminal)  # Ctrl-C is a signal still
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal is not None:
            termios.tcsetattr(self._terminal, termios.TCSADRAIN, self._before)

    def read(self, timeout_s: float) -> str:
        """What was typed, as soon as something is; "" after the time."""
        if self._terminal is None:
            select.select([], [], [], timeout_s)
            return ""
        if not select.select([self._terminal], [], [], timeout_s)[0]:
            return ""
        data = os.read(self._terminal, _MOST)
        if not data:  # the terminal is gone
            raise KeyboardInterrupt
        return self._decoder.decode(data)
