"""A virtual board's console: kept in console.log, shown to whoever connects to console.sock.

Each line is stamped with the host's time (UTC). The log is never read back by the board; a watcher
that does not keep up is dropped, so that nothing can hold the board up.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path

from signet.errors import SignetError

_LOG = "console.log"
_SOCKET = "console.sock"
_PRIVATE_UMASK = 0o077
_MAX_WATCHERS = 16
_RECEIVE_LEN = 4096


class Console:
    """The board's end: `write` lines, `close` when the board is off."""

    def __init__(self, folder: Path, on_line: Callable[[str], None] | None = None):
        """Append to the log of `folder`, and listen; the caller sees to it that it is alone."""
        self._folder = folder
        self._on_line = on_line
        self._lock = threading.Lock()
        self._watchers: list[socket.socket] = []
        self._log = os.open(
            folder / _LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        (folder / _SOCKET).unlink(missing_ok=True)  # of a host that was killed
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(_PRIVATE_UMASK)
        try:
            with _short_path(folder) as path:
                self._listener.bind(path)
        finally:
            os.umask(mask)
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True, name="console").start()

    def write(self, line: str) -> None:
        """Stamp, log and show one line."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
        stamped = f"{stamp}Z {line}"
        if self._on_line:
            self._on_line(stamped)
        data = f"{stamped}\n".encode()
        os.write(self._log, data)
        with self._lock:
            for watcher in self._watchers.copy():
                try:
                    sent = watcher.send(data, socket.MSG_DONTWAIT)
                except OSError:
                    sent = 0
                if sent < len(data):  # gone, or too slow
                    self._watchers.remove(watcher)
                    watcher.close()

    def close(self) -> None:
        (self._folder / _SOCKET).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # macOS: not connected
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._listener.close()
        with self._lock:
            for watcher in self._watchers:
                watcher.close()
            self._watchers.clear()
        os.close(self._log)

    def _accept(self) -> None:
        while True:
            try:
                watcher, _ = self._listener.accept()
            except OSError:  # closed
                return
            with self._lock:
                if len(self._watchers) < _MAX_WATCHERS:
                    self._watchers.append(watcher)
                else:
                    watcher.close()


def watch(folder: Path) -> Generator[str]:
    """The lines of a running board's console from now on, until the board is off."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            with _short_path(folder) as path:
                connection.connect(path)
        except OSError as error:
            raise SignetError(
                f"{folder}: the board is not running", f"signet board run {folder}"
            ) from error
        with connection.makefile("r", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                yield line.rstrip("\n")


@contextlib.contextmanager
def _short_path(folder: Path) -> Iterator[str]:
    """A path of the socket that fits the 107 bytes of a Unix address, wherever the folder is."""
    if not Path("/proc/self/fd").exists():
        yield str(folder / _SOCKET)
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{_SOCKET}"
    finally:
        os.close(descriptor)
