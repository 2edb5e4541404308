"""A virtual board that runs a project's application, with all that can be seen and done to it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from signet.board.virtual.board import VirtualBoard
from signet.errors import SignetError
from signet.fleet.proxy import Proxy
from signet.fleet.reports import NotReportedError, Report, Reports

_CONNECTED = "signet: connected to "
_START_S = 60

OnLine = Callable[[str], None]


class CommandError(SignetError):
    """The board refused a command or a configuration, or the application raised in it."""


class ProjectBoard(VirtualBoard):
    """A provisioned board. What it reports is read in order, each kind by itself.

    So nothing is missed that it reports between two calls: `telemetry` and `event` give what it has
    reported since it was switched on, and what has not been given before.
    """

    def __init__(
        self, folder: Path, reports: Reports, network: Proxy, on_line: OnLine | None = None
    ):
        """folder: with its flash. network: between it and the servers, taken down with its link."""
        super().__init__(folder, on_line=on_line)
        self.reports = reports
        reports.lives = lambda: self.running
        self.has_network = True
        self._network = network
        self._started: int  # the mark of its last power-on
        self._read: dict[str, int]  # the mark of what is to be given next
        self._forget()

    def _forget(self) -> None:
        self._started = self.reports.mark
        self._read = dict.fromkeys(("telemetry", "event"), self._started)

    @property
    def id(self) -> str:
        """The device id."""
        return self.reports.device

    # What it reports

    def telemetry(self, **fields: Any) -> Report:
        """The next telemetry, of those with these fields."""
        return self._next("telemetry", fields)

    def event(self, name: str, **fields: Any) -> Report:
        """The next event of this name, of those with these fields."""
        return self._next("event", {"event": name, **fields})

    def state(self, **fields: Any) -> Report:
        """A state since it was switched on that has these fields: version, status, online, …"""
        return self._explain(lambda: self.reports.wait_for_state(self._started, **fields))

    def _next(self, kind: str, fields: Report) -> Report:
        def wanted(found: str, report: Report) -> bool:
            return found == kind and fields.items() <= report.items()

        def find() -> Report:
            report, self._read[kind] = self.reports.find(
                f"{kind} with {fields}", wanted, self._read[kind]
            )
            return report

        return self._explain(find)

    def _explain(self, wait: Callable[[], Report]) -> Report:
        """With the end of the console, if it does not report."""
        try:
            return wait()
        except NotReportedError as error:
            raise NotReportedError(f"{error}{self.tail()}", error.hint) from None

    # What is asked of it

    def command(self, name: str, **args: Any) -> Any:
        """Have a command carried out; its result. CommandError with what the board says against."""
        answer = self._explain(lambda: self.reports.ask(name, args))
        if not answer["ok"]:
            raise CommandError(f"{self.id}: command {name}: {answer['reason']}")
        return answer["result"]

    def configure(self, values: Report) -> None:
        """Send a configuration other than its last one. CommandError if the board refuses it."""
        answer = self._explain(lambda: self.reports.configure(values))
        if not answer["ok"]:
            raise CommandError(f"{self.id}: configuration: {answer['reason']}")

    # Power and network

    def power_on(self, **how: Any) -> None:
        """Switch it on, as `VirtualBoard.power_on`; come back while it boots."""
        self._forget()
        super().power_on(**how)
        if not self.has_network:  # power-on gives the link back
            self.set_link(False)

    def wait_until_connected(self, timeout_s: float = _START_S) -> None:
        """Wait until it has had a session with the broker since it was switched on."""
        self.wait_for_line(_CONNECTED, timeout_s)

    def start(self, **how: Any) -> float:
        """Switch it on and wait until it is connected; the seconds that this took."""
        started = time.monotonic()
        self.power_on(**how)
        self.wait_until_connected()
        return time.monotonic() - started

    def set_network(self, up: bool) -> None:
        """Take the network away, or give it back: the radio's link, and every connection."""
        self.has_network = up
        if up:
            self._network.bring_back()
        else:
            self._network.take_down()
        if self.running:
            self.set_link(up)
