"""From a received order to a staged slot: what `install` writes, and what `orders` keeps."""

import slots
from board_sim import BoardSim

from firmware.ondemand import install, orders
from firmware.ondemand.install import Install
from firmware.store import DONE_PATH, ORDER_PATH
from trust import TrustError
from trust.image import ImageError
from trust.signature import SignatureError
from trust.state import BAD, CONFIRMED, EMPTY, STAGED, TRIES, TRYING, StateError

_GOOD = slots.ISSUED
_STAGED = (0, (CONFIRMED, 0), (STAGED, TRIES), 1, _GOOD)


def make_board(*images, **state):
    """A board in use: an order before, and the version before in slot b."""
    fields = {"b": (CONFIRMED, 0), "order": _GOOD - 1000}
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


# Accepting


def test_accepted_order():
    board = make_board()
    slots_before = board.snapshot()[2:4]
    _, order = accept(board)
    assert order["version"] == "1.1.0"
    assert board.files.content == {ORDER_PATH: slots.order("good")}
    assert boot_record(board) == (0, (CONFIRMED, 0), (CONFIRMED, 0), 1, _GOOD)
    assert board.snapshot()[2:4] == slots_before


def test_refused_orders_change_nothing():
    # name of the order: reason
    cases = {
        "by-release": "signed by an unknown key",
        "by-other": "signed by an unknown key",
        "not-text": "order is not JSON",
        "other-device": "order is for device 'dev-0002'",
        "other-model": "order is for model 'signet-other'",
        "expired": "order expired at",
        "far-ahead": "order was issued at",
        "long-lived": "more than 30 days",
        "counter-0": "security counter 0 is below the floor 1",
        "two-blocks": "image of 8192 bytes, expected a multiple of 4096 up to 24576",
        "odd-size": "image of 20481 bytes, expected a multiple of 4096",
        "larger-than-slot": "image of 28672 bytes, expected a multiple of 4096 up to 24576",
        "negative-size": "image of -4096 bytes, expected",
        "text-digest": "order: digest",
        "odd-digest": "order: digest",
    }
    board = make_board()
    for name in cases:
        refuse(board, cases[name], TrustError, accept, board, name)
    assert accept(board)[1]


def test_replayed_orders():
    board = make_board()
    accept(board)
    # The broker delivers again: being worked on, so not worth a report.
    before = board.snapshot()
    assert accept(board)[1] is None
    assert board.snapshot() == before
    refuse(board, "is not above the last one", orders.OrderError, accept, board, "older")
    boot, _ = board.boot()
    install.forget(board.files)
    assert board.files.content == {}
    refuse(board, "is not above the last one", orders.OrderError, accept, board)
    assert boot.state.order == _GOOD


def test_newer_order_takes_over():
    board = make_board()
    task = start(board)
    send(task, "1.1.0", count=2)
    task.save()
    task = start(board, "next-1.2.0")
    assert task.done == 0  # how far the other one came says nothing
    send_signature(task, "1.2.0")
    send(task, "1.2.0")
    task.finish()
    assert board.boot()[0].version == "1.2.0"


def test_order_that_could_not_be_kept():
    board = make_board()

    def fail(device, operation, path, data):
        raise OSError(28)

    board.files.before = fail
    refuse(board, "28", OSError, accept, board)


# Installing


def test_update():
    board = make_board()
    active = dict(board.slots[0].content)
    task = start(board)
    assert (task.done, task.total) == (0, 5)
    send_signature(task, "1.1.0")
    send(task, "1.1.0")
    assert task.done == 5
    assert boot_record(board) == (0, (CONFIRMED, 0), (EMPTY, 0), 1, _GOOD)
    task.finish()
    assert boot_record(board) == _STAGED
    assert board.files.content == {}
    assert board.slots[0].content == active
    for number, data in enumerate(slots.image_blocks("1.1.0")):
        assert board.slots[1].sector(number) == slots.whole(data)
    boot, _ = board.boot()
    assert (boot.running, boot.version) == (1, "1.1.0")


