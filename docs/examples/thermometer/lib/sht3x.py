"""An SHT30, SHT31 or SHT35 on I²C: temperature and humidity, measured when asked for.

Sensirion's data sheet SHT3x-DIS: commands of two bytes; of what the sensor answers, each two bytes
are followed by a CRC-8. While it measures it does not answer at all.
"""

from micropython import const

MEASURING_MS = const(16)  # 15.5 at most, section 2.2

_MEASURE = const(0x2400)  # once, high repeatability, without holding the clock: section 4.3
_STATUS = const(0xF32D)
_CLEAR_STATUS = const(0x3041)
_RESET = const(0x30A2)
_POLYNOMIAL = const(0x31)  # x⁸ + x⁵ + x⁴ + 1, from 0xFF: section 4.12


class SHT3x:
    """bus: a machine.I2C, or what has its writeto and readfrom_into.

    Every failure is an OSError: the bus's, or a CRC that is wrong.
    """

    def __init__(self, bus, address=0x44):
        """address: 0x45 if the pin ADDR is high."""
        self._bus = bus
        self._address = address
        self._words = bytearray(6)

    def start(self):
        """Begin to measure; `read` may come MEASURING_MS later."""
        self._send(_MEASURE)

    def read(self):
        """(°C, % of relative humidity) of the measurement that was begun, rounded to 0.01."""
        self._receive(self._words)
        celsius = 175 * self._word(0) / 65535 - 45
        percent = 100 * self._word(3) / 65535
        return round(celsius, 2), round(percent, 2)

    def was_reset(self):
        """Whether it started anew since this was asked last: its supply failed, perhaps."""
        self._send(_STATUS)
        view = memoryview(self._words)[:3]
        self._receive(view)
        self._send(_CLEAR_STATUS)
        return bool(self._word(0) & 0x10)

    def reset(self):
        """Have it start anew, whatever state it is in. It takes 1.5 ms."""
        self._send(_RESET)

    def _send(self, command):
        self._bus.writeto(self._address, bytes((command >> 8, command & 0xFF)))

    def _receive(self, words):
        self._bus.readfrom_into(self._address, words)
        for start in range(0, len(words), 3):
            found = crc8(words[start : start + 2])
            if found != words[start + 2]:
                raise OSError("CRC 0x%02x, expected 0x%02x" % (words[start + 2], found))

    def _word(self, start):
        return self._words[start] << 8 | self._words[start + 1]


def crc8(data):
    register = 0xFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register << 1 ^ (_POLYNOMIAL if register & 0x80 else 0)
            register &= 0xFF
    return register
