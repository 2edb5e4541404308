"""`signet dev`: a project's board and servers, one screen, and a restart whenever a file is saved.

An edit takes the quick way: the image is built and signed anew and written into the board's slot,
as provisioning does, and the board switched off and on. So the start of the board, with all of its
checks, is that of every board; only the download is left out. `u` publishes a release, which the
board downloads.
"""

import json
import queue
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.live import Live

from signet import locks, project
from signet.app import bench, ports
from signet.app.bench import Bench
from signet.app.board import ProjectBoard
from signet.app.doctor import sources_of
from signet.app.facts import CONNECTED, MEMORY_ID, Facts
from signet.app.keyboard import Keyboard
from signet.app.screen import KEYS, render
from signet.errors import SignetError
from signet.options import echo, printable
from signet.project import Project

_TICK_S = 0.1
_MEMORY_EVERY_S = 60  # a board in development says on its console that it was asked
_ENTER, _ESCAPE, _ERASE = "\r\n", "\x1b", "\x7f\b"

Saved = dict[Path, tuple[int, int]]  # when each file was changed, in ns, and its length


class View(Protocol):
    """Where it is shown."""

    def show(self, facts: Facts) -> None: ...
    def say(self, line: str) -> None: ...


class Screen:
    """One screen of a terminal."""

    def __init__(self, console: Console):
        self._console = console
        self._live = Live(console=console, screen=True, auto_refresh=False)

    def __enter__(self) -> "Screen":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, facts: Facts) -> None:
        width, height = self._console.size
        self._live.update(render(facts, width, height), refresh=True)

    def say(self, line: str) -> None:
        """All is on the screen already."""


class Lines:
    """Plain lines, for a pipe or a file; what goes on first."""

    def __init__(self) -> None:
        self._said: tuple[str, str] = "", ""

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, facts: Facts) -> None:
        now = facts.doing, facts.problem
        for kind, old, new in zip(("doing", "problem"), self._said, now, strict=True):
            if new and new != old:
                self.say(f"{kind}: {new}")
        self._said = now

    def say(self, line: str) -> None:
        echo(line)
        sys.stdout.flush()


