"""The application on a virtual board, with its servers: `signet test` runs it, too."""


def test_it_reports_and_goes_on_after_a_power_cut(board, power):
    assert board.telemetry()
    power.cut()
    power.restore()
    assert board.telemetry()


def test_the_next_version_stays(board, fleet):
    version = fleet.publish()
    fleet.wait_for_update("confirmed")
    assert board.state(version=version, status="confirmed")
