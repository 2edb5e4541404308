"""Small files on the `vfs` partition, written whole or not at all.

Nothing here is trusted: whoever can write to flash can change it.  Callers
verify what they load, or treat it as a hint.
"""

import os

ORDER_PATH = "/update.order"  # the update order being carried out
DONE_PATH = "/update.done"  # how far that is


def load(path, limit):
    """The content of a file as bytes, or None if it is missing or longer than `limit`."""
    try:
        if os.stat(path)[6] > limit:
            return None
        with open(path, "rb") as file:
            return file.read()
    except OSError:  # no such file, or one that littlefs cannot read any more
        return None


def exists(path):
    try:
        os.stat(path)
    except OSError:
        return False
    return True


def save(path, *parts):
    """Write bytes by way of a temporary file and a rename, which littlefs does atomically."""
    temporary = path + ".new"  # one left by a power cut is overwritten here
    with open(temporary, "wb") as file:
        for part in parts:
            file.write(part)
    os.rename(temporary, path)


def note(path, content):
    """Write bytes where nothing, or what was there before, would do as well: half the work.

    littlefs keeps what was there until the file is closed; a new file is empty until then.
    """
    with open(path, "wb") as file:
        file.write(content)


def remove(path):
    try:
        os.remove(path)
    except OSError:  # already gone
        pass
