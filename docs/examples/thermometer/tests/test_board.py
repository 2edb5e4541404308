"""On a virtual board, with a broker: what it has no sensor for is simulated there."""

import pytest

from signet.app.board import CommandError


def test_it_measures_and_is_configured(board):
    first = board.telemetry()
    assert 20 < first["temperature_c"] < 22
    assert first["humidity_percent"] == 50.0
    board.configure({"interval_s": 1, "high_c": 20.0})
    assert board.event("alarm")["on"] is True
    assert board.telemetry()["temperature_c"] > first["temperature_c"]
    with pytest.raises(CommandError, match="interval_s: expected a whole number from 1 to 3600"):
        board.configure({"interval_s": 0})


def test_the_next_version_stays(board, fleet):
    version = fleet.publish()
    fleet.wait_for_update("confirmed")
    board.state(version=version, status="confirmed")
