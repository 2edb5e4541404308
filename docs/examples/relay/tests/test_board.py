"""On a virtual board, with a broker: every way in which the relay has to end up off."""

from pathlib import Path

import pytest

from signet.app.board import CommandError

APP = (Path(__file__).parents[1] / "app.py").read_text()


def state(board, **fields):
    report = board.telemetry(**fields)
    return report["on"], report["why"]


def test_it_is_off_at_first_and_does_what_it_is_told(board):
    assert state(board) == (False, "start")
    assert board.command("on") == {"on": True, "why": "command"}
    assert state(board) == (True, "command")
    assert board.command("off") == {"on": False, "why": "command"}
    assert state(board) == (False, "command")
    assert board.command("pulse", ms=200)["why"] == "pulse"
    assert state(board, on=True) == (True, "pulse")
    assert state(board, on=False) == (False, "end of the pulse")


@pytest.mark.parametrize("args", [{}, {"ms": 0}, {"ms": 60_001}, {"ms": "200"}, {"ms": True}])
def test_a_pulse_that_makes_no_sense_switches_nothing(board, args):
    with pytest.raises(CommandError, match="ms"):
        board.command("pulse", **args)
    assert state(board) == (False, "start")


def test_it_goes_off_when_the_network_is_gone_for_long(board, power):
    board.configure({"offline_s": 5})
    board.command("on")
    assert state(board, on=True)[0]
    power.drop_network()
    board.wait_for_line("relay: off, no connection")
    power.return_network()
    assert board.event("fail-safe")["why"] == "no connection"
    assert state(board, on=False) == (False, "no connection")


def test_it_is_off_after_a_power_cut(board, power):
    board.command("on")
    assert state(board, on=True)[0]
    power.cut()
    power.restore()
    assert state(board) == (False, "start")


def test_it_is_off_after_an_update(board, fleet):
    board.command("on")
    assert state(board, on=True)[0]
    fleet.publish()
    fleet.wait_for_update("confirmed")
    assert state(board, why="start") == (False, "start")


def test_it_is_off_after_the_watchdog(board, fleet):
    """A version whose loop can be made to hang: the chip's watchdog ends that."""
    hanging = "reporter.look()\n            while hanging:\n                pass\n"
    text = APP.replace("reporter.look()\n", hanging, 1)
    hang = '    device.commands["hang"] = lambda device, args: hanging.append(1)\n'
    text = text.replace("    try:\n        while True", hang + "    try:\n        while True", 1)
    fleet.publish(app=text + "\n\nhanging = []\n")
    fleet.wait_for_update("confirmed")
    board.command("on")
    assert state(board, on=True)[0]
    board.command("hang")
    assert board.event("boot", cause=3)["reason"].startswith("watchdog")
    assert state(board, why="start") == (False, "start")