def test_image_as_large_as_the_slot():
    board = make_board()
    task = start(board, "fills-slot")
    send_signature(task, "fills-slot")
    send(task, "fills-slot")
    task.finish()
    assert board.boot()[0].running == 1


def test_slot_is_cleared_before_its_first_block():
    log = []
    board = BoardSim("1.0.0", "1.0.0", log, b=(CONFIRMED, 0))
    task = start(board)
    del log[:]
    send(task, "1.1.0", count=2)
    writes = [entry for entry in log if entry[1] != "read"]
    assert [name for name, _, _ in writes] == ["state", "state", "b", "b", "b", "b"]
    assert boot_record(board)[2] == (EMPTY, 0)


def test_image_not_released_costs_the_slot_nothing():
    board = make_board()
    task = start(board)
    cases = (
        ("1.1.0 by other", "signed by an unknown key"),
        ("1.1.0 by fleet", "signed by an unknown key"),  # the online key was stolen
        ("twin by release", "signature is over other data"),
        ("1.0.0 by release", "signature is over other data"),
    )
    for name, reason in cases:
        block = slots.whole(slots.block(name))
        refuse(board, reason, SignatureError, task.check_signature, block)
    refuse(board, "no signature", SignatureError, task.check_signature, b"\xff" * 4096)


def test_first_block_is_checked_before_anything_is_written():
    # order, image sent, reason
    cases = (
        ("good", "1.2.0", "image of 16384 bytes, ordered 20480"),
        ("good", "1.0.0", "image of 16384 bytes, ordered 20480"),
        ("good", "counter-0", "security counter 0 is below the floor 1"),
        ("good", "other-model", "image for model 'signet-other', this is a 'signet-test'"),
        ("image-other-model", "other-model", "image for model 'signet-other'"),
        ("newer-platform", "newer-platform", "needs MicroPython 1.25.1, this is 1.25.0"),
        ("good", "longer-than-slot", "image of 28672 bytes, slot holds 24576"),
        ("good", "dev", "dev image, this is a production board"),
        ("other-version", "1.1.0", "image is version 1.1.0, counter 2; ordered 1.1.1, 2"),
        ("other-counter", "1.1.0", "image is version 1.1.0, counter 2; ordered 1.1.0, 3"),
        ("stale-build", "stale-build", "image was built at %d, before the running one at %d"
         % (slots.BUILT - 1, slots.BUILT)),
    )  # fmt: skip
    for ordered, sent, reason in cases:
        board = make_board()
        task = start(board, ordered)
        first = slots.whole(next(slots.image_blocks(sent)))
        refuse(board, reason, TrustError, task.write, first)
        assert task.done == 0


def test_first_block_that_is_no_descriptor():
    board = make_board()
    task = start(board)
    for block in (bytes(4096), b"\xff" * 4096, b"<html>" + bytes(4090)):
        refuse(board, "not a slot image: magic", ImageError, task.write, block)


def finish_refused(board, task, reason):
    """The slot must not be staged, and what runs stays what it was."""
    slots.check_refused(reason, TrustError, task.finish)
    assert boot_record(board) == (0, (CONFIRMED, 0), (EMPTY, 0), 1, _GOOD)
    boot, _ = board.boot()
    assert (boot.running, boot.version) == (0, "1.0.0")


def test_altered_image():
    for offset in (100, 4096, 3 * 4096 + 5):
        board = make_board()
        task = start(board)
        send(task, "1.1.0")
        board.slots[1].alter(offset)
        finish_refused(board, task, "signature is over other data")


def test_truncated_image():
    board = make_board()
    task = start(board)
    send(task, "1.1.0", count=4)
    finish_refused(board, task, "no signature: magic byte")


