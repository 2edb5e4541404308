"""What is kept over a sleep, and what is made of a voltage: without a board."""

import probe
import pytest
from readings import Readings


def test_readings_outlast_a_sleep():
    readings = Readings()
    assert readings.is_first
    for number in range(3):
        readings.add(4100 - number, 500 + number)
        readings.is_low = number == 2
        readings = Readings(readings.pack())
        assert not readings.is_first
    assert (len(readings), readings.is_low) == (3, True)
    assert readings.take() == {"battery_mv": 4098, "moisture": [0.5, 0.501, 0.502]}
    assert len(readings) == 0


def test_the_oldest_give_way_before_memory_does():
    readings = Readings()
    for number in range(200):
        readings.add(4000, number)
    assert len(readings.pack()) == 386
    assert readings.take()["moisture"] == [number / 1000 for number in range(104, 200)]


@pytest.mark.parametrize("kept", [b"", b"\x01", b"\x02\x00", b"\x01\x00\x01", b"12"])
def test_what_another_version_kept_is_dropped(kept):
    assert Readings(kept).is_first
    assert len(Readings(kept)) == 0


def test_moisture_is_from_dry_to_wet():
    voltages = (3_000_000, 2_600_000, 1_850_000, 1_100_000, 0)
    assert [probe.moisture(uv) for uv in voltages] == [0, 0, 500, 1000, 1000]
