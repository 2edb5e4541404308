"""Many readings as one message: what a radio costs, it costs by the message."""


class Summary:
    """Least, mean and most of the readings since it was last taken."""

    def __init__(self):
        self._start()

    def _start(self):
        self.count = 0
        self._sum = 0
        self._least = self._most = None

    def add(self, value):
        self._least = value if self.count == 0 else min(self._least, value)
        self._most = value if self.count == 0 else max(self._most, value)
        self._sum += value
        self.count += 1

    def take(self):
        """The figures as a dict, {"count": 0} without a reading; and starts anew."""
        found = {"count": self.count}
        if self.count:
            found["least"] = self._least
            found["mean"] = self._sum / self.count
            found["most"] = self._most
        self._start()
        return found
