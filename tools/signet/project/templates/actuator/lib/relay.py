"""A relay that is off unless something keeps it on.

Time comes from the caller, in whole seconds of any clock that only goes forward.
"""


class Relay:
    """pin: called with 0 or 1, as machine.Pin is. It is set to 0 at once."""

    def __init__(self, pin):
        self._pin = pin
        self._ends_s = 0
        self.is_on = False
        pin(0)

    def switch_on(self, now_s, for_s):
        """Close it for so long, from now; a later call counts anew."""
        self._ends_s = now_s + for_s
        self.is_on = True
        self._pin(1)

    def switch_off(self):
        self.is_on = False
        self._pin(0)

    def left_s(self, now_s):
        """Seconds until it opens by itself; 0 if it is open. To be called often: it opens it."""
        left_s = self._ends_s - now_s if self.is_on else 0
        if self.is_on and left_s <= 0:
            self.switch_off()
        return max(left_s, 0)
