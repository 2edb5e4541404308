"""A second heap segment of a chosen size, taken while the network is down.

MicroPython's heap on a stock ESP32 begins with 56,000 bytes. When an allocation does not fit, even
after a collection, the port takes as much again, or the largest free block of the IDF's heap if
that is smaller (`gc_try_add_heap` in py/gc.c): the memory that Wi-Fi and TLS live on. It never
asks. But who fills the heap while the largest free block has the size that is wanted, gets a
segment of that size. A long list holds the rest of the block for a moment: too long for "as much
again", it gets a segment made to measure, which the next collection gives back.

A segment that is empty is given back, too, so something has to lie in it for good. And not in its
first 16 bytes alone: the collection takes a segment with nothing behind those for empty.
"""

import gc
import sys

from micropython import const

_DEBUG = const(False)
_TRIES = const(3)
_OVERHEAD = const(2048)  # `gc_try_add_heap` adds this to what is asked, and 13/512 of long pieces
_PIECE = const(1024)  # words: too long for what `hold_len` leaves over in its own segment
_GRAIN = const(4096)  # the IDF's heap rounds long blocks up to a multiple, from 1.26 on
_PLENTY = const(512 * 1024)  # a free block of this size is PSRAM, which Wi-Fi does without


def reserve(size_kb):
    """Add a segment; what keeps it, for the caller to keep, or None if there is no such segment."""
    if not size_kb or sys.platform != "esp32":
        return None  # the virtual board's heap is of one piece
    if max([region[2] for region in _regions()]) >= _PLENTY:
        return None
    size = size_kb * 1024
    gc.collect()
    before = _total()
    for _ in range(_TRIES):
        try:
            pin = _grow(size)
        except MemoryError:
            pin = None
        gc.collect()
        grown = _total() - before
        if _DEBUG:
            print("signet: debug: heap segment of", grown)
        if size - size // 8 <= grown <= size + 2 * _GRAIN:
            return pin
        pin = None
        gc.collect()
    print("signet: error: no %d KB of heap reserved, but %d bytes" % (size_kb, grown))
    return None


def hold_len(regions, size, trim):
    """Words of a list that takes the largest free block, or with `trim` all but `size` of it.

    regions: [(size, free, largest free block, …)] of `esp32.idf_heap_info`.  0: no block is larger
    than wanted.
    """
    largest, free = max([(region[2], region[1]) for region in regions])
    if largest <= size + 2 * _GRAIN:
        return 0
    if trim:
        # What is said of a block is rounded down; the region knows better, if it is the only one.
        block = free if free - largest < largest // 16 else largest
        largest = block - size & -_GRAIN
    return min(largest - _OVERHEAD, largest * 512 // 525) // 4


def _grow(size):
    """Have the heap grow by `size`; a list whose items lie in the new segment.

    The collector takes whatever looks like an address for one, so what is long is cleared here,
    which frees it at once: it would stay, for all that the stack still shows of it.
    """
    held = []
    trim = True
    gc.collect()
    gc.disable()
    try:
        while True:
            length = hold_len(_regions(), size, trim)
            if not length:
                break
            held.append([None] * length)
            trim = False
        # All segments, and what there could be more: changes when the heap grows.
        limit = gc.mem_alloc() + gc.mem_free()
        while gc.mem_alloc() + gc.mem_free() == limit:
            held.append([None] * _PIECE)
        pin = held.pop()  # there was no place for its items, so they have the first of the new one
        del pin[16:]
        for _ in range(8):
            pin.pop()  # halves what is allocated, where it is, down to 64 bytes
        return pin
    finally:
        for part in held:
            part.clear()
        gc.enable()


def _regions():
    from esp32 import HEAP_DATA, idf_heap_info

    return idf_heap_info(HEAP_DATA)


def _total():
    """Bytes of all segments; `gc.mem_free` counts what the heap could grow by, too."""
    return gc.mem_alloc() + gc.mem_free() - max([region[2] for region in _regions()])
