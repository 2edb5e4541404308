"""Whether a value is out of its limits: told once when it goes out, and once when it is back."""


class Alarm:
    """is_on: whether the last value was out of its limits."""

    def __init__(self):
        self.is_on = False

    def changes(self, value, low, high, play):
        """Whether this value turns it on or off; back is `play` inside of the limits."""
        inside = play if self.is_on else 0
        is_on = not low + inside <= value <= high - inside
        changed = is_on != self.is_on
        self.is_on = is_on
        return changed
