"""The application's decisions, without a board."""

import app
from summary import Summary


def test_a_summary_is_of_what_came_since_the_last():
    summary = Summary()
    for value in (4100, 4000, 4050):
        summary.add(value)
    assert summary.take() == {"count": 3, "least": 4000, "mean": 4050, "most": 4100}
    assert summary.take() == {"count": 0}
    summary.add(-5)
    assert summary.take() == {"count": 1, "least": -5, "mean": -5, "most": -5}


def test_a_battery_at_the_border_is_told_once():
    told, was_low = [], False
    for battery_mv in (3500, 3399, 3401, 3399, 3499, 3500, 3399):
        if app.low(battery_mv, was_low) != was_low:
            was_low = not was_low
            told.append(battery_mv)
    assert told == [3399, 3500, 3399]


def test_an_interval_that_cannot_be_used_is_not():
    assert app.report_s({"report_s": 60}) == 60
    for config in ({}, {"report_s": 59}, {"report_s": 86401}, {"report_s": "60"}):
        assert app.report_s(config) == 900
