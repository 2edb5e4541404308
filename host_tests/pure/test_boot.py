"""trust.boot: which slot runs, and that nothing does before it was verified on this boot."""

import slots
from board_sim import BoardSim

from trust import TrustError
from trust.boot import BootError, verify
from trust.identity import IdentityError
from trust.image import ImageError
from trust.state import BAD, CONFIRMED, EMPTY, STAGED, TRIES, TRYING, StateError

_UPDATED = {"active": 1, "b": (CONFIRMED, 0), "floor": 2}  # 1.1.0 in slot b, 1.0.0 before it


def boot_record(board):
    return slots.read_state(board.state)[1:]


def refuse_boot(board, *reasons, **keywords):
    """Nothing may run, for these reasons, and the board is as it was."""
    before = board.snapshot()
    text = slots.refusal(BootError, board.boot, **keywords)
    for reason in ("no slot may run: ",) + reasons:
        assert reason in text, "refused because %r, expected %r" % (text, reason)
    assert board.snapshot() == before


def test_a_plain_boot_writes_nothing():
    log = []
    board = BoardSim(log=log)
    before = board.snapshot()
    boot, _ = board.boot()
    assert board.snapshot() == before
    assert all(operation == "read" for _, operation, _ in log)
    assert (boot.running, boot.version, boot.counter, boot.build_time) == (
        0,
        "1.0.0",
        1,
        slots.BUILT,
    )
    assert boot.record == slots.record()
    assert boot.refused == []
    assert boot.platform == slots.PLATFORM
    # Each block of the image was read, once; nothing of the other slot.
    assert [block for name, _, block in log if name == "a"] == [0, 1, 2, 3]
    assert not [name for name, _, _ in log if name == "b"]


def test_what_is_mounted_is_what_was_verified():
    board = BoardSim("1.0.0", "1.1.0", **_UPDATED)
    boot, length = board.boot()
    assert (boot.running, boot.version) == (1, "1.1.0")
    assert length == 3 * 4096
    buf = bytearray(4096)
    for number in range(3):
        boot.slots[boot.running].readblocks(1 + number, buf)
        assert buf == slots.whole(slots.payload_unit("1.1.0", number))


def test_the_number_of_an_order_is_a_floor_for_the_clock():
    """It was at most a day ahead when it was accepted, so no more is proven."""
    # order: floor
    cases = {
        0: slots.BUILT,
        slots.BUILT + slots.DAY: slots.BUILT,
        slots.BUILT + slots.DAY + 1: slots.BUILT + 1,
        slots.ISSUED: slots.ISSUED - slots.DAY,
        0xFFFFFFFF: 0xFFFFFFFF - slots.DAY,
    }
    for order in cases:
        boot, _ = BoardSim(order=order).boot()
        assert boot.clock_floor == cases[order]


def test_which_slot_runs():
    # name: (images in a and b, state, slot that runs, record after)
    trial = {"b": (STAGED, TRIES)}
    trial_a = {"active": 1, "a": (STAGED, TRIES), "b": (CONFIRMED, 0), "floor": 2}
    last_try = {"b": (TRYING, 1)}
    spent = {"b": (TRYING, 0)}
    lost = {"active": 1, "b": (CONFIRMED, 0)}
    cases = {
        "one slot": ("1.0.0", None, {}, 0, (0, (CONFIRMED, 0), (EMPTY, 0), 1, 0)),
        "image in an empty slot": ("1.0.0", "1.1.0", {}, 0, (0, (CONFIRMED, 0), (EMPTY, 0), 1, 0)),
        "bad": ("1.0.0", "1.1.0", {"b": (BAD, 0)}, 0, (0, (CONFIRMED, 0), (BAD, 0), 1, 0)),
        "staged": ("1.0.0", "1.1.0", trial, 1, (0, (CONFIRMED, 0), (TRYING, 2), 1, 0)),
        "staged in a": ("1.2.0", "1.1.0", trial_a, 0, (1, (TRYING, 2), (CONFIRMED, 0), 2, 0)),
        "trying": ("1.0.0", "1.1.0", last_try, 1, (0, (CONFIRMED, 0), (TRYING, 0), 1, 0)),
        "tries spent": ("1.0.0", "1.1.0", spent, 0, (0, (CONFIRMED, 0), (BAD, 0), 1, 0)),
        "confirmed": ("1.0.0", "1.1.0", _UPDATED, 1, (1, (CONFIRMED, 0), (CONFIRMED, 0), 2, 0)),
        "former version": ("1.0.0", None, lost, 0, (0, (CONFIRMED, 0), (BAD, 0), 1, 0)),
    }
    for name in cases:
        a, b, state, running, after = cases[name]
        board = BoardSim(a, b, **state)
        boot, _ = board.boot()
        assert boot.running == running, name
        assert boot_record(board) == after, name


