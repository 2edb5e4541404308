"""The application on a virtual board, with a broker: `signet test` starts them."""

from signet.board.virtual.cycle import Wake


def sleep_once(board):
    """Wait until it sleeps, and end that as if its time had passed."""
    boots = len(board.boots)
    board.wait_for(lambda board: board.asleep)
    board.wake(Wake.TIMER)
    board.wait_for(lambda board: len(board.boots) > boots)


def test_it_reports_at_power_on_and_then_seldom(board):
    assert board.telemetry()["battery_mv"]["count"] == 1
    for _ in range(6):
        sleep_once(board)
    assert board.telemetry()["battery_mv"]["count"] == 6
