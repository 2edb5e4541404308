"""Boot state: which slot to run next, kept safe against a power cut at any moment.

Two flash sectors hold one record each and are written in turn, so that a write
that is cut short spoils only the older one.  One method is one record, written
and read back: every change is whole or has not happened.

What holds whatever is called in whatever order:
- the active slot is never cleared or staged; it is marked bad only as another
  confirmed slot takes its place;
- the floor and the order number never fall, even if one record is lost;
- a slot on trial is CONFIRMED only from TRYING, and BAD once its tries are spent.
"""

import binascii
import struct

from micropython import const

from . import TrustError, block_count

EMPTY = const(0)  # nothing that may run: never written, or being written
STAGED = const(1)  # verified from flash, waiting for the restart
TRYING = const(2)  # running on trial; `tries` boots are left
CONFIRMED = const(3)  # passed its self-test
BAD = const(4)  # spent its tries or failed verification on trial

NAMES = ("empty", "staged", "trying", "confirmed", "bad")
TRIES = const(3)  # boots that a staged slot gets to confirm itself

_MAGIC = const(b"SGBS")
_STRUCT = const("<4sIBBBBB3xIII")
_LEN = const(28)
_PROGRAM_LEN = const(32)  # a multiple of what flash encryption can write


class StateError(TrustError):
    """No valid record, a flash write that did not take, or a step that is not allowed."""


class BootState:
    """The boot state of a board.

    device: the block device it is kept on.
    active: index of the slot that boots when none is on trial (0 is a, 1 is b).
    status, tries: per slot.
    floor: least security counter that may run.
    order: number of the last update order accepted.
    """

    def __init__(self, device, fresh=False):
        """Load from a block device of at least two blocks.

        With `fresh` (provisioning only) start a new state instead of reading one.
        Raises StateError if no record is valid: the floor is lost with it, so
        nothing may run until the board is provisioned again.
        """
        if block_count(device) < 2:
            raise StateError("boot state: %d blocks, expected 2" % block_count(device))
        self.device = device
        self._sector = 1  # where the newest record is
        self._sequence = 0
        self.active = 0
        self.status = [EMPTY, EMPTY]
        self.tries = [0, 0]
        self.floor = 0
        self.order = 0
        if not fresh:
            self._load()

    def _load(self):
        found = [self._read(0), self._read(1)]
        if not any(found):
            raise StateError("boot state: no valid record in either sector")
        if found[0] and found[1]:
            # Serial arithmetic (RFC 1982): right across the wrap of the counter.
            self._sector = int(0 < (found[1][1] - found[0][1]) & 0xFFFFFFFF < 0x80000000)
        else:
            self._sector = 0 if found[0] else 1
        (
            _,
            self._sequence,
            self.active,
            self.status[0],
            self.tries[0],
            self.status[1],
            self.tries[1],
            _,
            _,
            _,
        ) = found[self._sector]
        for record in found:
            if record:
                self.floor = max(self.floor, record[7])
                self.order = max(self.order, record[8])

    def _read(self, sector):
        raw = bytearray(_LEN)
        self.device.readblocks(sector, raw, 0)
        record = struct.unpack(_STRUCT, raw)
        if record[0] != _MAGIC or record[9] != binascii.crc32(memoryview(raw)[: _LEN - 4]):
            return None
        if record[2] > 1 or record[3] > BAD or record[5] > BAD:
            return None
        return record

    def _store(self):
        record = bytearray(b"\xff" * _PROGRAM_LEN)
        struct.pack_into(
            _STRUCT,
            record,
            0,
            _MAGIC,
            self._sequence + 1 & 0xFFFFFFFF,
            self.active,
            self.status[0],
            self.tries[0],
            self.status[1],
            self.tries[1],
            self.floor,
            self.order,
            0,
        )
        crc = binascii.crc32(memoryview(record)[: _LEN - 4])
        struct.pack_into("<I", record, _LEN - 4, crc)
        sector = 1 - self._sector
        self.device.ioctl(6, sector)  # erase
        self.device.writeblocks(sector, record, 0)
        found = bytearray(_PROGRAM_LEN)
        self.device.readblocks(sector, found, 0)
        if found != record:
            raise StateError("boot state: sector %d does not hold what was written" % sector)
        self._sequence = self._sequence + 1 & 0xFFFFFFFF
        self._sector = sector

    def _store_twice(self):
        """What must never fall is in both sectors: the loss of one does not lower it."""
        self._store()
        self._store()

    def candidates(self):
        """Slots that may boot, best first: one with tries left, the active one, the other."""
        trial = 1 - self.active
        order = []
        if self.on_trial(trial) and self.tries[trial]:
            order.append(trial)
        for slot in (self.active, trial):
            if self.status[slot] == CONFIRMED:
                order.append(slot)
        return order

    def on_trial(self, slot):
        return self.status[slot] in (STAGED, TRYING)

    def begin_try(self, slot):
        """Spend one try of a slot on trial, in flash, before its code runs."""
        self._need(slot, (STAGED, TRYING), "tried")
        if not self.tries[slot]:
            raise StateError("slot %s: no tries left" % "ab"[slot])
        self.status[slot] = TRYING
        self.tries[slot] -= 1
        self._store()

    def mark_bad(self, slot):
        """Give up on a slot on trial until it is rewritten."""
        self._need(slot, (STAGED, TRYING), "given up")
        self.status[slot] = BAD
        self.tries[slot] = 0
        self._store()

    def accept_order(self, number):
        """Record an update order as the last accepted one."""
        if number <= self.order:
            raise StateError("order %d is not above the last one, %d" % (number, self.order))
        self.order = number
        self._store_twice()

    def clear(self, slot):
        """Declare a slot empty, before its first block is overwritten."""
        if slot == self.active:
            raise StateError("slot %s is active" % "ab"[slot])
        if self.status[slot] != EMPTY:
            self.status[slot] = EMPTY
            self.tries[slot] = 0
            self._store()

    def stage(self, slot):
        """Let a slot that was written and verified run on trial from the next boot."""
        if slot == self.active:
            raise StateError("slot %s is active" % "ab"[slot])
        self._need(slot, (EMPTY,), "staged")
        self.status[slot] = STAGED
        self.tries[slot] = TRIES
        self._store()

    def confirm(self, slot, counter):
        """Make a slot on trial the active one and raise the floor to its counter."""
        self._need(slot, (TRYING,), "confirmed")
        self.status[slot] = CONFIRMED
        self.tries[slot] = 0
        self.active = slot
        self.floor = max(self.floor, counter)
        self._store_twice()

    def fall_back(self, slot):
        """Make the other confirmed slot the active one: the active one no longer verifies."""
        if slot == self.active:
            raise StateError("slot %s is active" % "ab"[slot])
        self._need(slot, (CONFIRMED,), "fallen back to")
        self.status[self.active] = BAD
        self.active = slot
        self._store()

    def provision(self, counter, slot=0):
        """Write the first record of a new board: `slot` holds a verified image."""
        self.active = slot
        self.status[slot] = CONFIRMED
        self.floor = counter
        self._store()

    def _need(self, slot, wanted, name):
        if self.status[slot] not in wanted:
            raise StateError(
                "slot %s is %s and cannot be %s" % ("ab"[slot], NAMES[self.status[slot]], name)
            )
