"""The application on a virtual board, with a broker: `signet test` starts them."""

import pytest

from signet.app.board import CommandError


def test_it_is_switched_and_reports_it(board):
    assert board.command("on", for_s=600) == {"on": True, "left_s": 600}
    assert board.telemetry(on=True)["left_s"] > 590
    assert board.command("off") == {"on": False, "left_s": 0}
    assert board.telemetry(on=False)["left_s"] == 0


def test_a_time_that_makes_no_sense_switches_nothing(board):
    for args in ({}, {"for_s": 0}, {"for_s": 3601}, {"for_s": "60"}):
        with pytest.raises(CommandError, match="for_s"):
            board.command("on", **args)
    assert not board.telemetry()["on"]


def test_it_is_open_after_a_loss_of_power(board, power):
    board.command("on", for_s=600)
    board.telemetry(on=True)
    power.cut()
    power.restore()
    assert not board.telemetry()["on"]