def test_mix_and_match():
    """A genuine image whose descriptor says the same as the ordered one's."""
    board = make_board()
    task = start(board)
    send_signature(task, "1.1.0")
    send(task, "twin")
    finish_refused(board, task, "slot holds another image than the ordered one")


def test_swapped_file_system():
    board = make_board()
    task = start(board)
    send(task, "1.1.0", count=1)
    send(task, "twin", first=1, count=3)
    send(task, "1.1.0", first=4)
    finish_refused(board, task, "signature is over other data")


def test_image_by_another_key():
    for key in ("other", "fleet"):
        board = make_board()
        task = start(board)
        send(task, "1.1.0", key)
        finish_refused(board, task, "signed by an unknown key")


def test_block_that_flash_did_not_take():
    board = make_board()
    task = start(board)
    write = board.slots[1].writeblocks
    board.slots[1].writeblocks = lambda block, buf: block == 2 or write(block, buf)
    send(task, "1.1.0")
    finish_refused(board, task, "signature is over other data")


def test_refused_image_and_another_attempt():
    board = make_board()
    task = start(board)
    send(task, "twin")
    finish_refused(board, task, "another image")
    install.forget(board.files)
    task = start(board, "next")
    send(task, "1.1.0")
    task.finish()
    assert board.boot()[0].version == "1.1.0"


def test_running_slot_is_never_written():
    """On trial the other slot is the one to come back to."""
    board = make_board("1.0.0", "1.1.0", b=(STAGED, TRIES))
    boot, _ = board.boot()
    assert boot.running == 1
    task = Install(
        orders.accept(slots.order("good"), boot, board.files, slots.NOW), boot, board.files
    )
    before = board.snapshot()
    slots.check_refused("slot a is active", StateError, send, task, "1.1.0")
    assert board.snapshot()[1:4] == before[1:4]


def test_floor_that_rose_after_the_order():
    board = make_board()
    task = start(board)
    send(task, "1.1.0")
    board.state.load([slots.state_record(99, b=(EMPTY, 0), floor=3, order=_GOOD)], 1)
    slots.check_refused("security counter 2 is below the floor 3", ImageError, task.finish)
    assert boot_record(board) == (0, (CONFIRMED, 0), (EMPTY, 0), 3, _GOOD)


# Resuming


def test_nothing_to_resume():
    board = make_board()
    before = board.snapshot()
    assert resume(board)[1] is None
    assert board.snapshot() == before


def test_resume_after_a_restart():
    for done in range(6):
        board = make_board()
        task = start(board)
        send(task, "1.1.0", count=done)
        task.save()
        boot, order = resume(board)
        task = Install(order, boot, board.files)
        assert task.done == done
        send_signature(task, "1.1.0")
        send(task, "1.1.0", first=done)
        task.finish()
        assert boot_record(board) == _STAGED
        assert board.boot()[0].version == "1.1.0"


def test_resume_when_only_the_order_was_kept():
    board = make_board()
    task = start(board)
    send(task, "1.1.0", count=3)  # and no `save` after it
    boot, order = resume(board)
    task = Install(order, boot, board.files)
    assert task.done == 0
    send(task, "1.1.0")
    task.finish()
    assert boot_record(board) == _STAGED


def test_progress_is_kept_while_writing():
    board = make_board()
    task = start(board)
    board.slots[1].writeblocks = lambda block, buf: None  # a slot without end
    send(task, "1.1.0", count=1)
    block = bytes(4096)
    for done in range(2, 50):
        task.write(block)
        kept = board.files.load(DONE_PATH, 24) or b"%d 0" % _GOOD
        assert done - 16 < int(kept.split(b" ")[1]) <= done


def test_resume_when_only_the_file_was_written():
    """Power lost between the order's file and its number."""
    board = make_board()
    board.files.save(ORDER_PATH, slots.order("good"))
    _, order = resume(board)
    assert order["version"] == "1.1.0"
    assert boot_record(board)[4] == _GOOD


