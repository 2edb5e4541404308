"""The parts of a board that a boot and an update touch, in RAM."""

import slots
from flash_sim import SECTOR, FileSim, FlashSim

from trust.boot import select
from trust.state import BootState


class BoardSim:
    """A provisioned board, without power.

    identity, state: FlashSim.  slots: two of them.  files: FileSim.
    """

    def __init__(self, image_a="1.0.0", image_b=None, log=None, before=None, **state):
        """image_a, image_b: names of what is in the slots.  state: of the newest record, see
        `slots.state_record`.  log, before: see flash_sim.
        """
        self.identity = FlashSim(2, "identity", log, before)
        self.state = FlashSim(2, "state", log, before)
        self.slots = (
            FlashSim(slots.SLOT_BLOCKS, "a", log, before),
            FlashSim(slots.SLOT_BLOCKS, "b", log, before),
        )
        self.files = FileSim(before)
        partition = slots.vector("identity", "partition")
        self.identity.load([partition[:SECTOR], partition[SECTOR:]])
        self.state.load([slots.state_record(**state)])
        for slot, name in zip(self.slots, (image_a, image_b)):
            if name:
                slot.load(slots.image_blocks(name))

    def boot(self, platform=slots.PLATFORM):
        """What stage 1 does: (trust.Boot, block device of the verified file system)."""
        return select(self.identity, BootState(self.state), self.slots, platform)

    def snapshot(self):
        """A copy of all that outlasts the loss of power; to be compared."""
        parts = (self.identity, self.state) + self.slots + (self.files,)
        return [dict(part.content) for part in parts]
