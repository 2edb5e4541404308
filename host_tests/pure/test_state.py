"""trust.state: two records in turn, and which steps are allowed from where."""

import slots
from flash_sim import FlashSim

from trust import state
from trust.state import BAD, CONFIRMED, EMPTY, STAGED, TRIES, TRYING, BootState, StateError

_STATUSES = (EMPTY, STAGED, TRYING, CONFIRMED, BAD)


def make_flash(first=None, second=None):
    """Boot state sectors; the arguments are those of `slots.state_record`."""
    flash = FlashSim(2)
    for number, fields in enumerate((first, second)):
        if fields is not None:
            flash.load([slots.state_record(**fields)], number)
    return flash


def fields(found):
    return (
        found.active,
        (found.status[0], found.tries[0]),
        (found.status[1], found.tries[1]),
        found.floor,
        found.order,
    )


def stored(flash):
    return slots.read_state(flash)[1:]


def refuse(reason, flash, call, *args):
    """A method has to refuse; neither flash nor what the object says may have changed."""
    before, was = dict(flash.content), fields(call.__self__) if hasattr(call, "__self__") else None
    slots.check_refused(reason, StateError, call, *args)
    assert flash.content == before
    assert was is None or fields(call.__self__) == was


def test_first_record_of_a_board():
    flash = FlashSim(2)
    found = BootState(flash, True)
    assert fields(found) == (0, (EMPTY, 0), (EMPTY, 0), 0, 0)
    found.provision(7)
    assert flash.sector(0) == slots.whole(slots.state_record(1, 0, b=(EMPTY, 0), floor=7))
    assert list(flash.content) == [0]
    assert found.candidates() == [0]
    flash = FlashSim(2)
    BootState(flash, True).provision(3, 1)
    record = slots.state_record(1, 1, (EMPTY, 0), (CONFIRMED, 0), 3)
    assert flash.sector(0) == slots.whole(record)


def test_life_of_an_update():
    flash = make_flash({"sequence": 1})
    found = BootState(flash)
    steps = (
        ("accept_order", (5,), (0, (CONFIRMED, 0), (EMPTY, 0), 1, 5), [0]),
        ("stage", (1,), (0, (CONFIRMED, 0), (STAGED, TRIES), 1, 5), [1, 0]),
        ("begin_try", (1,), (0, (CONFIRMED, 0), (TRYING, TRIES - 1), 1, 5), [1, 0]),
        ("confirm", (1, 2), (1, (CONFIRMED, 0), (CONFIRMED, 0), 2, 5), [1, 0]),
        ("clear", (0,), (1, (EMPTY, 0), (CONFIRMED, 0), 2, 5), [1]),
        ("stage", (0,), (1, (STAGED, TRIES), (CONFIRMED, 0), 2, 5), [0, 1]),
        ("begin_try", (0,), (1, (TRYING, 2), (CONFIRMED, 0), 2, 5), [0, 1]),
        ("begin_try", (0,), (1, (TRYING, 1), (CONFIRMED, 0), 2, 5), [0, 1]),
        ("begin_try", (0,), (1, (TRYING, 0), (CONFIRMED, 0), 2, 5), [1]),
        ("mark_bad", (0,), (1, (BAD, 0), (CONFIRMED, 0), 2, 5), [1]),
        ("clear", (0,), (1, (EMPTY, 0), (CONFIRMED, 0), 2, 5), [1]),
    )
    for name, args, expected, candidates in steps:
        getattr(found, name)(*args)
        assert fields(found) == expected, name
        assert stored(flash) == expected, name
        assert found.candidates() == candidates, name
        loaded = BootState(flash)
        assert fields(loaded) == expected, name
        assert loaded.candidates() == candidates, name


def test_fall_back():
    flash = make_flash({"active": 1, "a": (CONFIRMED, 0), "b": (CONFIRMED, 0), "floor": 2})
    found = BootState(flash)
    assert found.candidates() == [1, 0]
    found.fall_back(0)
    assert stored(flash) == (0, (CONFIRMED, 0), (BAD, 0), 2, 0)
    assert found.candidates() == [0]


def test_steps_are_refused_from_every_other_status():
    # method, its further arguments, from which statuses of the inactive slot it is allowed
    methods = (
        ("begin_try", (), (STAGED, TRYING), "cannot be tried"),
        ("mark_bad", (), (STAGED, TRYING), "cannot be given up"),
        ("stage", (), (EMPTY,), "cannot be staged"),
        ("confirm", (9,), (TRYING,), "cannot be confirmed"),
        ("fall_back", (), (CONFIRMED,), "cannot be fallen back to"),
        ("clear", (), _STATUSES, ""),
    )
    for name, args, allowed, reason in methods:
        for status in _STATUSES:
            flash = make_flash({"b": (status, 2)})
            found = BootState(flash)
            if status in allowed:
                getattr(found, name)(1, *args)
                assert stored(flash) == fields(found), (name, status)
            else:
                reason_b = "slot b is %s and %s" % (state.NAMES[status], reason)
                refuse(reason_b, flash, getattr(found, name), 1, *args)


