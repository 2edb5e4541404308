"""The boot loader model against the IDF's rules, at every power cut, and the app image check."""

from collections.abc import Callable
from pathlib import Path

import pytest

from host_tests.board_helpers import BY_LABEL, FIRST, SEALED, blank_flash, build_app
from host_tests.tool_helpers import run_program
from signet.board.virtual.bootloader import BootError, FlashFile, PowerCutError, boot
from signet.formats import esp_image, flash, idf

OTADATA = BY_LABEL["otadata"].offset
OTA_0, OTA_1 = BY_LABEL["ota_0"], BY_LABEL["ota_1"]
LABEL = b"\xff" * 20
ERASED = b"\xff" * idf.RECORD_LEN
APP = esp_image.synthetic_app("1.25.0")


def record(sequence: int, state: int) -> bytes:
    return idf.pack_record(idf.new_record(sequence, LABEL, state))


def bad_crc(sequence: int, state: int) -> bytes:
    return idf.pack_record(idf.Record(sequence, LABEL, state, 0x12345678))


def make_flash(folder: Path, first: bytes, second: bytes, **partitions: bytes) -> FlashFile:
    """A flash with two otadata records and, unless `partitions` says otherwise, two apps."""
    chip = blank_flash()
    chip.write("ota_1", APP)
    chip.write("otadata", first.ljust(flash.SECTOR_LEN, b"\xff") + second)
    for label, content in partitions.items():
        chip.write(label, content)
    path = folder / "flash.bin"
    chip.save_new(path)
    return FlashFile(path)


def read_records(chip: FlashFile) -> tuple[bytes, bytes]:
    return chip.read(OTADATA, 32), chip.read(OTADATA + flash.SECTOR_LEN, 32)


@pytest.mark.parametrize(("sequence", "crc"), [(1, 0x4743989A), (2, 0x55F63774)])
def test_record_crc(sequence: int, crc: int) -> None:
    assert idf.ota_crc(sequence) == crc
    assert record(sequence, idf.VALID)[28:] == crc.to_bytes(4, "little")


N, P, V = idf.NEW, idf.PENDING_VERIFY, idf.VALID
INV, A, U = idf.INVALID, idf.ABORTED, idf.UNDEFINED
SAME = None

# otadata before, the app that starts, otadata after (SAME: untouched)
BOOTS = {
    "erased": (ERASED, ERASED, "ota_0", (record(1, V), ERASED)),
    "torn": (record(1, N)[:4] + ERASED[4:], ERASED, "ota_0", SAME),
    "all zero": (bytes(32), bytes(32), "ota_0", SAME),
    "first valid": (record(1, V), ERASED, "ota_0", SAME),
    "second valid": (record(1, V), record(2, V), "ota_1", SAME),
    "highest wins": (record(3, V), record(2, V), "ota_0", SAME),
    "undefined state is valid": (record(2, U), ERASED, "ota_1", SAME),
    "new goes on trial": (record(1, V), record(2, N), "ota_1", (record(1, V), record(2, P))),
    "trial is aborted": (record(1, V), record(2, P), "ota_0", (record(1, V), record(2, A))),
    "both on trial": (record(1, P), record(2, P), "ota_0", (record(1, A), record(2, A))),
    "aborted": (record(1, V), record(2, A), "ota_0", SAME),
    "invalid": (record(1, INV), record(2, V), "ota_1", SAME),
    "both given up": (record(2, A), record(4, INV), "ota_0", SAME),
    "bad CRC": (record(1, V), bad_crc(2, V), "ota_0", SAME),
    "both CRCs bad": (bad_crc(2, V), bad_crc(4, V), "ota_0", SAME),
    "bad CRC is aborted, too": (record(1, V), bad_crc(2, P), "ota_0",
                                (record(1, V), bad_crc(2, A))),
    "tie: the first goes on trial": (record(2, N), record(2, N), "ota_1",
                                     (record(2, P), record(2, N))),
    "sequence at its end": (record(0xFFFFFFFE, V), record(1, V), "ota_1", SAME),
    "state bit flips, the CRC does not see it": (record(1, V), record(2, A ^ 1), "ota_1", SAME),
}  # fmt: skip


