"""The application's decisions, without a board."""

import app
import lm75
import pytest
import simulated


@pytest.mark.parametrize(
    ("register", "celsius"),
    [(0x0000, 0), (0x7FE0, 127.875), (0x1900, 25), (0xFFE0, -0.125), (0xE700, -25), (0xC900, -55)],
)
def test_the_temperature_in_the_register(register, celsius):
    bus = simulated.Bus()
    bus.registers[0] = register
    assert app.measure(lm75.LM75(bus)) == {"temperature_c": celsius}


def test_a_sensor_that_does_not_answer_is_reported():
    class NoSensor:
        def readfrom_mem_into(self, address, register, buffer):
            raise OSError(19, "ENODEV")

    assert "ENODEV" in app.measure(lm75.LM75(NoSensor()))["fault"]