def test_the_active_slot_is_untouchable():
    for active in (0, 1):
        flash = make_flash({"active": active, "a": (CONFIRMED, 0), "b": (CONFIRMED, 0)})
        found = BootState(flash)
        for name in ("clear", "stage", "fall_back"):
            refuse("slot %s is active" % "ab"[active], flash, getattr(found, name), active)
        for name in ("begin_try", "mark_bad"):
            refuse("is confirmed and cannot be", flash, getattr(found, name), active)
        refuse("is confirmed and cannot be confirmed", flash, found.confirm, active, 99)


def test_confirm_comes_after_a_try():
    flash = make_flash({"b": (STAGED, TRIES)})
    refuse("slot b is staged and cannot be confirmed", flash, BootState(flash).confirm, 1, 5)


def test_tries_run_out():
    flash = make_flash({"b": (STAGED, TRIES)})
    for left in range(TRIES - 1, -1, -1):
        BootState(flash).begin_try(1)  # each in a boot of its own
        assert BootState(flash).tries[1] == left
    refuse("slot b: no tries left", flash, BootState(flash).begin_try, 1)
    refuse("slot b is trying and cannot be staged", flash, BootState(flash).stage, 1)
    assert BootState(flash).candidates() == [0]


def test_a_staged_slot_without_tries_does_not_run():
    assert BootState(make_flash({"b": (STAGED, 0)})).candidates() == [0]


def test_order_numbers_only_rise():
    flash = make_flash({"order": 100})
    found = BootState(flash)
    for number in (100, 99, 0, -1):
        refuse(
            "order %d is not above the last one, 100" % number, flash, found.accept_order, number
        )
    found.accept_order(101)
    refuse("order 101 is not above the last one, 101", flash, found.accept_order, 101)
    assert BootState(flash).order == 101


def test_the_floor_does_not_follow_a_lower_counter():
    flash = make_flash({"b": (TRYING, 1), "floor": 5})
    BootState(flash).confirm(1, 4)
    assert BootState(flash).floor == 5


def test_only_the_older_sector_is_written():
    flash = make_flash({"sequence": 8, "b": (BAD, 0)}, {"sequence": 7})
    found = BootState(flash)
    for number in range(9, 15):
        older = number % 2
        kept = flash.sector(1 - older)
        flash.log = []
        getattr(found, "clear" if older else "stage")(1)
        assert [entry[1:] for entry in flash.log[:2]] == [("erase", older), ("program", older)]
        assert flash.sector(1 - older) == kept


def test_a_damaged_record_leaves_the_other():
    old = {"sequence": 4, "order": 4}
    new = {"sequence": 5, "order": 5}
    for newest in (0, 1):
        for length in (0, 1, 4, 8, 12, 16, 24, 27):  # torn: the first bytes only
            flash = make_flash(*((new, old) if newest == 0 else (old, new)))
            flash.load([flash.sector(newest)[:length]], newest)
            found = BootState(flash)
            assert found.order == 4
            found.accept_order(6)  # into the damaged sector
            assert BootState(flash).order == 6
        for offset in range(28):  # one bit
            flash = make_flash(*((new, old) if newest == 0 else (old, new)))
            flash.alter(newest * 4096 + offset, 1 << offset % 8)
            assert BootState(flash).order == 4


def test_no_valid_record():
    cases = {
        "erased": (None, None),
        "wrong CRC": ({"crc": 0}, {"crc": 0xFFFFFFFF}),
        "magic": ({"magic": b"SGBT"}, None),
        "active 2": ({"active": 2}, {"active": 255}),
        "status 5": ({"a": (5, 0)}, {"b": (255, 0)}),
    }
    for name in cases:
        flash = make_flash(*cases[name])
        before = dict(flash.content)
        slots.check_refused("no valid record in either sector", StateError, BootState, flash)
        assert flash.content == before, name


def test_a_partition_that_is_too_small():
    flash = FlashSim(1)
    flash.load([slots.state_record()])
    slots.check_refused("boot state: 1 blocks, expected 2", StateError, BootState, flash)
    slots.check_refused("1 blocks, expected 2", StateError, BootState, flash, True)


