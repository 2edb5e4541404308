"""The driver against the simulated sensor, and against the numbers of the data sheet."""

import pytest
import sht3x
import simulated


class Wire:
    """A bus with a sensor, and a clock that a test moves; all that was written to it."""

    def __init__(self):
        self.now_ms = 100
        self.sensor = simulated.Bus(lambda: self.now_ms)
        self.now_ms += 2  # it has started
        self.written = []

    def writeto(self, address, data):
        self.written.append((address, bytes(data)))
        return self.sensor.writeto(address, data)

    def readfrom_into(self, address, buffer):
        self.sensor.readfrom_into(address, buffer)


@pytest.fixture
def wire():
    return Wire()


def measured(wire, driver):
    driver.start()
    wire.now_ms += sht3x.MEASURING_MS
    return driver.read()


def test_a_measurement(wire):
    driver = sht3x.SHT3x(wire)
    assert measured(wire, driver) == (20.63, 50.0)
    assert wire.written == [(0x44, b"\x24\x00")]


@pytest.mark.parametrize(
    ("raw", "values"),
    [((0, 0), (-45, 0)), ((0xFFFF, 0xFFFF), (130, 100)), ((0x4000, 0x4000), (-1.25, 25))],
)
def test_the_ends_of_the_scales(wire, raw, values):
    wire.sensor.raw = list(raw)
    assert measured(wire, sht3x.SHT3x(wire)) == values


def test_the_crc_of_the_data_sheet():
    assert sht3x.crc8(b"\xbe\xef") == simulated.crc8(b"\xbe\xef") == 0x92
    for number in range(0, 0x10000, 251):
        word = number.to_bytes(2, "big")
        assert sht3x.crc8(word) == simulated.crc8(word)


def test_a_bit_that_was_lost_on_the_wire(wire):
    driver = sht3x.SHT3x(wire)
    wire.sensor.garbled = 1
    with pytest.raises(OSError, match=r"CRC 0x.., expected 0x.."):
        measured(wire, driver)
    assert measured(wire, driver)[1] == 50.0


def test_it_is_deaf_while_it_measures(wire):
    driver = sht3x.SHT3x(wire)
    driver.start()
    wire.now_ms += sht3x.MEASURING_MS - 1
    with pytest.raises(OSError, match="19"):
        driver.read()
    wire.now_ms += 1
    assert driver.read()[1] == 50.0
    with pytest.raises(OSError, match="19"):  # what was read is gone
        driver.read()


def test_another_address_and_no_sensor(wire):
    with pytest.raises(OSError, match="19"):
        sht3x.SHT3x(wire, 0x45).start()
    wire.sensor.is_there = False
    with pytest.raises(OSError, match="19"):
        sht3x.SHT3x(wire).start()


def test_that_it_started_anew_is_said_once(wire):
    driver = sht3x.SHT3x(wire)
    assert [driver.was_reset(), driver.was_reset()] == [True, False]
    wire.sensor.power_on()
    wire.now_ms += 2
    assert driver.was_reset()
    driver.reset()
    with pytest.raises(OSError, match="19"):
        driver.start()
    wire.now_ms += 2
    assert driver.was_reset()