def test_a_try_is_spent_before_the_slot_is_read():
    log = []
    board = BoardSim("1.0.0", "1.1.0", log, b=(STAGED, TRIES))
    board.boot()
    first_read = log.index(("b", "read", 0))
    programmed = log.index(("state", "program", 1))
    read_back = programmed + 1
    assert log[read_back] == ("state", "read", 1)
    assert read_back < first_read
    assert not [entry for entry in log[first_read:] if entry[1] != "read"]


def test_trial_that_crashes_each_time():
    board = BoardSim("1.0.0", "1.1.0", b=(STAGED, TRIES), order=9)
    for _ in range(TRIES):
        assert board.boot()[0].running == 1
    for number in range(3):
        boot, _ = board.boot()
        assert (boot.running, boot.version) == (0, "1.0.0")
        assert boot.refused == ([(1, True, "no tries left")] if number == 0 else [])
        assert boot_record(board) == (0, (CONFIRMED, 0), (BAD, 0), 1, 9)


def test_trial_that_is_confirmed():
    board = BoardSim("1.0.0", "1.1.0", b=(STAGED, TRIES))
    boot, _ = board.boot()
    assert boot.state.on_trial(1)
    assert boot.state.floor == 1
    boot.state.confirm(1, boot.counter)
    boot, _ = board.boot()
    assert (boot.running, boot.version, boot.state.floor) == (1, "1.1.0", 2)
    assert not boot.state.on_trial(1)
    # The version before is below the floor now: it does not come back.
    board.slots[1].alter(5000)
    refuse_boot(
        board,
        "slot b: signature is over other data",
        "slot a: security counter 1 is below the floor 2",
    )


def test_slot_altered_between_staging_and_boot():
    twin = list(slots.image_blocks("twin"))[2]
    for alter in (
        lambda slot: slot.alter(4096 + 17),
        lambda slot: slot.load([b""], 3),
        lambda slot: slot.load([twin], 2),
        lambda slot: slot.load([slots.descriptor(version=b"1.1.0", counter=9, blocks=3)], 0),
    ):
        board = BoardSim("1.0.0", "1.1.0", b=(STAGED, TRIES))
        alter(board.slots[1])
        boot, _ = board.boot()
        assert (boot.running, boot.version) == (0, "1.0.0")
        assert boot.refused == [(1, True, "signature is over other data: digest does not match")]
        assert boot_record(board) == (0, (CONFIRMED, 0), (BAD, 0), 1, 0)
        boot, _ = board.boot()
        assert (boot.running, boot.refused) == (0, [])


def test_images_on_trial_that_may_not_run():
    # image, who signed it, reason
    cases = (
        ("counter-0", "release", "security counter 0 is below the floor 1"),
        ("other-model", "release", "image for model 'signet-other', this is a 'signet-test'"),
        ("newer-platform", "release", "needs MicroPython 1.25.1, this is 1.25.0"),
        ("longer-than-slot", "release", "image of 28672 bytes, slot holds 24576"),
        ("dev", "release", "dev image, this is a production board"),
        ("1.1.0", "other", "signed by an unknown key"),
        ("1.1.0", "fleet", "signed by an unknown key"),  # stolen online key
    )
    for name, key, reason in cases:
        board = BoardSim("1.0.0", b=(STAGED, TRIES))
        data = list(slots.image_blocks(name, key))[: slots.SLOT_BLOCKS]
        board.slots[1].load(data)
        boot, _ = board.boot()
        assert boot.running == 0, name
        ((slot, on_trial, why),) = boot.refused
        assert (slot, on_trial) == (1, True), name
        assert reason in why, (name, why)
        assert boot_record(board) == (0, (CONFIRMED, 0), (BAD, 0), 1, 0), name


def test_active_slot_that_no_longer_verifies():
    board = BoardSim("twin", "1.1.0", **_UPDATED)
    board.slots[1].alter(9000)
    boot, _ = board.boot()
    assert boot.running == 0
    assert boot.refused == [(1, False, "signature is over other data: digest does not match")]
    assert boot_record(board) == (0, (CONFIRMED, 0), (BAD, 0), 2, 0)


