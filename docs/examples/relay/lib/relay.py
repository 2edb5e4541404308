"""A relay that is off unless there is a reason that still holds.

Off is the safe state. Time comes from the caller, in milliseconds of a clock that only goes
forward; `look` has to be called often, as it is what switches off.
"""


class Relay:
    """pin: called with 0 or 1, as machine.Pin is; it is 0 from here on.

    is_on. why: what brought it into the state that it is in.
    """

    def __init__(self, pin, offline_ms):
        """offline_ms: how long it stays on without a connection."""
        pin(0)
        self.is_on = False
        self.why = "start"
        self.offline_ms = offline_ms
        self._pin = pin
        self._ends_ms = None  # of a pulse
        self._seen_ms = 0  # when there was a connection last

    def switch_on(self, now_ms, length_ms=None):
        """Close it, until it is switched off, or for the length of a pulse."""
        self._ends_ms = None if length_ms is None else now_ms + length_ms
        self._seen_ms = now_ms  # who asks for it is connected
        self._set(True, "command" if length_ms is None else "pulse")

    def switch_off(self, why="command"):
        self._ends_ms = None
        self._set(False, why)

    def look(self, now_ms, is_online):
        """Switch it off if nothing keeps it on any more."""
        if is_online:
            self._seen_ms = now_ms
        if not self.is_on:
            return
        if self._ends_ms is not None and now_ms >= self._ends_ms:
            self.switch_off("end of the pulse")
        elif now_ms - self._seen_ms >= self.offline_ms:
            self.switch_off("no connection")

    def _set(self, is_on, why):
        self._pin(1 if is_on else 0)  # first: what follows may fail
        self.is_on = is_on
        self.why = why
