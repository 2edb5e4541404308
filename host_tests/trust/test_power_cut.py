"""The power is cut at every flash and file operation of an update, clean and torn, and again
during the recovery from that cut.

A cut loses all that is in RAM and nothing else.  So a journey is run once, what flash and files
hold before each operation is kept, and from there every way in which the operation can stay
half-done is tried: a fresh board boots from it and goes on as the agent does until the journey is
at its end.  The invariants of docs/design.md are checked at every boot on the way.  The firmware is
the real one, signatures included; the network, the broker's queue and a crash are played.
"""

import functools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import slots
from board_sim import BoardSim
from flash_sim import SECTOR, FileSim, FlashSim, pack

from firmware.ondemand import install, orders, store
from trust import TrustError
from trust.boot import select
from trust.state import BAD, CONFIRMED, STAGED, TRIES, TRYING, BootState

SEED = 2
SHARE = 0.02  # of the second cuts that are tried; of two in writes of the boot state, all
MAX_BOOTS = 12  # of one journey after a cut
PARTS = ("identity", "state", "a", "b")
STATE = 1
ERASED = b"\xff" * SECTOR

Packed = tuple[bytes, int]  # a sector, see flash_sim.pack
Before = Callable[[Any, str, Any, Any], None]
Content = list[dict[Any, Any]]  # what outlasts a cut: see BoardSim.snapshot

pytestmark = pytest.mark.usefixtures("vectors")


@dataclass(frozen=True)
class Past:
    """What has happened and is not on the board.

    floor: the highest that a confirmed version has set.  runs: how often the slot on trial was
    started.  acknowledged: how many of the journey's orders the broker need not deliver again.
    """

    floor: int
    runs: int = 0
    acknowledged: int = 0


@dataclass(frozen=True)
class Order:
    """An order of a journey: its name in vectors.py, the image that the server sends for it, and
    how that ends: confirmed, crashes (at every start), refused.
    """

    name: str
    image: str
    end: str = "confirmed"


@dataclass(frozen=True)
class Journey:
    """start: arguments of BoardSim.  end: version, and the record without its sequence."""

    start: dict[str, Any]
    orders: tuple[Order, ...]
    end: tuple[Any, ...]
    damage: tuple[int, int] | None = None  # slot, offset of a byte that is altered at the start
    share_of_records: float = 1

    def content(self) -> Content:
        board = BoardSim(**self.start)
        if self.damage:
            board.slots[self.damage[0]].alter(self.damage[1])
        content: Content = board.snapshot()
        return content


GOOD, NEXT = slots.ISSUED, slots.ISSUED + 1
UPDATED = {"image_b": "1.1.0", "active": 1, "b": (CONFIRMED, 0), "floor": 2}
JOURNEYS = {
    "first update": Journey(
        {},
        (Order("good", "1.1.0"),),
        ("1.1.0", 1, (CONFIRMED, 0), (CONFIRMED, 0), 2, GOOD),
    ),
    "update over an old version": Journey(
        UPDATED,
        (Order("next-1.2.0", "1.2.0"),),
        ("1.2.0", 0, (CONFIRMED, 0), (CONFIRMED, 0), 2, NEXT),
        share_of_records=0.3,
    ),
    "rollback": Journey(
        {},
        (Order("good", "1.1.0", "crashes"),),
        ("1.0.0", 0, (CONFIRMED, 0), (BAD, 0), 1, GOOD),
    ),
    "rollback, then a good version": Journey(
        {},
        (Order("good", "1.1.0", "crashes"), Order("next-1.2.0", "1.2.0")),
        ("1.2.0", 1, (CONFIRMED, 0), (CONFIRMED, 0), 2, NEXT),
        share_of_records=0.1,  # most of its writes are those of the journeys above
    ),
    "refused image, then a good one": Journey(
        UPDATED,
        (Order("good", "twin", "refused"), Order("next-1.2.0", "1.2.0")),
        ("1.2.0", 0, (CONFIRMED, 0), (CONFIRMED, 0), 2, NEXT),
        share_of_records=0.1,
    ),
    "staged slot that was altered": Journey(
        {"image_b": "1.1.0", "b": (STAGED, TRIES), "order": GOOD},
        (),
        ("1.0.0", 0, (CONFIRMED, 0), (BAD, 0), 1, GOOD),
        damage=(1, 5000),
    ),
    "active slot that was altered": Journey(
        UPDATED | {"image_a": "twin", "a": (CONFIRMED, 0)},
        (),
        ("1.1.0", 0, (CONFIRMED, 0), (BAD, 0), 2, 0),
        damage=(1, 5000),
    ),
}


