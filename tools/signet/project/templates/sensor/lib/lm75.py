"""An LM75 or one of its kin (LM75A, TMP75): a thermometer on I²C.

Register 0 holds the temperature, two bytes, signed, most significant first, in 1/256 °C; how many
of the last bits are always 0 differs between them. LM75A data sheet, 7.4.3.
"""

from micropython import const

_ADDRESS = const(0x48)  # with its three address pins low
_TEMPERATURE = const(0)


class LM75:
    """bus: a machine.I2C, or what has its readfrom_mem_into."""

    def __init__(self, bus, address=_ADDRESS):
        self._bus = bus
        self._address = address
        self._raw = bytearray(2)

    def read_c(self):
        """The temperature in °C; OSError if nothing answers."""
        self._bus.readfrom_mem_into(self._address, _TEMPERATURE, self._raw)
        value = self._raw[0] << 8 | self._raw[1]
        return (value - 0x10000 if value & 0x8000 else value) / 256
