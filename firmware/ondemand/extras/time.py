"""device.time(): Unix seconds, and how far they may be trusted."""

import time

from firmware.ondemand.timekeeping import EPOCH


def make(device):
    agent = device._agent

    def read():
        """0: nobody's; the clock stands at what it cannot be before.  1: SNTP's.  2: certain."""
        trust = 0 if agent.timed is None else 2 if agent.timed else 1
        return int(time.time()) + EPOCH, trust

    device.time = read
    return read