class Board:
    """A board with power, in the middle of a journey."""

    def __init__(self, journey: Journey, content: Content, past: Past, before: Before | None):
        self.journey = journey
        self.past = past
        self.log: list[tuple[str, str, int]] = []
        self.parts = [FlashSim(2 if part < 2 else slots.SLOT_BLOCKS, name, self.log, before)
                      for part, name in enumerate(PARTS)]  # fmt: skip
        self.files = FileSim(before)
        self.stores: list[Any] = [*self.parts, self.files]
        for part, kept in zip(self.stores, content, strict=True):
            part.content = dict(kept)

    def snapshot(self) -> Content:
        return [dict(part.content) for part in self.stores]

    def run(self) -> None:
        """Go on until there is nothing to do, and check that this is the journey's end."""
        for _ in range(MAX_BOOTS):
            if not self.work(self.boot()):
                break
        else:
            raise AssertionError(f"not done after {MAX_BOOTS} boots")
        boot = self.boot()
        assert (boot.version, *slots.read_state(self.parts[STATE])[1:]) == self.journey.end
        assert not self.files.exists(store.ORDER_PATH)
        before = self.snapshot()
        assert self.boot().version == boot.version
        assert self.snapshot() == before

    def work(self, boot) -> bool:
        """What the agent does; True if it restarts then."""
        on_trial = boot.state.on_trial(boot.running)
        if on_trial and self.order_of(boot.version).end == "crashes":
            return True
        if self.files.exists(store.ORDER_PATH) and self.carry_out(boot):
            return True
        if on_trial:
            boot.state.confirm(boot.running, boot.counter)
            self.past = replace(self.past, floor=max(self.past.floor, boot.counter))
        return self.take_order(boot)

    def carry_out(self, boot) -> bool:
        """firmware.ondemand.updater; True if a slot was staged."""
        order = orders.resume(boot, self.files, slots.NOW)
        if not order:
            return False
        place = {slots.ISSUED: 0, slots.ISSUED + 1: -1}
        sent = self.journey.orders[place[order["number"]]]
        try:
            self.download(install.Install(order, boot, self.files), sent)
        except TrustError:
            if sent.end != "refused":
                raise
            install.forget(self.files)
            # 5: nothing has changed about what boots.
            assert self.boot().version == boot.version
            return False
        assert sent.end != "refused"
        return True

    def take_order(self, boot) -> bool:
        """The broker delivers until the board has acknowledged; True if one was accepted."""
        accepted = None
        while self.past.acknowledged < len(self.journey.orders) and not accepted:
            wire = wires()[self.journey.orders[self.past.acknowledged].name]
            try:
                accepted = orders.accept(wire, boot, self.files, slots.NOW)
                assert accepted
            except TrustError as error:
                if "is not above the last one" not in str(error):  # taken before the cut
                    raise
            self.past = replace(self.past, acknowledged=self.past.acknowledged + 1)
        return bool(accepted)

    def boot(self):
        """Stage 1, and the invariants that hold whenever a slot is about to run."""
        del self.log[:]
        record = slots.read_state(self.parts[STATE])
        # 1: a verified slot can boot: anything that keeps it from that raises.
        boot, _ = select(
            self.parts[0], BootState(self.parts[STATE]), tuple(self.parts[2:]), slots.PLATFORM
        )
        self.check_verified(boot)
        # 3: the floor never falls, and nothing below it runs.
        assert boot.state.floor >= self.past.floor
        assert boot.counter >= self.past.floor
        # 4: a slot on trial has spent a try, in flash, and had one.
        status, tries = slots.read_state(self.parts[STATE])[2 + boot.running]
        assert status in (TRYING, CONFIRMED)
        if status == TRYING:
            self.past = replace(self.past, runs=self.past.runs + 1)
            assert record[2 + boot.running][1] == tries + 1
            assert self.past.runs <= TRIES
        return boot

    def check_verified(self, boot) -> None:
        """2: what runs was read on this boot, all of it, after the last write, and was released."""
        where = "ab"[boot.running]
        image = released()[self.name_of(boot)]
        slot = self.parts[2 + boot.running].content
        assert {number: slot[number] for number in image} == image
        reads = [
            block for part, operation, block in self.log if (part, operation) == (where, "read")
        ]
        assert reads == sorted(image)
        writes = [at for at, entry in enumerate(self.log) if entry[1] != "read"]
        assert all(self.log[at][0] == "state" for at in writes)
        fell_back = any(not on_trial for _, on_trial, _ in boot.refused)  # written down after it
        assert fell_back or not writes or writes[-1] < self.log.index((where, "read", 0))

    def name_of(self, boot) -> str:
        twin = self.journey.damage and boot.running == 0 and boot.version == "1.1.0"
        return "twin" if twin else boot.version

    def order_of(self, version: str) -> Order:
        (order,) = [order for order in self.journey.orders if order.image == version]
        return order

    def download(self, task: install.Install, sent: Order) -> None:
        blocks = downloads()[sent.image]
        if not task.done:
            self.past = replace(self.past, runs=0)
        if task.done < 2:
            if sent.end != "refused":
                task.check_signature(blocks[-1])
            while task.done < 2:
                task.write(blocks[task.done])
            task.save()  # the connection broke
        while task.done < task.total:
            task.write(blocks[task.done])
        task.finish()