def test_which_record_is_newest():
    # sequence of sector 0, of sector 1, index of the one that counts
    cases = (
        (1, 2, 1),
        (2, 1, 0),
        (0xFFFFFFFF, 0, 1),
        (0, 0xFFFFFFFF, 0),
        (0xFFFFFFFE, 0xFFFFFFFF, 1),
        (3, 0xFFFFFFF0, 0),
        (9, 9, 0),  # never written; any fixed choice will do
    )
    for first, second, newest in cases:
        flash = make_flash(
            {"sequence": first, "b": (STAGED, 3)}, {"sequence": second, "b": (BAD, 0)}
        )
        assert BootState(flash).status[1] == (STAGED, BAD)[newest], (first, second)
        BootState(flash).clear(1)
        assert BootState(flash).status[1] == EMPTY, (first, second)


def test_sequence_wraps():
    flash = make_flash({"sequence": 0xFFFFFFFD, "order": 1})
    for number in range(2, 10):
        BootState(flash).accept_order(number)
        assert BootState(flash).order == number
    sequences = [int.from_bytes(flash.sector(i)[4:8], "little") for i in (0, 1)]
    assert max(sequences) < 100


def test_floor_and_order_are_the_highest_of_both_records():
    older, newer = ({"sequence": 8, "floor": 4, "order": 30}, {"sequence": 9})
    for records in ((older, newer), (newer, older)):
        found = BootState(make_flash(*records))
        assert (found.floor, found.order) == (4, 30)


def test_floor_and_order_outlive_the_loss_of_one_record():
    """As the module's docstring says: "never fall, even if one record is lost"."""
    for lost in (0, 1):
        flash = make_flash({"b": (TRYING, 1), "floor": 1, "order": 10})
        BootState(flash).accept_order(11)
        flash.load([b""], lost)
        assert BootState(flash).order == 11
        flash = make_flash({"b": (TRYING, 1), "floor": 1, "order": 10})
        BootState(flash).confirm(1, 2)
        flash.load([b""], lost)
        assert BootState(flash).floor == 2


def test_a_write_that_does_not_take():
    """Flash that fails in silence, an older valid record still in the sector."""
    for number in (0, 1):  # the sector that fails
        flash = make_flash(
            {"sequence": 5 - number, "b": (STAGED, 3)}, {"sequence": 4 + number, "b": (STAGED, 3)}
        )
        before = dict(flash.content)
        flash._set = lambda block, packed: None
        found = BootState(flash)
        slots.check_refused("does not hold what was written", StateError, found.begin_try, 1)
        assert flash.content == before


def test_a_write_that_spoils_the_sector():
    flash = make_flash({"sequence": 5}, {"sequence": 4})

    write = flash.writeblocks
    flash.writeblocks = lambda block, buf, offset=0: write(block, bytes(len(buf)), offset)
    slots.check_refused(
        "sector 1 does not hold what was written", StateError, BootState(flash).accept_order, 1
    )
    assert BootState(flash).order == 0


def test_a_failed_write_has_not_happened():
    flash = make_flash({"sequence": 5, "b": (STAGED, 3)}, {"sequence": 4})

    def fail(device, operation, block, data):
        raise OSError(5)

    flash.before = fail
    for name, args in (
        ("accept_order", (7,)),
        ("begin_try", (1,)),
        ("mark_bad", (1,)),
        ("clear", (1,)),
    ):
        found = BootState(flash)
        before = dict(flash.content)
        slots.check_refused("5", OSError, getattr(found, name), *args)
        assert flash.content == before, name


def test_random_walk():
    """Any sequence of steps: what is loaded is what was stored, floor and order never fall."""
    flash = make_flash({})
    found = BootState(flash)
    random = 1
    for _ in range(400):
        random = (random * 1103515245 + 12345) & 0x7FFFFFFF
        slot, number = random >> 8 & 1, random >> 12 & 7
        before = dict(flash.content)
        floor, order, active, status = (
            found.floor,
            found.order,
            found.active,
            found.status[found.active],
        )
        name = ("begin_try", "mark_bad", "accept_order", "clear", "stage", "confirm", "fall_back")[
            (random >> 20) % 7
        ]
        args = {"accept_order": (order + number - 2,), "confirm": (slot, floor + number - 3)}
        try:
            getattr(found, name)(*args.get(name, (slot,)))
        except StateError:
            assert flash.content == before
        else:
            assert flash.content != before or name == "clear"
        found = BootState(flash)
        assert fields(found) == stored(flash)
        assert found.floor >= floor
        assert found.order >= order
        assert found.status[found.active] == CONFIRMED == status
        if found.active != active:
            assert name in ("confirm", "fall_back")
        assert found.active in found.candidates()
