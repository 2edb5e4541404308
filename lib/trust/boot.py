"""Which slot runs: try, verify, fall back.  One pass over the boot state a boot.

The order is what makes it safe: a try is spent in flash before anything of the
slot is read, the slot is verified before anything of it is mounted, and a slot
that is refused leaves the board with the next best one.
"""

from . import Boot, TrustError, image
from .identity import Identity
from .state import TRYING


class BootError(TrustError):
    """No slot holds an image that this board may run."""


def select(identity, state, slots, platform):
    """Choose and verify a slot; returns (Boot, bytes of its verified payload).

    identity: block device of the identity partition.  state: BootState.  slots: block
    devices of slot a and b.  platform: version tuple of the running MicroPython.
    Raises BootError if no slot may run, IdentityError if nobody knows whose they are.
    """
    boot = Boot(identity, Identity(identity).record(), state.device, slots, platform)
    trial = 1 - state.active
    if state.status[trial] == TRYING and not state.tries[trial]:
        _note(state.mark_bad, trial)
        boot.refused.append((trial, True, "no tries left"))
    for slot in state.candidates():
        on_trial = state.on_trial(slot)
        try:
            if on_trial:
                state.begin_try(slot)  # uncounted it may not run
            descriptor = verify(boot, slot)
        except (TrustError, OSError) as error:
            boot.refused.append((slot, on_trial, str(error)))
            if on_trial:
                _note(state.mark_bad, slot)
            continue
        if not on_trial and slot != state.active:
            _note(state.fall_back, slot)
        boot.running = slot
        boot.version = descriptor.version
        boot.counter = descriptor.counter
        boot.profile = descriptor.profile
        boot.build_time = descriptor.build_time
        boot.heap = descriptor.heap
        # The number of an order was at most a day ahead of the time at which it was accepted.
        boot.clock_floor = max(descriptor.build_time, state.order - 86400)
        return boot, descriptor.payload_len
    reasons = ["slot %s: %s" % ("ab"[slot], why) for slot, _, why in boot.refused]
    raise BootError("no slot may run: " + ("; ".join(reasons) or "none is confirmed"))


def _note(step, slot):
    """Write down what has become of a slot.

    If the boot state cannot be written, that must not keep a verified slot from running:
    the other one is passed over, and reported, on each boot anew.
    """
    try:
        step(slot)
    except (TrustError, OSError):
        pass


def verify(boot, slot):
    """Verify the image in a slot, from flash; its Descriptor, or TrustError."""
    return image.verify(boot.slots[slot], boot.record, boot.state.floor, boot.platform)