@functools.cache
def released() -> dict[str, dict[int, Packed]]:
    """Content of a slot that holds an image, by name."""
    found = {}
    for name in ("1.0.0", "1.1.0", "1.2.0", "twin"):
        slot = FlashSim(slots.SLOT_BLOCKS)
        slot.load(slots.image_blocks(name))
        found[name] = slot.content
    return found


@functools.cache
def downloads() -> dict[str, list[bytes]]:
    """Blocks of an image, by name."""
    return {
        name: [slots.whole(data) for data in slots.image_blocks(name)]
        for name in ("1.1.0", "1.2.0", "twin")
    }


@functools.cache
def wires() -> dict[str, bytes]:
    return {name: slots.order(name) for name in ("good", "next-1.2.0")}


@dataclass(frozen=True)
class Step:
    """An operation, and what there was before it.  part: index in `Content`."""

    content: Content
    past: Past
    part: int
    operation: str
    block: int
    data: bytes | None


def finish(journey: Journey, content: Content, past: Past) -> None:
    """Run a journey from there to its end."""
    Board(journey, content, past, None).run()


def record(journey: Journey, content: Content, past: Past) -> list[Step]:
    """The same; returns its operations."""
    steps: list[Step] = []

    def keep(part, operation, block, data) -> None:
        index = board.parts.index(part) if part in board.parts else len(board.parts)
        data = None if data is None else bytes(data)
        steps.append(Step(board.snapshot(), board.past, index, operation, block, data))

    board = Board(journey, content, past, keep)
    board.run()
    return steps


def halves(step: Step, chance: random.Random) -> Iterator[Content]:
    """What there may be if the power goes during an operation; first, if it had not begun."""
    yield step.content
    if step.operation not in ("erase", "program"):
        return  # littlefs creates, renames and removes at once or not at all
    kept = step.content[step.part].get(step.block)
    old = unpacked(kept)
    noise = chance.randbytes(SECTOR)
    is_record = step.part == STATE
    if step.operation == "erase":
        torn = [ERASED[:at] + old[at:] for at in ((4, 16, 27, 2048) if is_record else (2048,))]
        torn += [old[:at] + ERASED[at:] for at in ((4, 20, 28) if is_record else (2048,))]
        torn.append(either(old, noise))
    else:
        assert old == ERASED, "programmed twice"
        assert step.data
        new = step.data + ERASED[len(step.data) :]
        torn = [
            new[:at] + ERASED[at:]
            for at in ((1, 4, 8, 9, 20, 24, 27, 28) if is_record else (1, 4095))
        ]
        torn.append(either(new, noise))
    for sector in torn:
        content = list(step.content)
        content[step.part] = dict(content[step.part])
        content[step.part][step.block] = pack(sector)
        yield content


def unpacked(packed: Packed | None) -> bytes:
    part = FlashSim(1)
    part.content = {0: packed} if packed else {}
    sector: bytes = part.sector(0)
    return sector


def either(sector: bytes, noise: bytes) -> bytes:
    """Bits that are set in one or the other: cells that had not settled yet."""
    bits = int.from_bytes(sector, "big") | int.from_bytes(noise, "big")
    return bits.to_bytes(SECTOR, "big")


def key(content: Content, past: Past) -> tuple[Any, ...]:
    return past, *(tuple(sorted(part.items())) for part in content[1:])


@pytest.mark.parametrize("name", JOURNEYS)
def test_every_cut_and_a_second_one(name: str) -> None:
    journey = JOURNEYS[name]
    chance = random.Random(SEED)
    steps = record(journey, journey.content(), Past(floor=journey.start.get("floor", 1)))
    once = [(content, step) for step in steps for content in halves(step, chance)]
    seen = {key(content, step.past) for content, step in once}
    twice = 0
    for content, step in once:
        for again in record(journey, content, step.past):
            share = journey.share_of_records if step.part == again.part == STATE else SHARE
            for content_again in halves(again, chance):
                found = key(content_again, again.past)
                if found not in seen and chance.random() < share:
                    seen.add(found)
                    twice += 1
                    finish(journey, content_again, again.past)
    print(f"{name}: {len(steps)} operations, {len(once)} ways to cut once, {twice} to cut twice")
    assert len(once) > 2 * len(steps)
    assert twice > len(once)
