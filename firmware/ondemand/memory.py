"""What memory is used and left, in bytes: answer to the command `memory`, and a console line.

live, free, total: of MicroPython's heap, after a collection; what is loaded for the answer is live,
and a total that has grown says that MicroPython took more of the IDF's.  largest: free in one piece
there.  names: how many are in memory.  idf_free, idf_largest, idf_least: of the IDF's heap, in
which TLS and Wi-Fi have theirs: free, in one piece, least there ever was.  uptime_s: of the agent.
"""

import gc
import io
import os

import esp32
import micropython
from micropython import const

_BLOCK_LEN = const(16)  # of an ESP32's heap
_TEXT_LEN = const(384)
# One text, and hardly a name here is new to a board: it would stay, and beside a connection come to
# lie in a second segment of heap, which then stays, too.
_KEYS = const("live free total names largest uptime_s idf_free idf_largest idf_least")


def command(device, args):
    """A dict; what the port does not tell is None."""
    gc.collect()
    found = [gc.mem_alloc()] + [None] * 4
    if hasattr(os, "dupterm"):
        # MicroPython has these figures for the console only, which shows them, too.
        stream = io.BytesIO(_TEXT_LEN)
        before = os.dupterm(stream)
        try:
            micropython.mem_info()
            micropython.qstr_info()
        finally:
            os.dupterm(before)
        found = read(stream.getvalue().decode())
    heaps = esp32.idf_heap_info(esp32.HEAP_DATA)
    found.append(device.uptime_s())
    found.append(sum([heap[1] for heap in heaps]))
    found.append(max([heap[2] for heap in heaps]))
    found.append(sum([heap[3] for heap in heaps]))
    return dict(zip(_KEYS.split(), found))


def read(value):
    """The first five figures, out of what mem_info and qstr_info print."""
    found = []
    for mark in ("used: ", "free: ", "total: ", "n_qstr=", "max free sz: "):
        rest = value.split(mark, 1)[1:]  # another MicroPython may call it otherwise
        found.append(int(rest[0].replace(",", " ").split()[0]) if rest else None)
    if found[4] is not None:
        found[4] *= _BLOCK_LEN
    return found
