"""What the application keeps over a sleep, without a board."""

import pytest
from summary import Summary


def test_a_summary_goes_on_after_a_sleep():
    summary = Summary()
    for value in (4100, 4000, 4050):
        summary.add(value)
        summary = Summary(summary.pack())
    assert summary.figures() == {"count": 3, "least": 4000, "mean": 4050, "most": 4100}


@pytest.mark.parametrize("kept", [b"", b"1", bytes(9), bytes(11)])
def test_what_another_version_kept_is_not_taken(kept):
    summary = Summary(kept)
    summary.add(65535)
    assert summary.figures() == {"count": 1, "least": 65535, "mean": 65535, "most": 65535}
