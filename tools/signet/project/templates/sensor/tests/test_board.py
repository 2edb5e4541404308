"""The application on a virtual board, with a broker: `signet test` starts them."""


def test_it_reports_as_often_as_it_is_told(board):
    assert board.telemetry()["temperature_c"] >= 20
    board.configure({"interval_s": 1})
    before = board.telemetry()["temperature_c"]
    assert board.telemetry()["temperature_c"] > before
