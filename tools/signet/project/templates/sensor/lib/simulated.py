"""An I²C bus with an LM75 on it, for boards that have none."""

from micropython import const

_STEP = const(32)  # 0.125 °C, which is what an LM75A can tell


class Bus:
    """registers: {number: 16 bits}, for tests to change. Each look finds it a little warmer."""

    def __init__(self):
        self.registers = {0: 20 << 8}

    def readfrom_mem_into(self, address, register, buffer):
        value = self.registers[register]
        buffer[0] = value >> 8 & 0xFF
        buffer[1] = value & 0xFF
        self.registers[register] = value + _STEP
