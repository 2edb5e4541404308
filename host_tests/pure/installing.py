"""From a received order to a staged slot, step by step, on a simulated board."""

import slots
from board_sim import BoardSim

from firmware.ondemand import orders
from firmware.ondemand.install import Install
from trust import TrustError
from trust.state import CONFIRMED, EMPTY, STAGED, TRIES

GOOD = slots.ISSUED
STAGED_IN_B = (0, (CONFIRMED, 0), (STAGED, TRIES), 1, GOOD)


def make_board(*images, **state):
    """A board in use: an order before, and the version before in slot b."""
    fields = {"b": (CONFIRMED, 0), "order": GOOD - 1000}
    fields.update(state)
    return BoardSim(*(images or ("1.0.0", "1.0.0")), **fields)


def boot_record(board):
    return slots.read_state(board.state)[1:]


def accept(board, name="good", now=slots.NOW):
    boot, _ = board.boot()
    return boot, orders.accept(slots.order(name), boot, board.files, now)


def resume(board, now=slots.NOW):
    boot, _ = board.boot()
    return boot, orders.resume(boot, board.files, now)


def refuse(board, reason, error, call, *args, **keywords):
    """The call has to be refused, and nothing on the board may have changed."""
    before = board.snapshot()
    slots.check_refused(reason, error, call, *args, **keywords)
    assert board.snapshot() == before


def start(board, name="good"):
    boot, order = accept(board, name)
    return Install(order, boot, board.files)


def send(task, name, key="release", first=0, count=100):
    """Blocks of an image, as a server would send them."""
    for number, data in enumerate(slots.image_blocks(name, key)):
        if first <= number < first + count:
            task.write(slots.whole(data))


def send_signature(task, name, key="release"):
    task.check_signature(slots.whole(slots.block("%s by %s" % (name, key))))


def finish_refused(board, task, reason):
    """The slot must not be staged, and what runs stays what it was."""
    slots.check_refused(reason, TrustError, task.finish)
    assert boot_record(board) == (0, (CONFIRMED, 0), (EMPTY, 0), 1, GOOD)
    boot, _ = board.boot()
    assert (boot.running, boot.version) == (0, "1.0.0")
