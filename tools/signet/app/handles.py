"""What the fixtures `fleet` and `power` are: servers and power, for one board."""

from dataclasses import replace
from pathlib import Path

from signet.app import bench
from signet.app.bench import Bench
from signet.app.board import ProjectBoard
from signet.board.virtual.board import FlashOp
from signet.board.virtual.cycle import PowerCut
from signet.fleet.reports import Report


class FleetHandle:
    """The servers, with one board."""

    def __init__(self, running: Bench, board: ProjectBoard):
        self._bench = running
        self._board = board
        self._after = board.reports.mark

    def publish(self, version: str | None = None, app: str | Path | None = None) -> str:
        """Build, sign and order a version; which it is.

        version: None: one that was not released yet. app: a file, or the text of one, instead of
        the project's app.py.
        """
        ours = self._bench.project
        if isinstance(app, str):
            text, app = app, self._board.folder / "app.py"
            app.write_text(text)
        version = version or self._bench.next_version(ours.version)
        content = bench.build(replace(ours, version=version, app=app or ours.app))
        self._after = self._board.reports.mark
        self._bench.publish(content, self._board.id)
        return version

    def wait_for_update(self, result: str) -> Report:
        """That the board reports so of what was published last: "accepted", "confirmed", …

        NotReportedError at once if it is "refused", "failed" or "rolled-back" instead.
        """
        return self._board.reports.wait_for_update(result, self._after)

    def reports(self) -> list[tuple[str, Report]]:
        """All that the board has reported, as (kind, report)."""
        reports = self._board.reports
        found = [(reports.kind(message), message.json()) for message in reports.operator.messages]
        return [(kind, report) for kind, report in found if kind is not None]


class PowerHandle:
    """A board's power, reset button and network."""

    def __init__(self, board: ProjectBoard):
        self._board = board

    def cut(self) -> None:
        """Take the power away at once."""
        self._board.power_off()

    def restore(self) -> None:
        """Give it back, and wait until the board is connected."""
        self._board.start(record_flash=True)

    def reset(self) -> None:
        """Press reset and wait until it is connected: to an ESP32, a power-on."""
        self.cut()
        self.restore()

    def operations(self) -> list[FlashOp]:
        """The flash operations since the board was switched on."""
        return self._board.flash_ops()

    def cut_at(self, number: int, torn: int = 0) -> None:
        """Switch it off and on, and have the power cut at a flash operation, counted from 1.

        Of that one `torn` bytes are done. `board.wait_until_stopped()` waits for it.
        """
        self._board.power_on(cut=PowerCut(number, torn))

    def drop_network(self) -> None:
        """Take the board's link away, and break its connections."""
        self._board.set_network(False)

    def return_network(self) -> None:
        self._board.set_network(True)
