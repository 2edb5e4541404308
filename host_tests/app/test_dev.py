"""`signet dev` as a process: plain lines in a pipe, keys on a terminal, edits that run or not."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from host_tests.app.conftest import APP, write_project
from signet import project
from signet.app import dev, ports
from signet.app.bench import Bench
from signet.formats.documents import load_object

WAIT_S = 120  # reached by what hangs alone
ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


class Run:
    """A `signet dev` that runs, and all that it has shown, without the terminal's codes."""

    def __init__(self, folder: Path, terminal: bool):
        self.shown = ""
        self._changed = threading.Condition()
        ours, theirs = pty.openpty() if terminal else os.pipe()
        if terminal:
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self._output = ours
        self.process = subprocess.Popen(
            [sys.executable, "-m", "signet", "dev", "--project", str(folder)],
            stdin=theirs if terminal else subprocess.DEVNULL, stdout=theirs, stderr=theirs,
            env=os.environ | {"TERM": "xterm-256color"}, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        raw = b""
        while True:
            try:
                data = os.read(self._output, 65536)
            except OSError:  # a terminal whose other end is closed
                data = b""
            with self._changed:
                raw += data
                self.shown = ANSI.sub("", raw.decode(errors="ignore"))
                self._changed.notify_all()
            if not data:
                return

    def wait(self, pattern: str, after: int = 0) -> int:
        """Until it has shown this; where to go on from."""
        end = time.monotonic() + WAIT_S
        with self._changed:
            while True:
                found = re.search(pattern, self.shown[after:])
                if found:
                    return after + found.end()
                if time.monotonic() > end:
                    pytest.fail(f"no {pattern!r} after\n{self.shown[after:][-3000:]}")
                self._changed.wait(0.5)

    def press(self, keys: str) -> int:
        """Type; where what follows on it begins."""
        after = len(self.shown)
        os.write(self._output, keys.encode())
        return after

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(WAIT_S)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_project(tmp_path / "kettle")


@pytest.fixture
def lines(folder: Path) -> Iterator[Run]:
    run = Run(folder, terminal=False)
    yield run
    run.end()


@pytest.fixture
def screen(folder: Path) -> Iterator[Run]:
    run = Run(folder, terminal=True)
    yield run
    if run.process.poll() is None:
        run.end()


def test_a_saved_file_runs_and_a_broken_one_does_not(lines, folder):
    """In a pipe; and a second `signet dev` on the same project is refused."""
    at = lines.wait(r"start to connected: \d+\.\d\d s")
    at = lines.wait(r'telemetry .*"fahrenheit": 68\b', at)
    (folder / "lib/kettle.py").write_text("def to_fahrenheit(c):\n    return 99\n")
    at = lines.wait(r"edit to connected: \d+\.\d\d s", at)
    at = lines.wait(r'telemetry .*"fahrenheit": 99\b', at)
    (folder / "app.py").write_text("x = 1\ndef run(:\n")
    at = lines.wait(r"problem: \S+app\.py: does not compile: .*line 2", at)
    at = lines.wait(r'telemetry .*"fahrenheit": 99\b', at)  # it goes on
    (folder / "app.py").write_text(APP.replace("to_fahrenheit(20)", "7"))
    lines.wait(r'telemetry .*"fahrenheit": 7\b', at)
    assert "\x1b" not in lines.shown

    second = Run(folder, terminal=False)
    assert second.process.wait(WAIT_S) == 2
    said = f"{folder}: signet dev runs there already, process {lines.process.pid}"
    second.wait(re.escape(f"signet: error: {said}"))
    assert lines.end() == 0
    assert sorted(path.name for path in (folder / ".signet").iterdir()) == [
        "board", "fleet", "lock", "pki", "ports.json",
    ]  # fmt: skip


def test_a_copied_project_is_told_who_has_its_ports(lines, folder, tmp_path):
    lines.wait("start to connected")
    other = write_project(tmp_path / "copy")
    (other / ".signet").mkdir(0o700)
    kept = (folder / ".signet" / ports.NAME).read_bytes()
    (other / ".signet" / ports.NAME).write_bytes(kept)
    second = Run(other, terminal=False)
    assert second.process.wait(WAIT_S) == 2
    broker = load_object(kept)["ports"]["broker"]
    second.wait(re.escape(
        f"port {broker} (broker) of {other}: in use by another project, "
        f"process {lines.process.pid} for {folder}"
    ))  # fmt: skip
    assert not (other / ".signet/board").exists()


@pytest.mark.slow
def test_the_keys(screen):
    """Each key does what the last line of the screen says."""
    at = screen.wait(r"kettle  connected")
    screen.wait(r"p  power  r  reset  n  network  c  command  u  update  q  quit")
    screen.wait(r"heap left +\d+\.\d KB", at)
    at = screen.wait(r"no power", screen.press("p"))
    screen.wait(r"kettle  connected", screen.press("p"))
    at = screen.press("c")
    screen.wait(r"command: ▏", at)
    screen.wait(r'greet {"whom": "you"}x▏', screen.press('greet {"whom": "you"}x'))
    screen.wait(r"command: hello you", screen.press("\x7f\r"))
    screen.wait(r"command greet: you: Expecting value", screen.press("cgreet you\r"))
    at = screen.press("c\x1b")
    at = screen.wait(r"no network", screen.press("n"))
    at = screen.wait(r"kettle  connected", screen.press("n"))
    at = screen.wait(r"version +1\.0\.0\+1", screen.press("u"))
    screen.wait(r"b, confirmed", at)
    at = screen.wait(r"starting", screen.press("r"))
    screen.wait(r"kettle  connected", at)
    screen.press("q")
    assert screen.process.wait(WAIT_S) == 0


def test_a_file_that_is_still_being_written_is_waited_for(folder, monkeypatch):
    """An editor writes in steps: what is built was the same twice."""
    running = SimpleNamespace(project=project.load(folder))
    made = dev.Dev(cast(Bench, running), dev.Lines())
    built: list[str] = []
    monkeypatch.setattr(made, "_reload", lambda: built.append((folder / "app.py").read_text()))
    for text in ("", "x = ", "x = 1"):
        (folder / "app.py").write_text(text)
        made._look_for_edits()
        assert built == []
    for _ in range(3):
        made._look_for_edits()
    assert built == ["x = 1"]
