"""The second heap segment: what is held so that it gets its size, and what counts as having it.

Whether a chip does what is assumed of it here, only a chip can say, or an emulator of one.
"""

from firmware.ondemand import reserve

KB = 1024
# `esp32.idf_heap_info(HEAP_DATA)` of stock images for the ESP32: size, free, largest, least.
ESP32 = {
    (1, 25, 0): [
        (240, 4, 0, 4), (7288, 4, 0, 4), (16648, 4468, 4352, 4304), (85992, 11384, 11264, 11384),
        (15072, 14656, 14336, 14656), (113840, 112968, 110592, 112968),
    ],
    (1, 26, 0): [
        (240, 4, 0, 4), (7288, 56, 48, 24), (16648, 4600, 4096, 4508), (86696, 12088, 11776, 12088),
        (15072, 14656, 14336, 14656), (113840, 112968, 110592, 112968),
    ],
}  # fmt: skip
FIRST = 57472  # what a second segment as large as the first takes


def step_of(length):
    """A sixteenth of the power of two below: so the IDF's heap (TLSF) sorts its blocks."""
    step = 1
    while step * 32 <= length:
        step *= 2
    return step


def grow(regions, asked, total, rounds_up):
    """gc_try_add_heap of py/gc.c, and the IDF's heap behind it: (regions, what was taken)."""
    needed = asked + max(2048, asked * 13 // 512)
    largest = max([region[2] for region in regions])
    assert needed <= largest
    taken = min(largest, max(total, needed))
    if rounds_up:
        taken += -taken % step_of(taken)
    taken += 4
    left = []
    found = False
    for size, free, block, least in regions:
        if block == largest and not found:
            found = True
            free -= taken
            block = free - free % step_of(free)
        left.append((size, free, block, least))
    return left, taken


def test_the_block_that_is_left_has_the_size():
    for version in ESP32:
        for size_kb in range(16, 49):
            regions, total = ESP32[version], FIRST
            trim = True
            for _ in range(3):
                length = reserve.hold_len(regions, size_kb * KB, trim)
                if not length:
                    break
                regions, taken = grow(regions, length * 4, total, version > (1, 25, 0))
                total += taken
                trim = False
            assert trim is False and not length
            _, taken = grow(regions, 4096, total, False)
            assert size_kb * KB <= taken <= (size_kb + 5) * KB, (version, size_kb, taken)


def test_two_large_blocks_are_both_held():
    blocks = [(200000, 190000, 180224, 0), (100000, 90000, 86016, 0)]
    first = reserve.hold_len(blocks, 16 * KB, True)
    blocks, _ = grow(blocks, first * 4, FIRST, False)
    assert max([region[2] for region in blocks]) == 86016
    second = reserve.hold_len(blocks, 16 * KB, False)
    assert second * 4 + 2048 + second * 4 // 39 >= 86016 - 64
    blocks, _ = grow(blocks, second * 4, FIRST + 180000, False)
    assert reserve.hold_len(blocks, 16 * KB, False) == 0


class Chip:
    """Stands for the modules that reserve.py asks: a heap that grows as a test has it.

    grown: what each try leaves after a collection.
    """

    platform = "esp32"

    def __init__(self, *grown):
        self.grown = list(grown)
        self.total = 56000
        self.regions = ESP32[1, 25, 0]
        self.tried = []
        self.said = []
        self.pinned = None

    def mem_alloc(self):
        return 30000

    def mem_free(self):
        return self.total - 30000 + max([region[2] for region in self.regions])

    def collect(self):
        if self.pinned is None:
            self.total = 56000
        else:
            self.total = 56000 + self.pinned

    def grow(self, size):
        self.tried.append(size)
        self.pinned = self.grown.pop(0)
        if self.pinned is None:
            raise MemoryError
        return "pin"

    def say(self, *words):
        self.said.append(" ".join(words))

    def run(self, size_kb):
        names = ("gc", "sys", "_grow", "_regions")
        kept = [getattr(reserve, name) for name in names]
        reserve.gc = reserve.sys = self
        reserve._grow = self.grow
        reserve._regions = lambda: self.regions
        reserve.print = self.say
        try:
            return reserve.reserve(size_kb)
        finally:
            del reserve.print
            for name, value in zip(names, kept):
                setattr(reserve, name, value)


def test_a_segment_that_outlives_a_collection():
    chip = Chip(17920)
    assert chip.run(16) == "pin"
    assert chip.tried == [16 * KB] and not chip.said


def test_one_that_was_given_back_or_not_given_is_tried_again():
    for first in (0, None, 110000):  # given back; no memory; what was held is not given back
        chip = Chip(first, 17920)
        assert chip.run(16) == "pin"
        assert len(chip.tried) == 2 and not chip.said


def test_a_board_goes_on_without():
    for grown, bytes_ in ((0, 0), (13952, 13952), (None, 0)):
        chip = Chip(grown, grown, grown, grown)
        assert chip.run(16) is None
        assert len(chip.tried) == 3
        assert chip.said == ["signet: error: no 16 KB of heap reserved, but %d bytes" % bytes_]


def test_nothing_is_done_where_there_is_no_need():
    chip = Chip()
    assert chip.run(0) is None
    chip.regions = chip.regions + [(4 << 20, 4 << 20, 4 << 20, 4 << 20)]  # PSRAM
    assert chip.run(16) is None
    chip = Chip()
    chip.platform = "linux"  # the virtual board
    assert chip.run(16) is None
    assert not chip.tried and not chip.said
