"""Stage 1: everything that must hold before a slot's code may run.

`identity` reads what provisioning burned, `signature` and `image` verify a
slot, `state` remembers which slot to try, `boot` puts them in order.  Nothing
in this package opens a socket or knows a board: flash comes in as a block
device with `readblocks`, `writeblocks` and `ioctl` as `esp32.Partition` has
them, so the same code runs on a chip, under the unix port and under CPython.
"""


class TrustError(Exception):
    """Base of all refusals: a message that says what was expected and found."""


class Boot:
    """What stage 1 found, handed to the agent.

    Plain values: an object of the verifier would keep its code in memory.

    record: the provisioning record.  identity: block device it was read from.
    slots: block devices of slot a and b.
    platform: version tuple of the running MicroPython.
    running: index of the slot that runs.
    version, counter, profile, build_time: of its verified image.
    heap: KB of heap to reserve that the image asks for; then what keeps the reserved segment.
    clock_floor: Unix seconds, signed: it cannot be earlier.
    refused: [(slot index, was it on trial, reason)], slots passed over on this boot.
    """

    running = 0
    version = ""
    counter = 0
    profile = 0
    build_time = 0
    heap = 0
    clock_floor = 0

    def __init__(self, identity, record, state_device, slots, platform):
        self.identity = identity
        self.record = record
        self.slots = slots
        self.platform = platform
        self.refused = []
        self._state_device = state_device

    @property
    def state(self):
        """The boot state, read from flash anew each time."""
        from .state import BootState

        return BootState(self._state_device)


def block_count(device):
    """Number of 4096-byte blocks of a block device (ioctl 4, `vfs.AbstractBlockDev`)."""
    return device.ioctl(4, 0)