def test_trial_is_run_even_if_the_active_slot_is_damaged():
    board = BoardSim("1.0.0", "1.1.0", b=(STAGED, TRIES))
    board.slots[0].alter(9000)
    assert board.boot()[0].running == 1


def test_no_slot_may_run():
    damage = "signature is over other data: digest does not match"
    board = BoardSim("1.0.0", "1.1.0", b=(CONFIRMED, 0))
    board.slots[0].alter(9000)
    board.slots[1].alter(9000)
    refuse_boot(board, "slot a: " + damage, "slot b: " + damage)
    refuse_boot(BoardSim(None), "slot a: not a slot image: magic")
    refuse_boot(BoardSim("1.0.0", a=(EMPTY, 0)), "none is confirmed")
    refuse_boot(BoardSim(floor=2), "slot a: security counter 1 is below the floor 2")
    refuse_boot(BoardSim("1.0.0"), "needs MicroPython 1.20.0, this is 1.19.0", platform=(1, 19, 0))


def test_recovery_by_provisioning_tools():
    board = BoardSim(None)
    refuse_boot(board, "slot a: not a slot image")
    board.slots[0].load(slots.image_blocks("1.0.0"))
    assert board.boot()[0].version == "1.0.0"


def test_trial_and_active_slot_damaged():
    board = BoardSim("1.0.0", "1.1.0", b=(STAGED, TRIES))
    board.slots[0].alter(9000)
    board.slots[1].alter(9000)
    text = slots.refusal(BootError, board.boot)
    assert "slot b: " in text
    assert "slot a: " in text
    refuse_boot(board, "slot a: ")


def test_flash_that_cannot_be_read():
    board = BoardSim("1.0.0", "1.1.0", b=(STAGED, TRIES))

    def fail(block, buf, offset=0):
        raise OSError(5)

    board.slots[1].readblocks = fail
    boot, _ = board.boot()
    assert boot.running == 0
    assert boot.refused[0][:2] == (1, True)
    assert "5" in boot.refused[0][2]


def test_boot_state_that_cannot_be_written():
    """A trial that cannot be counted must not run; what is confirmed can."""

    def fail(device, operation, block, data):
        raise OSError(5)

    cases = {
        "staged": ("1.0.0", "1.1.0", {"b": (STAGED, TRIES)}),
        "trying": ("1.0.0", "1.1.0", {"b": (TRYING, 1)}),
        "tries spent": ("1.0.0", "1.1.0", {"b": (TRYING, 0)}),
        "active slot damaged": ("1.0.0", None, {"active": 1, "b": (CONFIRMED, 0)}),
    }
    for name in cases:
        image_a, image_b, state = cases[name]
        board = BoardSim(image_a, image_b, **state)
        board.state.before = fail
        before = board.snapshot()
        for _ in range(TRIES + 1):
            boot, _ = board.boot()
            assert (boot.running, boot.version) == (0, "1.0.0"), name
            assert boot.refused[0][0] == 1, name
        assert board.snapshot() == before, name


def test_identity_decides_who_may_sign():
    board = BoardSim()
    board.identity.load([b"", b""])
    before = board.snapshot()
    slots.check_refused("no entry of type 51", IdentityError, board.boot)
    board = BoardSim()
    at = slots.vector("identity", "partition").find(slots.vector("identity", "record"))
    board.identity.alter(at + 3)
    slots.check_refused("entry of type 51 has a wrong CRC", IdentityError, board.boot)
    assert board.snapshot()[1:] == before[1:]


def test_boot_state_that_is_lost():
    """The floor is lost with it: nothing runs."""
    board = BoardSim("1.0.0", "1.1.0")
    board.state.load([b""])
    slots.check_refused("no valid record in either sector", StateError, board.boot)
    assert not board.state.content


def test_verify_again_from_flash():
    """What the updater does before it stages a slot."""
    board = BoardSim("1.0.0", "1.1.0")
    boot, _ = board.boot()
    assert verify(boot, 1).digest == slots.image_digest("1.1.0")
    board.slots[1].alter(5 * 4096 - 4000)
    slots.check_refused("signature", TrustError, verify, boot, 1)
    board.state.load([slots.state_record(floor=2)])
    slots.check_refused("security counter 1 is below the floor 2", ImageError, verify, boot, 0)