class Dev:
    """One run: the bench, its board, what is known of them, and what a key or a save does."""

    def __init__(self, running: Bench, view: View):
        self.facts = Facts(running.project.name)
        self._bench = running
        self._view = view
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._read = 0  # of the operator's messages
        self._since: tuple[str, float] | None = None  # what to time until it is connected
        self._memory_at = 0.0
        self._saved = snapshot(running.project)
        self._pending: Saved | None = None  # a change that may not be complete
        self._board: ProjectBoard

    def start(self) -> None:
        """Build, provision, switch on."""
        self._work("building", lambda: self._load(bench.build(self._bench.project)))

    def _load(self, content: bytes) -> None:
        self.end()
        name = f"{self._bench.project.name[:27]}-dev"
        folder = self._bench.folder / "board"
        self._board = self._bench.make_board(name, folder, content, self._lines.put)
        self._power_on()

    def _power_on(self) -> None:
        self._board.power_on()
        self._since = self._since or ("start", time.monotonic())
        self.facts.powered, self.facts.connected, self.facts.start_s = True, False, None

    def end(self) -> None:
        if hasattr(self, "_board"):
            self._board.power_off()
        self.facts.lose_power()

    def _work(self, doing: str, action: Callable[[], None]) -> None:
        """Do what takes a moment; what goes wrong is shown, and the board goes on as it was."""
        self.facts.doing, self.facts.problem = doing, ""
        self._view.show(self.facts)
        try:
            action()
        except SignetError as error:
            hint = f" ({error.hint})" if error.hint else ""
            self.facts.problem = printable(f"{error}{hint}")
            self._since = None
        self.facts.doing = ""

    # What happens by itself

    def turn(self) -> None:
        """Take in what has happened, and show it."""
        self._take_lines()
        self._take_reports()
        self._look_for_edits()
        self._look_after_board()
        self._view.show(self.facts)

    def _take_lines(self) -> None:
        while not self._lines.empty():
            stamp, _, line = self._lines.get().partition(" ")
            self._view.say(f"{stamp[11:19]} | {self.facts.take_line(line)}")
            if CONNECTED in line and self._since:
                what, started = self._since
                self._since = None
                taken = time.monotonic() - started
                if what == "start":
                    self.facts.start_s = taken
                else:
                    self.facts.edit_s = taken
                self._view.say(f"{what} to connected: {taken:.2f} s")

    def _take_reports(self) -> None:
        messages = self._bench.operator.messages[self._read :]
        self._read += len(messages)
        for message in messages:
            kind = self._board.reports.kind(message)
            if kind is not None and not message.retained:
                told = self.facts.take_report(kind, message.json())
                if told is not None:
                    self._view.say(told)

    def _look_for_edits(self) -> None:
        """An editor may write a file in steps: a change counts once it was the same twice."""
        found = snapshot(self._bench.project)
        if found == self._saved:
            self._pending = None
        elif found != self._pending:
            self._pending = found
        else:
            newest = max((when for when, _ in found.values()), default=0)
            since_s = max(0.0, time.time() - newest / 1e9)
            self._saved, self._pending = found, None
            self._since = "edit", time.monotonic() - min(since_s, 2 * _TICK_S)
            self._work("building", self._reload)

    def _reload(self) -> None:
        self._bench.project = project.load(self._bench.project.folder)
        self._load(bench.build(self._bench.project))

    def _look_after_board(self) -> None:
        if self.facts.powered and not self._board.running:
            self.facts.problem = printable(f"the board stopped: {self._board.stopped}")
            self.facts.lose_power()
        if self.facts.connected and time.monotonic() > self._memory_at:
            self._memory_at = time.monotonic() + _MEMORY_EVERY_S
            with suppress(SignetError):  # it is asked again
                self._send({"id": MEMORY_ID, "command": "memory", "args": {}})

    def _send(self, message: dict[str, object]) -> None:
        topic = f"signet/{self._board.id}/down/command"
        self._bench.operator.publish(topic, json.dumps(message).encode())

    # Keys

    def press(self, keys: str) -> bool:
        """Do what keys mean; False if one of them was the last."""
        for key in keys:
            if self.facts.typed is not None:
                self._type(key)
            elif KEYS.get(key) == "quit":
                return False
            elif key in KEYS:
                self.facts.problem = ""
                getattr(self, f"_press_{KEYS[key]}")()
        return True

    def _press_power(self) -> None:
        if self.facts.powered:
            self.end()
        else:
            self._work("power on", self._power_on)

    def _press_reset(self) -> None:
        """On an ESP32 the same as taking the power away for a moment."""
        self.end()
        self._work("reset", self._power_on)

    def _press_network(self) -> None:
        self.facts.network = not self.facts.network
        self._board.set_network(self.facts.network)

    def _press_command(self) -> None:
        self.facts.typed = ""

    def _press_update(self) -> None:
        self._work("publishing", self._publish)

    def _publish(self) -> None:
        ours = self._bench.project
        version = self._bench.next_version(str(self.facts.state.get("version", ours.version)))
        content = bench.build(replace(ours, version=version))
        order = self._bench.publish(content, self._board.id)
        self.facts.events.append(f"order {order['number']}: install {version}")

    def _type(self, key: str) -> None:
        typed = self.facts.typed or ""
        if key in _ENTER:
            self.facts.typed = None
            if typed.strip():
                self._work("command", lambda: self._command(typed.strip()))
        elif key == _ESCAPE:
            self.facts.typed = None
        elif key in _ERASE:
            self.facts.typed = typed[:-1]
        elif key.isprintable():
            self.facts.typed = typed + key

    def _command(self, typed: str) -> None:
        name, _, text = typed.partition(" ")
        try:
            args = json.loads(text or "{}")
        except ValueError as error:
            expected = 'expected JSON after the name: {"argument": 1}'
            raise SignetError(f"command {name}: {text}: {error}, {expected}") from error
        self._send({"id": int(time.time()), "command": name, "args": args})


def snapshot(ours: Project) -> Saved:
    """The state of all files that the image is made of."""
    found = {}
    for path in sources_of(ours):
        try:
            status = path.stat()
        except OSError:  # between two names, as editors save
            continue
        found[path] = status.st_mtime_ns, status.st_size
    return found


def run(ours: Project) -> None:
    """Until `q` or Ctrl-C; SignetError if it cannot begin."""
    console = Console(highlight=False)
    with ExitStack() as stack:
        folder = bench.make_state_folder(ours)
        stack.enter_context(
            locks.claim(
                folder / "lock", f"{ours.folder}: signet dev runs there already", "end that one"
            )
        )
        path = folder / ports.NAME
        kept = ports.keep(path, ours.servers)
        stack.enter_context(ports.hold(kept, ours.servers.host, ours.folder, path))
        running = stack.enter_context(Bench(ours, folder, kept))
        view: Screen | Lines = Screen(console) if console.is_terminal else Lines()
        stack.enter_context(view)
        keyboard = stack.enter_context(Keyboard())
        dev = Dev(running, view)
        stack.callback(dev.end)
        try:
            dev.start()
            goes_on = True
            while goes_on:
                dev.turn()
                goes_on = dev.press(keyboard.read(_TICK_S))
        except KeyboardInterrupt:
            return
