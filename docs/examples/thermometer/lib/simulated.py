"""An I²C bus with an SHT3x on it, for tests and for boards that have none: what is on the wire.

The sensor acknowledges its address or not, takes commands of two bytes, is deaf while it measures
or starts, and answers with a CRC behind each two bytes.
"""

import time

from micropython import const

_ADDRESS = const(0x44)
_NO_ANSWER = const(19)  # ENODEV: what MicroPython says of an address that nobody acknowledges
_MEASURING_MS = {0x2400: 16, 0x240B: 7, 0x2416: 5}  # by repeatability, rounded up
_STARTING_MS = const(2)
_READ_STATUS = const(0xF32D)
_CLEAR_STATUS = const(0x3041)
_RESET = const(0x30A2)
_WAS_RESET = const(0x10)
_REFUSED = const(0x02)  # the last command was none


class Bus:
    """raw: temperature and humidity as the sensor's 16 bits; each measurement finds it warmer.

    is_there: whether anything acknowledges. garbled: how many answers will have a bit wrong. clock:
    function that gives milliseconds.
    """

    def __init__(self, clock=None):
        self.raw = [0x6000, 0x8000]  # 20.63 °C, 50 %
        self.step = 8
        self.is_there = True
        self.garbled = 0
        self._clock = clock or time.ticks_ms
        self.power_on()

    def power_on(self):
        """The supply is back after it had failed: what was measured is lost."""
        self._status = _WAS_RESET
        self._answer = None
        self._ready_ms = self._clock() + _STARTING_MS

    def writeto(self, address, data):
        """As machine.I2C: how many bytes were acknowledged."""
        self._select(address)
        if len(data) == 2:
            self._take(data[0] << 8 | data[1])
        return len(data)

    def readfrom_into(self, address, buffer):
        self._select(address)
        if self._answer is None:
            raise OSError(_NO_ANSWER)
        content = b"".join([word + bytes((crc8(word),)) for word in self._answer])
        self._answer = None
        if self.garbled:
            self.garbled -= 1
            content = bytes((content[0] ^ 1,)) + content[1:]
        for place in range(
            len(buffer)
        ):  # the wire is pulled up: nobody drives it behind the answer
            buffer[place] = content[place] if place < len(content) else 0xFF

    def _select(self, address):
        # Deaf: before the time is there that the last command takes.
        if not self.is_there or address != _ADDRESS or self._clock() < self._ready_ms:
            raise OSError(_NO_ANSWER)

    def _take(self, command):
        self._answer = None
        self._status &= ~_REFUSED
        if command in _MEASURING_MS:
            self._ready_ms = self._clock() + _MEASURING_MS[command]
            self._answer = [raw.to_bytes(2, "big") for raw in self.raw]
            self.raw[0] = min(self.raw[0] + self.step, 0xFFFF)
        elif command == _READ_STATUS:
            self._answer = [self._status.to_bytes(2, "big")]
        elif command == _CLEAR_STATUS:
            self._status &= ~_WAS_RESET
        elif command == _RESET:
            self.power_on()
        else:
            self._status |= _REFUSED


def crc8(word):
    """Of two bytes, by long division: apart from the driver's, which is to be held against it."""
    rest = (int.from_bytes(word, "big") ^ 0xFF00) << 8
    for bit in range(23, 7, -1):
        if rest >> bit & 1:
            rest ^= 0x131 << bit - 8
    return rest
