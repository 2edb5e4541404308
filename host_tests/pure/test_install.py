"""From a received order to a staged slot: what `install` writes, and what `orders` keeps."""

import slots
from board_sim import BoardSim
from installing import (
    GOOD,
    STAGED_IN_B,
    accept,
    boot_record,
    finish_refused,
    make_board,
    refuse,
    send,
    send_signature,
    start,
)

from firmware.ondemand import install, orders
from firmware.ondemand.install import Install
from firmware.ondemand.store import ORDER_PATH
from trust import TrustError
from trust.image import ImageError
from trust.signature import SignatureError
from trust.state import CONFIRMED, EMPTY, STAGED, TRIES, StateError

# Accepting


def test_accepted_order():
    board = make_board()
    slots_before = board.snapshot()[2:4]
    _, order = accept(board)
    assert order["version"] == "1.1.0"
    assert board.files.content == {ORDER_PATH: slots.order("good")}
    assert boot_record(board) == (0, (CONFIRMED, 0), (CONFIRMED, 0), 1, GOOD)
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
    assert boot.state.order == GOOD


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
    assert boot_record(board) == (0, (CONFIRMED, 0), (EMPTY, 0), 1, GOOD)
    task.finish()
    assert boot_record(board) == STAGED_IN_B
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
    board.state.load([slots.state_record(99, b=(EMPTY, 0), floor=3, order=GOOD)], 1)
    slots.check_refused("security counter 2 is below the floor 3", ImageError, task.finish)
    assert boot_record(board) == (0, (CONFIRMED, 0), (EMPTY, 0), 3, GOOD)
