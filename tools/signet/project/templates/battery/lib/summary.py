"""Many readings as one message: what a radio costs, it costs by the message.

Readings are whole numbers of 0 to 65,535. A summary fits into memory that outlasts a deep sleep.
"""

import struct

_FORM = "<HIHH"  # count, sum, least, most


class Summary:
    """Least, mean and most of some readings. kept: of `pack`, to go on with; or nothing."""

    def __init__(self, kept=b""):
        # Of another version's length: it is not ours.
        ours = len(kept) == struct.calcsize(_FORM)
        self.count, self._sum, self._least, self._most = (
            struct.unpack(_FORM, kept) if ours else (0, 0, 0xFFFF, 0)
        )

    def add(self, value):
        self.count += 1
        self._sum += value
        self._least = min(self._least, value)
        self._most = max(self._most, value)

    def pack(self):
        return struct.pack(_FORM, self.count, self._sum, self._least, self._most)

    def figures(self):
        """As a dict; there has to be a reading."""
        return {
            "count": self.count,
            "least": self._least,
            "mean": self._sum / self.count,
            "most": self._most,
        }
