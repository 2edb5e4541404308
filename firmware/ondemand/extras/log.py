"""device.log(level, text, ...): a ring in memory, which the command `log` fetches."""

import json

from micropython import const

_DEBUG = const(False)
_LEVELS = const(("debug", "info", "warning", "error"))
_RING_LEN = const(2048)  # bytes that all texts may take, with what is around each
_OVERHEAD = const(64)
_TEXT_LEN = const(200)  # characters; a longer text is cut
_ANSWER_LEN = const(3000)  # bytes of JSON; an answer may have 3,584


class Log:
    """least: what is below this level is not kept, only printed, and that in a dev image."""

    least = "info"

    def __init__(self, device):
        self._device = device
        self._entries = []  # (uptime in s, level, text)
        self._first = 0  # number of the first of them
        self._len = 0

    def __call__(self, level, text, *args):
        rank = _rank(level)
        try:
            text = text % args if args else text
        except (TypeError, ValueError):  # a mistake in a message is not worth a restart
            text = "%s %r" % (text, args)
        text = text[:_TEXT_LEN]
        if _DEBUG:
            print("signet: debug: %s: %s" % (level, text))
        if rank < _rank(self.least):
            return
        self._entries.append((self._device.uptime_s(), level, text))
        self._len += _OVERHEAD + len(text.encode())
        while self._len > _RING_LEN:
            self._len -= _OVERHEAD + len(self._entries.pop(0)[2].encode())
            self._first += 1

    def fetch(self, device, args):
        """Answer to the command `log`: what there is from a number on, as much as fits."""
        least = _rank(args["level"])
        number = max(args["from"], self._first)
        answer = {"lost": number - args["from"], "lines": []}
        size = 0
        for uptime_s, level, text in self._entries[number - self._first :]:
            if _rank(level) >= least:
                entry = [number, uptime_s, level, text]
                size += len(json.dumps(entry).encode()) + 2
                if size > _ANSWER_LEN:
                    break
                answer["lines"].append(entry)
            number += 1
        answer["next"] = number
        return answer


def _rank(level):
    if level not in _LEVELS:
        raise ValueError("level %r, expected one of %s" % (level, ", ".join(_LEVELS)))
    return _LEVELS.index(level)


def make(device):
    device.log = log = Log(device)
    arguments = {"from": (0, 0, 1 << 30), "level": (_LEVELS[0], _LEVELS)}
    device.commands["log"] = log.fetch, arguments
    return log
