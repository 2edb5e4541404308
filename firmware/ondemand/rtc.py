"""What RTC memory holds: it outlasts every reset and a deep sleep, but not a loss of power.

    restarts[,record]:kind:times reason

restarts: how many in a row did not last.  kind, times: the message that is worked on, and how often
it was (firmware/agent.py).  reason: why the run before this one ended.  Alone, the word `console`
opens the console (main.py).

record: base64 of what is kept over a deep sleep, with a CRC.  It has its place in the first word as
stage 1, which puts a reason behind that word when a run fails, then keeps it, and has not to know
of it.  A board that neither sleeps nor keeps anything has none.
"""

import binascii
import struct

from micropython import const

LIMIT = const(768)  # bytes of the application's; a reason has room behind it
_HEAD = const("<IIB")
_HEAD_LEN = const(9)
_FRESH_S = const(86400)  # as long as an authenticated time holds without a sleep (sync.py)
_LONGEST_S = const(3600)
_WAKES = const("0 1 pin pin timer touch ulp pin uart")  # esp_sleep_source_t of the IDF


def load(agent, text, is_wake):
    """Take what was kept; after a deep sleep the clock is as good as it was, for a while."""
    from firmware.ondemand import timekeeping

    record = Record(text)
    agent.held = record.pack()
    if is_wake and record.is_fresh(timekeeping.now()):
        agent.timed = 0
        agent.heard = record.timed


def wake():
    """What has ended the deep sleep."""
    import machine

    names = _WAKES.split()
    number = machine.wake_reason()
    return names[number] if number < len(names) else str(number)


class Record:
    """timed: Unix seconds at which the time was authenticated last, 0 if it never was.

    due: Unix seconds before which no connection is tried again; misses: wakes in a row without one.
    data: the application's.
    """

    timed = due = misses = 0
    data = b""

    def __init__(self, text=b""):
        """text: base64, of this form or of any other."""
        try:
            raw = binascii.a2b_base64(text)
        except ValueError:
            return
        end = len(raw) - 4
        if end >= _HEAD_LEN and struct.pack("<I", binascii.crc32(raw[:end])) == raw[end:]:
            self.timed, self.due, self.misses = struct.unpack_from(_HEAD, raw)
            self.data = raw[_HEAD_LEN:end]

    def pack(self):
        """What the agent keeps of it: a text, with what divides it from the number before."""
        raw = struct.pack(_HEAD, self.timed, self.due, self.misses) + self.data
        raw += struct.pack("<I", binascii.crc32(raw))
        return "," + binascii.b2a_base64(raw).decode().strip()

    def is_fresh(self, now):
        """Whether the clock, which goes on in a sleep, still says what a server said."""
        return self.timed and 0 <= now - self.timed <= _FRESH_S

    def is_due(self, now):
        """Whether a connection may be tried."""
        return now >= self.due

    def miss(self, now, sleep_s):
        """Put the next attempt off: after so many sleeps as doubles with each, for an hour at most.

        So a board whose broker is away is awake for long now and then, and not at each wake.
        """
        self.misses = min(self.misses + 1, 16)
        pause_s = sleep_s * ((1 << self.misses - 1) - 1)
        # Not the whole of it: the clock of a sleep is not exact.
        self.due = now + sleep_s // 2 + min(pause_s, _LONGEST_S) if pause_s else 0

    def hit(self):
        self.misses = self.due = 0
