"""Writes an ordered image into the slot that is not running; a core without I/O of its own.

Order of calls: `check_signature` with the image's last sector before anything is written,
`write` block after block, `finish`.  Every step may be the last one before a power cut:
what boots does not change until `finish` has verified the slot from flash and staged it.

The verifier is imported by the steps that need it, so that it does not take memory from
the download.
"""

import binascii

from micropython import const

from firmware.ondemand.store import DONE_PATH, ORDER_PATH
from trust import TrustError, block_count

BLOCK_LEN = const(4096)

_EMPTY = const(0)  # trust.state.EMPTY, without keeping that module
_SAVE_EVERY = const(4)  # blocks; a restart repeats fewer than these


class InstallError(TrustError):
    """The image is not the one that was ordered, or not one for this board."""


def forget(files):
    files.remove(ORDER_PATH)
    files.remove(DONE_PATH)


def load_done(files, order):
    """Blocks of this order that are in flash, as far as was written down."""
    numbers = (files.load(DONE_PATH, 24) or b"").split(b" ")
    if len(numbers) != 2 or not numbers[0].isdigit() or not numbers[1].isdigit():
        return 0
    if int(numbers[0]) != order["number"]:
        return 0
    return min(int(numbers[1]), order["size"] // BLOCK_LEN)


class Install:
    """One image on its way into a slot.

    total: blocks of the image.  done: blocks that are in flash.
    """

    def __init__(self, order, boot, files):
        self._order = order
        self._boot = boot
        self._files = files
        self._slot = 1 - boot.running
        self._digest = binascii.unhexlify(order["digest"])
        self.total = order["size"] // BLOCK_LEN
        # Progress is only a hint: a slot that has not been cleared holds none of this image.
        cleared = boot.state.status[self._slot] == _EMPTY
        self.done = load_done(files, order) if cleared else 0

    def check_signature(self, sector):
        """Check the image's last sector: the release key must have signed the ordered digest.

        So that an image that was not released never costs the slot its content.
        """
        from trust import signature

        signature.verify(sector, self._digest, self._boot.record["release"])

    def write(self, block):
        """Write the next block; the first is checked as a descriptor before."""
        if not self.done:
            from trust.image import Descriptor

            self._check_descriptor(Descriptor(block))
            self._boot.state.clear(self._slot)
        self._boot.slots[self._slot].writeblocks(self.done, block)
        self.done += 1
        if not self.done % _SAVE_EVERY:
            self.save()

    def save(self):
        """Write down how far it has come."""
        self._files.note(DONE_PATH, b"%d %d" % (self._order["number"], self.done))

    def finish(self):
        """Verify the slot from flash and stage it; TrustError if it is not the ordered image."""
        self.save()
        self._check_descriptor(self._verify())
        self._boot.state.stage(self._slot)
        forget(self._files)

    def _verify(self):
        from trust import image

        boot = self._boot
        return image.verify(boot.slots[self._slot], boot.record, boot.state.floor, boot.platform)

    def _check_descriptor(self, found):
        order, boot = self._order, self._boot
        slot_len = block_count(boot.slots[self._slot]) * BLOCK_LEN
        found.check(slot_len, boot.record, boot.state.floor, boot.platform)
        if found.image_len != order["size"]:
            raise InstallError("image of %d bytes, ordered %d" % (found.image_len, order["size"]))
        if found.version != order["version"] or found.counter != order["counter"]:
            raise InstallError(
                "image is version %s, counter %d; ordered %s, %d"
                % (found.version, found.counter, order["version"], order["counter"])
            )
        if found.build_time < boot.build_time:
            raise InstallError(
                "image was built at %d, before the running one at %d"
                % (found.build_time, boot.build_time)
            )
        if found.digest not in (None, self._digest):
            raise InstallError("slot holds another image than the ordered one")
