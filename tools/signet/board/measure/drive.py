"""The drive of a board through its work: what is waited for, in order, and a row for each step."""

import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from signet.board.measure.figures import Memory, Row, Run, without_idf
from signet.errors import SignetError
from signet.fleet.serving import Fleet
from signet.fleet.session import EVERYTHING_DEVICES_SAY, OperatorSession
from signet.release import publishing
from trust.image import BLOCK_LEN, Descriptor

MEMORY = "signet: memory: "  # so a line of a console begins that has figures as JSON
_CONNECTED = "signet: connected to "
_POLL_S = 0.05
_TAIL_LEN = 8
_ENDS = ("refused", "failed", "rolled-back")
_Found = TypeVar("_Found")
Report = dict[str, Any]


class _NotHeldError(Exception):
    """A step did not hold."""


class Board(Protocol):
    """What both kinds of boards have. lines: of the console since power-on."""

    @property
    def lines(self) -> list[str]: ...
    @property
    def running(self) -> bool: ...
    @property
    def stopped(self) -> str | None: ...
    def power_on(self) -> None: ...
    def power_off(self) -> None: ...


@dataclass(frozen=True)
class Plan:
    """What to do. image: to update to. bad: one that the board has to take back by itself.

    limit_s: for each step. more: options of QEMU. application: said in the table. telemetry: the
    application sends `heap_live_bytes`, which has a row.
    """

    pki: Path
    restarts: int = 1
    image: Path | None = None
    bad: Path | None = None
    limit_s: float = 180
    more: tuple[str, ...] = ()
    application: str = ""
    telemetry: bool = False


class Drive:
    """One run of a board. Rows go to `run`, and why the last step did not hold."""

    def __init__(self, board: Board, fleet: Fleet, plan: Plan, device: str, run: Run):
        """fleet: servers that run. device: the board's id."""
        self._board = board
        self._fleet = fleet
        self._plan = plan
        self._device = device
        self._run = run
        self._step = ""
        self._started = 0.0
        self._lines = 0  # of the console, and reports, that were there before
        self._reports = 0
        self._session: OperatorSession | None = None

    def play(self, releases: list[tuple[bytes, str]]) -> None:
        """releases: images, and the report about each that is the end of it."""
        try:
            self._begin("connect")
            self._open_session()
            self._board.power_on()
            self._wait_for_connection()
            self._begin("command")
            self._done(self._ask())
            if self._plan.telemetry:
                self._wait_for_telemetry()
            for number in range(1, self._plan.restarts + 1):
                self._restart_broker(f"restart {number}")
            for content, end in releases:
                self._update(content, end)
        except _NotHeldError as error:
            self._run.failure = f"{self._step}: {error}"
            self._run.console = self._board.lines[-_TAIL_LEN:]

    def end(self) -> None:
        self._close_session()
        self._board.power_off()

    def _wait_for_telemetry(self) -> None:
        """What is live when nobody asks: an answer to `memory` has its own code in it."""
        self._begin("telemetry")
        live = self._wait(
            "telemetry with heap_live_bytes",
            lambda: self._report(lambda report: "heap_live_bytes" in report),
        )["heap_live_bytes"]
        self._done({"live": live})

    def _restart_broker(self, step: str) -> None:
        self._close_session()
        self._fleet.broker.stop()
        self._begin(step)
        self._fleet.broker.start()
        self._open_session()
        self._wait_for_connection()

    def _wait_for_connection(self) -> None:
        self._wait_for_line(_CONNECTED)
        row = self._done({})
        row.memory = self._ask()

    def _update(self, content: bytes, end: str) -> None:
        self._begin(f"order {Descriptor(content[:BLOCK_LEN]).version}")
        plan, fleet = self._plan, self._fleet
        broker = fleet.addresses["operators"]
        self._publish(
            lambda: publishing.release(plan.pki, fleet.folder, broker, self._device, content)
        )
        self._wait_for_update("accepted", end)
        self._done({})
        self._begin("download", anew=False)
        line = self._wait_for_line(MEMORY)
        self._done(self._figures(json.loads(line.removeprefix(MEMORY))))
        self._begin(end, anew=False)
        self._wait_for_update(end, end)
        row = self._done({})
        row.memory = self._ask()

    def _begin(self, step: str, anew: bool = True) -> None:
        """anew: what was said before has nothing to do with it."""
        self._step, self._started = step, time.monotonic()
        if anew:
            self._lines = len(self._board.lines)
            self._reports = len(self._session.messages) if self._session else 0

    def _done(self, memory: Memory) -> Row:
        row = Row(self._step, round(time.monotonic() - self._started, 1), memory)
        self._run.rows.append(row)
        return row

    # What the board says

    def _ask(self) -> Memory:
        ident = secrets.randbits(30)
        message = {"id": ident, "command": "memory", "args": {}}
        topic = f"signet/{self._device}/down/command"
        self._publish(lambda: self._operator.publish(topic, json.dumps(message).encode()))
        answer = self._wait(
            "answer to the command memory",
            lambda: self._report(lambda report: report.get("id") == ident),
        )
        if not answer.get("ok"):
            raise _NotHeldError(f"the command memory: {answer.get('reason')}")
        return self._figures(answer["result"])

    def _figures(self, memory: Memory) -> Memory:
        return memory if self._run.emulated else without_idf(memory)

    def _wait_for_line(self, text: str) -> str:
        return self._wait(
            f"{text!r} on the console",
            lambda: next((line for line in self._board.lines[self._lines :] if text in line), None),
        )

    def _wait_for_update(self, result: str, end: str) -> None:
        """end: the report that is wanted at last; another end is none of this one."""

        def is_end(report: Report) -> bool:
            return report.get("event") == "update" and report.get("result") in (result, *_ENDS)

        report = self._wait(f"report that it is {result}", lambda: self._report(is_end))
        if report["result"] not in (result, end):
            raise _NotHeldError("it is {result}: {reason}".format(**report))

    def _report(self, wanted: Callable[[Report], bool]) -> Report | None:
        prefix = f"signet/{self._device}/up/"
        for message in self._operator.messages[self._reports :]:
            if message.topic.startswith(prefix) and not message.retained:
                report = message.json()
                if wanted(report):
                    return report
        return None

    def _wait(self, what: str, look: Callable[[], _Found | None]) -> _Found:
        """What `look` finds, within the limit and while board and broker run."""
        end = time.monotonic() + self._plan.limit_s
        while True:
            running = self._board.running
            found = look()
            if found is not None:
                return found
            if not running:
                raise _NotHeldError(f"the board stopped: {self._board.stopped}")
            if not self._fleet.broker.running:
                raise _NotHeldError("the broker ended by itself")
            if time.monotonic() > end:
                raise _NotHeldError(f"no {what} within {self._plan.limit_s:g} s")
            time.sleep(_POLL_S)

    # The operator

    @property
    def _operator(self) -> OperatorSession:
        if self._session is None:
            raise RuntimeError("no session")
        return self._session

    def _publish(self, action: Callable[[], object]) -> None:
        """What the broker says no to is a step that does not hold."""
        try:
            action()
        except SignetError as error:
            raise _NotHeldError(str(error)) from error

    def _open_session(self) -> None:
        address = self._fleet.addresses["operators"]
        self._session = OperatorSession(self._plan.pki, address, EVERYTHING_DEVICES_SAY)
        self._session.__enter__()
        self._reports = 0

    def _close_session(self) -> None:
        if self._session is not None:
            self._session.__exit__()
            self._session = None