@pytest.mark.parametrize("case", BOOTS.values(), ids=BOOTS.keys())
def test_boot(tmp_path: Path, case: tuple[bytes, bytes, str, tuple[bytes, bytes] | None]) -> None:
    first, second, app, after = case
    chip = make_flash(tmp_path, first, second)
    assert boot(chip).partition.label == app
    assert read_records(chip) == (after or (first, second))


def damage(at: int, to: int | None = None) -> bytes:
    app = bytearray(APP)
    app[at] = app[at] ^ 1 if to is None else to
    return bytes(app)


def test_a_bad_image_is_passed_over(tmp_path: Path) -> None:
    chip = make_flash(tmp_path, record(1, V), record(2, N), ota_1=damage(0x40))
    booted = boot(chip)
    assert booted.partition.label == "ota_0"
    assert "ota_1: checksum" in booted.notes[-1]
    # As on the chip, the trial was written before the image was looked at.
    assert read_records(chip)[1] == record(2, P)


def test_slots_above_are_tried_last(tmp_path: Path) -> None:
    chip = make_flash(tmp_path, ERASED, ERASED, ota_0=b"")
    assert boot(chip).partition.label == "ota_1"
    assert read_records(chip) == (record(2, V), ERASED)


def test_no_bootable_app(tmp_path: Path) -> None:
    chip = make_flash(tmp_path, ERASED, ERASED, ota_0=b"", ota_1=damage(12))
    with pytest.raises(BootError, match=r"no bootable app: ota_0: magic .*; ota_1: chip id 1"):
        boot(chip)
    assert read_records(chip) == (ERASED, ERASED)


def test_a_partition_table_with_a_wrong_md5_boots_nothing(tmp_path: Path) -> None:
    chip = make_flash(tmp_path, record(1, V), ERASED)
    chip.program(flash.TABLE_OFFSET + 12, b"\0")
    with pytest.raises(BootError, match="MD5"):
        boot(chip)


def test_the_table_of_a_sealed_build_is_found(tmp_path: Path) -> None:
    blank_flash(SEALED).save_new(tmp_path / "flash.bin")
    assert boot(FlashFile(tmp_path / "flash.bin")).partition in SEALED


def test_a_flash_file_of_another_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "flash.bin").write_bytes(b"\xff" * 4096)
    with pytest.raises(Exception, match="4096 bytes, expected 4, 8 or 16 MiB"):
        FlashFile(tmp_path / "flash.bin")


@pytest.mark.parametrize(
    ("first", "second", "apps"),
    [
        (record(1, V), record(2, N), {"ota_0", "ota_1"}),
        (record(1, V), record(2, P), {"ota_0"}),
        (record(1, P), record(2, P), {"ota_0"}),
        (ERASED, ERASED, {"ota_0"}),
    ],
)
def test_power_cut_at_every_operation(
    tmp_path: Path, first: bytes, second: bytes, apps: set[str]
) -> None:
    """The board boots after it, and an app that was aborted never comes back."""
    pristine = make_flash(tmp_path, first, second).read(0, flash.FLASH_LENS[0])
    path, ops = tmp_path / "flash.bin", tmp_path / "ops"
    cut = 0
    while True:
        cut += 1
        for torn in (0, 1, 4, 24, 28, 31, 4096):
            path.write_bytes(pristine)
            ops.unlink(missing_ok=True)
            try:
                boot(FlashFile(path, cut, torn, ops))
            except PowerCutError:
                assert len(ops.read_text().splitlines()) == cut
                assert boot(FlashFile(path)).partition.label in apps
                assert boot(FlashFile(path)).partition.label in apps
            else:
                assert cut > 1  # there was an operation to cut
                return


# FlashFile keeps a NOR flash's rules.


