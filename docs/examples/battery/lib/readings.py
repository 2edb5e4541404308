"""Readings since the last report: 4 bytes each, for what a deep sleep leaves of memory."""

import struct

_VERSION = 1
_MOST = 96  # readings; the oldest give way
_HEAD = "<BB"
_ONE = "<HH"
_ONE_LEN = 4


class Readings:
    """is_first: nothing was kept, as after a power-on.  is_low: the battery was, when it was asked
    last."""

    def __init__(self, kept=b""):
        """kept: of `pack`; what is not of this version is dropped."""
        self.is_first = len(kept) < 2 or kept[0] != _VERSION or (len(kept) - 2) % _ONE_LEN != 0
        self.is_low = False
        self._found = []
        if not self.is_first:
            self.is_low = kept[1] == 1
            for at in range(2, len(kept), _ONE_LEN):
                self._found.append(struct.unpack_from(_ONE, kept, at))

    def __len__(self):
        return len(self._found)

    def add(self, battery_mv, moisture):
        """battery_mv: millivolts.  moisture: thousandths."""
        self._found = self._found[1 - _MOST :] if len(self._found) >= _MOST else self._found
        self._found.append((battery_mv, moisture))

    def take(self):
        """A report of all, which are gone then."""
        report = {
            "battery_mv": min([each[0] for each in self._found]),
            "moisture": [each[1] / 1000 for each in self._found],
        }
        self._found = []
        return report

    def pack(self):
        """Bytes for `device.rtc`: 386 at most, of 768."""
        packed = struct.pack(_HEAD, _VERSION, self.is_low)
        for each in self._found:
            packed += struct.pack(_ONE, *each)
        return packed
