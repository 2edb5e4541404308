"""The tests of the small project: what a user writes, with every fixture that he has."""

import app
import kettle
import pytest

from signet.app.board import CommandError
from signet.fleet.reports import NotReportedError

CRASHES = "raise RuntimeError('at its start')\n"


def test_on_cpython():
    assert kettle.to_fahrenheit(100) == 212
    assert app.greet(None, {"whom": "you"}) == "hello you"


def test_it_reports_and_obeys(board):
    assert board.event("begun")
    assert board.telemetry()["fahrenheit"] == 68
    board.configure({"level": 2})
    assert board.telemetry(level=2)
    assert board.command("greet", whom="you") == "hello you"
    with pytest.raises(CommandError, match="no water"):
        board.command("boil")


def test_a_release(board, fleet):
    version = fleet.publish()
    fleet.wait_for_update("confirmed")
    assert board.state(version=version, status="confirmed")["slot"] == "b"
    kinds = [kind for kind, _ in fleet.reports()]
    assert {"state", "event", "telemetry"} <= set(kinds)


def test_a_release_that_crashes_goes(board, fleet):
    fleet.publish(app=CRASHES)
    assert "at its start" in fleet.wait_for_update("rolled-back")["reason"]
    assert board.command("greet", whom="you") == "hello you"


def test_power_and_network(board, power):
    board.configure({"level": 5})
    assert power.operations()
    power.cut()
    assert not board.running
    power.restore()
    assert board.telemetry(level=5)
    power.reset()
    assert board.event("boot", cause=1)
    power.drop_network()
    assert board.reports.wait_for_state(board.reports.mark - 1, online=False)
    power.return_network()
    board.wait_for_line("connected to", start=len(board.lines))


def test_a_power_cut_while_it_writes(board, power):
    """Whenever the power goes, it has the old configuration after it, or the new one."""
    board.configure({"level": 1})
    power.reset()
    before = len(power.operations())
    board.configure({"level": 2})
    assert len(power.operations()) > before
    power.cut_at(before + 1, torn=10)
    board.wait_until_connected()
    with pytest.raises(NotReportedError):
        board.configure({"level": 3})
    assert board.stopped == "power cut"
    power.restore()
    assert board.telemetry()["level"] == 2
