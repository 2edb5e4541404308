"""device.files: the data that came with the image, read-only and verified as the code is."""

import os

from micropython import const

_PATH = const("/slot/data")
_SHOWN = const(64)


class Files:
    def open(self, name, mode="r"):
        """An open file, "r" or "rb"; ValueError for a name that is none, OSError for no file."""
        parts = name.split("/")
        if "" in parts or "." in parts or ".." in parts or "\\" in name or "\0" in name:
            raise ValueError("name %r, expected one such as 'tables/a.csv'" % name[:_SHOWN])
        if mode not in ("r", "rb"):
            raise ValueError("mode %r, expected 'r' or 'rb'" % mode)
        return open("/".join((_PATH, name)), mode)

    def names(self, folder=""):
        """Names for `open`, sorted, those in folders too."""
        found = []
        try:
            entries = os.listdir("/".join((_PATH, folder)) if folder else _PATH)
        except OSError:  # the image has no data
            return found
        for entry in entries:
            name = folder + "/" + entry if folder else entry
            if os.stat("/".join((_PATH, name)))[0] & 0x4000:
                found += self.names(name)
            else:
                found.append(name)
        found.sort()
        return found


def make(device):
    device.files = Files()
    return device.files