def test_staged_and_not_yet_forgotten():
    board = make_board()
    task = start(board)
    send(task, "1.1.0")
    files = dict(board.files.content)
    task.finish()
    files[DONE_PATH] = b"%d 5" % _GOOD
    board.files.content = files
    boot, order = resume(board)  # on trial
    assert order is None
    assert board.files.content == {}
    assert boot.running == 1
    assert boot_record(board)[2] == (TRYING, TRIES - 1)


def test_given_up_and_not_yet_forgotten():
    board = make_board("1.0.0", "1.1.0", b=(BAD, 0), order=_GOOD)
    board.files.content = {ORDER_PATH: slots.order("good"), DONE_PATH: b"%d 5" % _GOOD}
    before = board.snapshot()
    assert resume(board)[1] is None
    assert board.snapshot()[:4] == before[:4]
    assert board.files.content == {}


def test_orders_that_may_not_go_on():
    # name: (file, time, last order, reason)
    good = slots.order("good")
    day = slots.DAY
    cases = {
        "expired while offline": (good, slots.ISSUED + day, _GOOD, "order expired at"),
        "clock set back": (good, slots.ISSUED - day - 1, _GOOD, "order was issued at"),
        "older than the last": (
            good, slots.NOW, _GOOD + 1, "order %d is not the last one, %d" % (_GOOD, _GOOD + 1),
        ),
        "altered": (b" " + good, slots.NOW, _GOOD, "signature is over other data"),
        "torn": (good[:1000], slots.NOW, _GOOD, "order of 1000 bytes"),
        "empty": (b"", slots.NOW, _GOOD, "order of 0 bytes"),
        "another device's": (slots.order("other-device"), slots.NOW, 0, "order is for device"),
        "by another key": (slots.order("by-release"), slots.NOW, 0, "signed by an unknown key"),
        "below the floor": (slots.order("counter-0"), slots.NOW, 0, "security counter 0"),
        "too large": (slots.order("larger-than-slot"), slots.NOW, 0, "image of 28672 bytes"),
    }  # fmt: skip
    for name in cases:
        wire, now, last, reason = cases[name]
        board = make_board(order=last)
        board.files.content = {ORDER_PATH: wire, DONE_PATH: b"%d 3" % _GOOD}
        before = board.snapshot()
        slots.check_refused(reason, TrustError, resume, board, now)
        assert board.snapshot()[:4] == before[:4], name
        assert board.files.content == {}, name  # dropped, or it would fail at each connect


def test_progress_files_that_say_nothing():
    for text in (b"", b"3", b"x 3", b"%d x" % _GOOD, b"%d -1" % _GOOD, b"%d 3 4" % _GOOD,
                 b"%d 3" % (_GOOD - 1), b"\xff\xff 3", b"9" * 25):  # fmt: skip
        board = make_board()
        boot, order = accept(board)
        board.files.content[DONE_PATH] = text
        assert Install(order, boot, board.files).done == 0, text


def test_forged_progress():
    """vfs is not trusted: what it says may cost an update, and nothing else."""
    for text in (b"%d 3" % _GOOD, b"%d 5" % _GOOD, b"%d 999999" % _GOOD):
        board = make_board("1.0.0", None, b=(EMPTY, 0))
        boot, order = accept(board)
        board.files.content[DONE_PATH] = text
        boot, order = resume(board)
        task = Install(order, boot, board.files)
        assert task.done <= task.total
        send(task, "1.1.0", first=task.done)
        finish_refused(board, task, "not a slot image: magic")


def test_forged_progress_of_a_confirmed_slot():
    """Its content may not be overwritten while the boot state calls it confirmed."""
    board = make_board()
    boot, order = accept(board)
    board.files.content[DONE_PATH] = b"%d 3" % _GOOD
    task = Install(order, boot, board.files)
    send(task, "1.1.0", first=task.done, count=1)
    assert boot_record(board)[2] == (EMPTY, 0)