def test_program_clears_bits_and_erase_sets_them(tmp_path: Path) -> None:
    chip = make_flash(tmp_path, ERASED, ERASED)
    chip.program(OTADATA, b"\xf0\x0f")
    chip.program(OTADATA, b"\x3c\xff")
    assert chip.read(OTADATA, 3) == b"\x30\x0f\xff"
    chip.erase(OTADATA)
    assert chip.read(OTADATA, flash.SECTOR_LEN) == b"\xff" * flash.SECTOR_LEN


@pytest.mark.parametrize(
    ("change", "torn", "left"),
    [
        (lambda chip: chip.erase(OTADATA), 0, b"\0\0\0\0"),
        (lambda chip: chip.erase(OTADATA), 2, b"\xff\xff\0\0"),
        (lambda chip: chip.erase(OTADATA), 4096, b"\xff\xff\xff\xff"),
        (lambda chip: chip.program(OTADATA + 4096, b"abcd"), 0, b"\xff\xff\xff\xff"),
        (lambda chip: chip.program(OTADATA + 4096, b"abcd"), 3, b"abc\xff"),
        (lambda chip: chip.program(OTADATA + 4096, b"abcd"), 9, b"abcd"),
    ],
)
def test_torn_operation(
    tmp_path: Path, change: Callable[[FlashFile], None], torn: int, left: bytes
) -> None:
    make_flash(tmp_path, bytes(32), ERASED)
    chip = FlashFile(tmp_path / "flash.bin", 1, torn)
    with pytest.raises(PowerCutError):
        change(chip)
    assert left in (chip.read(OTADATA, 4), chip.read(OTADATA + 4096, 4))


# The app image check (esp_image_format.c).


def check(app: bytes, size: int = OTA_0.size) -> int:
    """Check an app image that begins a partition at its real address."""

    def read(address: int, buffer: bytearray | memoryview) -> None:
        start = address - OTA_0.offset
        buffer[:] = app[start : start + len(buffer)].ljust(len(buffer), b"\xff")

    return idf.check_app_image(read, OTA_0.offset, size)


@pytest.mark.parametrize("length", [0, 4, 12, 1020, 1024, 1028, 5000])
def test_good_images(length: int) -> None:
    second = bytes(n * 7 % 251 for n in range(length))
    for hashed in (True, False):
        app = build_app(FIRST, second, hashed=hashed)
        assert check(app) == len(app)
        assert check(app, len(app)) == len(app)


REFUSED = {
    "erased": (b"", "magic byte 0xff"),
    "another chip": (damage(12, 9), "chip id 9"),
    "too new for the chip": (damage(16, 2), "chip revisions 512"),
    "too many segments": (damage(1, 17), "17 segments"),
    "short first segment": (build_app(b"1234"), "too short"),
    "segment not of words": (damage(0x1C, 1), "segment 0: length"),
    "segment runs out of the partition": (damage(0x1E, 0x20), "segment 0: length"),
    "wrong place for its mapping": (damage(0x18, 0x24), "cannot be mapped"),
    "changed data": (damage(0x80), "checksum"),
    "changed twice, same checksum": (
        APP[:0x80] + bytes([APP[0x80] ^ 1, APP[0x81] ^ 1]) + APP[0x82:], "SHA-256"),
    "changed padding": (damage(len(APP) - 34), "SHA-256"),
    "changed digest": (damage(len(APP) - 1), "SHA-256"),
}  # fmt: skip


@pytest.mark.parametrize(("app", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_images(app: bytes, reason: str) -> None:
    with pytest.raises(idf.ImageError, match=reason):
        check(app)


def test_an_image_longer_than_its_partition() -> None:
    with pytest.raises(idf.ImageError, match="the partition holds"):
        check(APP, len(APP) - 16)


def test_esptool_agrees_on_the_platform_of_virtual_boards(tmp_path: Path) -> None:
    (tmp_path / "app.bin").write_bytes(APP)
    shown = run_program("esptool", "image-info", tmp_path / "app.bin").stdout
    assert "ESP32" in shown
    assert shown.count("(valid)") == 2  # checksum and SHA-256
    assert check(APP) == len(APP)
