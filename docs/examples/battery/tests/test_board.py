"""The probe on a virtual board with a broker: `signet test` starts them."""

from signet.board.virtual.cycle import Wake


def wake(board, reason=Wake.TIMER):
    """End the sleep, by the timer as if its time had passed, and wait for the next one."""
    board.wait_for(lambda board: board.asleep)
    boots = len(board.boots)
    board.wake(reason)
    board.wait_for(lambda board: board.asleep and len(board.boots) > boots)


def test_it_measures_often_and_reports_seldom(board):
    assert len(board.telemetry()["moisture"]) == 1
    for _ in range(4):
        wake(board)
    assert len(board.telemetry()["moisture"]) == 4
    assert board.state(wake="timer", online=False)["until"]


def test_the_button_has_it_report_at_once(board):
    board.telemetry()
    wake(board)
    wake(board, Wake.PIN)
    assert len(board.telemetry()["moisture"]) == 2
    assert board.state(wake="pin", online=False)["until"]


def test_a_release_comes_through_the_sleep(board, fleet):
    board.wait_for(lambda board: board.asleep)
    version = fleet.publish()
    for _ in range(4):  # the wake that reports takes it
        board.wait_for(lambda board: board.asleep)
        board.wake()
    fleet.wait_for_update("confirmed")
    assert board.state(version=version, online=False)["status"] == "confirmed"
