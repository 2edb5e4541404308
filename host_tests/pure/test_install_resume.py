"""An update that goes on after a restart: what `install` and `orders` make of what is kept."""

import slots
from installing import (
    GOOD,
    STAGED_IN_B,
    accept,
    boot_record,
    finish_refused,
    make_board,
    resume,
    send,
    send_signature,
    start,
)

from firmware.ondemand.install import Install
from firmware.ondemand.store import DONE_PATH, ORDER_PATH
from trust import TrustError
from trust.state import BAD, EMPTY, TRIES, TRYING


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
        assert boot_record(board) == STAGED_IN_B
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
    assert boot_record(board) == STAGED_IN_B


def test_progress_is_kept_while_writing():
    board = make_board()
    task = start(board)
    board.slots[1].writeblocks = lambda block, buf: None  # a slot without end
    send(task, "1.1.0", count=1)
    block = bytes(4096)
    for done in range(2, 50):
        task.write(block)
        kept = board.files.load(DONE_PATH, 24) or b"%d 0" % GOOD
        assert done - 16 < int(kept.split(b" ")[1]) <= done


def test_resume_when_only_the_file_was_written():
    """Power lost between the order's file and its number."""
    board = make_board()
    board.files.save(ORDER_PATH, slots.order("good"))
    _, order = resume(board)
    assert order["version"] == "1.1.0"
    assert boot_record(board)[4] == GOOD


def test_staged_and_not_yet_forgotten():
    board = make_board()
    task = start(board)
    send(task, "1.1.0")
    files = dict(board.files.content)
    task.finish()
    files[DONE_PATH] = b"%d 5" % GOOD
    board.files.content = files
    boot, order = resume(board)  # on trial
    assert order is None
    assert board.files.content == {}
    assert boot.running == 1
    assert boot_record(board)[2] == (TRYING, TRIES - 1)


def test_given_up_and_not_yet_forgotten():
    board = make_board("1.0.0", "1.1.0", b=(BAD, 0), order=GOOD)
    board.files.content = {ORDER_PATH: slots.order("good"), DONE_PATH: b"%d 5" % GOOD}
    before = board.snapshot()
    assert resume(board)[1] is None
    assert board.snapshot()[:4] == before[:4]
    assert board.files.content == {}


def test_orders_that_may_not_go_on():
    # name: (file, time, last order, reason)
    good = slots.order("good")
    day = slots.DAY
    cases = {
        "expired while offline": (good, slots.ISSUED + day, GOOD, "order expired at"),
        "clock set back": (good, slots.ISSUED - day - 1, GOOD, "order was issued at"),
        "older than the last": (
            good, slots.NOW, GOOD + 1, "order %d is not the last one, %d" % (GOOD, GOOD + 1),
        ),
        "altered": (b" " + good, slots.NOW, GOOD, "signature is over other data"),
        "torn": (good[:1000], slots.NOW, GOOD, "order of 1000 bytes"),
        "empty": (b"", slots.NOW, GOOD, "order of 0 bytes"),
        "another device's": (slots.order("other-device"), slots.NOW, 0, "order is for device"),
        "by another key": (slots.order("by-release"), slots.NOW, 0, "signed by an unknown key"),
        "below the floor": (slots.order("counter-0"), slots.NOW, 0, "security counter 0"),
        "too large": (slots.order("larger-than-slot"), slots.NOW, 0, "image of 28672 bytes"),
    }  # fmt: skip
    for name in cases:
        wire, now, last, reason = cases[name]
        board = make_board(order=last)
        board.files.content = {ORDER_PATH: wire, DONE_PATH: b"%d 3" % GOOD}
        before = board.snapshot()
        slots.check_refused(reason, TrustError, resume, board, now)
        assert board.snapshot()[:4] == before[:4], name
        assert board.files.content == {}, name  # dropped, or it would fail at each connect


def test_progress_files_that_say_nothing():
    for text in (b"", b"3", b"x 3", b"%d x" % GOOD, b"%d -1" % GOOD, b"%d 3 4" % GOOD,
                 b"%d 3" % (GOOD - 1), b"\xff\xff 3", b"9" * 25):  # fmt: skip
        board = make_board("1.0.0", None, b=(EMPTY, 0))  # else it is not looked at
        boot, order = accept(board)
        board.files.content[DONE_PATH] = text
        assert Install(order, boot, board.files).done == 0, text


def test_forged_progress():
    """vfs is not trusted: what it says may cost an update, and nothing else."""
    for text in (b"%d 3" % GOOD, b"%d 5" % GOOD, b"%d 999999" % GOOD):
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
    board.files.content[DONE_PATH] = b"%d 3" % GOOD
    task = Install(order, boot, board.files)
    send(task, "1.1.0", first=task.done, count=1)
    assert boot_record(board)[2] == (EMPTY, 0)
