"""The lock state: what registers say, from the bits that the chips' manuals name."""

from firmware.ondemand import lock

ALL = ["flash_encryption", "secure_boot", "jtag", "download"]
# chip: (block 0, all that has to be burned: word, bits), counter's word, its bits, its protection)
CHIPS = {
    "ESP32": (0x3FF5A000, {0: 0x7F << 20 | 1 << 27, 6: 0b11111 << 5}, 0, 0x07F00000, 1 << 2),
    "ESP32S3": (
        0x6000702C,
        {1: 0b11 << 10 | 0b11 << 19, 2: 0b111 << 18, 3: 0b101 << 20, 4: 1}, 2, 0x1C0000, 1 << 4,
    ),
    "ESP32C3": (
        0x6000882C,
        {1: 0b11 << 9 | 0b11 << 19, 2: 0b111 << 18, 3: 1 << 20, 4: 1}, 2, 0x1C0000, 1 << 4,
    ),
}  # fmt: skip


def registers(chip, words):
    """Block 0 of a chip, nine words, as `machine.mem32`; others are not read."""
    start = CHIPS[chip][0]
    return {start + 4 * number: words.get(number, 0) for number in range(9)}


def test_a_chip_from_the_factory():
    for chip in CHIPS:
        assert sorted(lock.check(registers(chip, {}), chip)) == sorted(ALL)


def test_a_chip_that_is_locked():
    for chip in CHIPS:
        assert lock.check(registers(chip, CHIPS[chip][1]), chip) == []
        every = dict.fromkeys(range(9), 0xFFFFFFFF)
        assert lock.check(registers(chip, every), chip) == []


def test_each_bit_is_needed():
    for chip in CHIPS:
        _, locked, count_word, count_bits, _ = CHIPS[chip]
        for word in locked:
            for bit in range(32):
                if not locked[word] >> bit & 1:
                    continue
                words = dict(locked)
                words[word] &= ~(1 << bit)
                found = lock.check(registers(chip, words), chip)
                assert len(found) == 1, (chip, word, bit)
                if word == count_word and count_bits >> bit & 1:
                    assert found == ["flash_encryption"]


def test_count_of_flash_encryption():
    """An odd number of ones, and nobody can burn another."""
    for chip in CHIPS:
        _, locked, word, bits, protection = CHIPS[chip]
        low = bits & -bits
        for ones, on in ((0, False), (1, True), (3, False), (7, True)):
            for protected in (False, True):
                words = dict(locked)
                words[word] = words[word] & ~bits | low * ones
                if protected:
                    words[0] = words.get(0, 0) | protection
                good = on and (protected or low * ones == bits)
                found = lock.check(registers(chip, words), chip)
                assert found == ([] if good else ["flash_encryption"]), (chip, ones, protected)


def test_names_of_chips():
    assert lock.check(registers("ESP32S3", CHIPS["ESP32S3"][1]), "ESP32-S3") == []
    for chip in ("", "ESP32S2", "ESP32C6", "esp32", "version"):
        assert lock.check({}, chip) is None
