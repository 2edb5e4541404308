"""signet.formats.flash: flash map, partition table, and the flash file of a virtual board."""

import hashlib
import os
import struct
from dataclasses import replace

import pytest

from host_tests.esp_images import OTA
from host_tests.tool_helpers import REPO, mode, run_program
from signet.errors import RefusedError, SignetError
from signet.formats import esp_image, flash
from signet.image import slot_image

pytest_plugins = ["host_tests.tool_fixtures"]

# docs/design.md, "Flash map": label, type, subtype, offset, size. A stock MicroPython's own rows
# first, up to its vfs.
MAP = [
    *OTA[:-1],
    ("esp_secure_cert", 0x3F, 0x00, 0x310000, 0x2000),
    ("bootstate", 1, 0x40, 0x312000, 0x2000),
    ("slot_a", 1, 0x41, 0x314000, 0x40000),
    ("slot_b", 1, 0x42, 0x354000, 0x40000),
    ("vfs", 1, 0x81, 0x394000, 0x6C000),
]


@pytest.fixture
def layout():
    return flash.load_layout(REPO / slot_image.LAYOUT)


def test_the_map_is_the_documented_one_and_fills_the_chip(layout):
    rows = [(row.label, row.type, row.subtype, row.offset, row.size) for row in layout]
    assert rows == MAP
    assert layout[-1].end == flash.flash_len(layout) == 0x400000


def test_a_table_is_what_the_boot_loader_expects(layout):
    table = flash.build_table(layout)
    assert len(table) == 0xC00
    # ESP-IDF esp_partition_info_t: magic, type, subtype, offset, size, label[16], flags
    assert table[:32] == bytes.fromhex("aa50 01 02 00900000 00400000") + b"nvs".ljust(20, b"\0")
    rows = len(MAP) * 32
    assert table[rows : rows + 16] == b"\xeb\xeb" + b"\xff" * 14
    assert table[rows + 16 : rows + 32] == hashlib.md5(table[:rows]).digest()
    assert set(table[rows + 32 :]) == {0xFF}
    assert flash.read_table(table) == layout


def broken_tables():
    table = flash.build_table(flash.load_layout(REPO / slot_image.LAYOUT))
    rows = len(MAP) * 32
    overlapping = struct.pack("<2sBBII16sI", b"\xaa\x50", 1, 2, 0x9000, 0x8000, b"a", 0)
    overlapping += struct.pack("<2sBBII16sI", b"\xaa\x50", 1, 2, 0xA000, 0x1000, b"b", 0)
    overlapping += b"\xeb\xeb" + b"\xff" * 14 + hashlib.md5(overlapping).digest()
    return {
        "empty": (b"", "no MD5 row"),
        "erased": (b"\xff" * 0xC00, "no MD5 row"),
        "garbage": (b"\x5a" * 0xC00, "magic 5a5a, expected aa50"),
        "cut": (table[: rows - 1], "no MD5 row"),
        "no MD5 row": (table[:rows] + b"\xff" * 64, "no MD5 row"),
        "one bit": (bytes([*table[:8], table[8] ^ 1, *table[9:]]), "does not match"),
        "overlap": (overlapping, "a ends at 0x11000, b starts at 0xa000"),
        "only MD5": (b"\xeb\xeb" + b"\xff" * 14 + hashlib.md5(b"").digest(), "no partitions"),
    }


@pytest.mark.parametrize(("table", "reason"), broken_tables().values(), ids=broken_tables())
def test_a_malformed_table_is_refused(table, reason):
    with pytest.raises(RefusedError, match=reason):
        flash.read_table(table)


@pytest.mark.parametrize("offset", [0x8000, 0x9000])
def test_a_table_is_found_in_either_place(layout, tmp_path, offset):
    """A stock build's, and a sealed one's, in front of which a signed boot loader ends."""
    rows = (replace(layout[0], offset=offset + 0x1000, size=0x3000), *layout[1:])
    assert flash.table_offset(rows) == offset
    boot_loader = b"\xe9" * (offset - 0x1000)
    flash.Flash.blank(rows, boot_loader).save_new(tmp_path / "flash.bin")
    content = (tmp_path / "flash.bin").read_bytes()
    assert content[0x1000:offset] == boot_loader
    assert content[offset : offset + 0xC00] == flash.build_table(rows)
    assert set(content[offset + 0xC00 :]) == {0xFF}
    assert flash.Flash.load(tmp_path / "flash.bin").partitions == rows


def test_a_partition_under_the_table_is_refused(layout):
    table = flash.build_table(layout)  # nvs at 0x9000
    assert flash.find_table(table + table.ljust(0x1000)) == layout
    for read in (lambda: flash.find_table(b"\xff" * 0x1000 + table),
                 lambda: flash.read_table(table, 0x9000)):  # fmt: skip
        with pytest.raises(RefusedError, match=r"nvs: offset 0x9000, .* from 0xa000"):
            read()


@pytest.mark.parametrize(
    ("rows", "reason"),
    {
        "nothing": ("# only a comment\n", "no partitions"),
        "overlap": (
            "a,data,nvs,0x9000,0x2000,\nb,data,nvs,0xa000,0x1000,",
            "a ends at 0xb000, b starts at 0xa000",
        ),
        "over the table": ("a,data,nvs,0x8000,0x1000,", "offset 0x8000, expected"),
        "far from the table": (
            "a,data,nvs,0xb000,0x1000,",
            "a starts at 0xb000, expected 0x9000 or 0xa000: behind the table",
        ),
        "unaligned": ("a,data,nvs,0x9100,0x1000,", "multiple of 0x1000"),
        "unaligned app": ("a,app,ota_0,0x9000,0x1000,", "multiple of 0x10000"),
        "size 0": ("a,data,nvs,0x9000,0,", "size 0x0"),
        "size not blocks": ("a,data,nvs,0x9000,0x1001,", "size 0x1001"),
        "past the end": (
            "a,data,nvs,0xfff000,0x2000,",
            "ends at 0x1001000, the flash at 0x1000000",
        ),
        "two of a name": ("a,data,nvs,0x9000,0x1000,\na,data,nvs,0xa000,0x1000,", "two partitions"),
        "no label": (",data,nvs,0x9000,0x1000,", "label ''"),
        "long label": ("abcdefghijklmnop,data,nvs,0x9000,0x1000,", "1 to 15"),
        "type": ("a,dada,nvs,0x9000,0x1000,", ":1: 'dada': expected a number or one of"),
        "subtype": ("a,data,ota_0,0x9000,0x1000,", ":1: 'ota_0': expected"),
        "large type": ("a,0xff,0,0x9000,0x1000,", "type 0xff"),
        "size suffix": ("a,data,nvs,0x9000,4K,", ":1: '4K': expected a number"),
        "no offset": ("a,data,nvs,,0x1000,", ":1: '': expected a number"),
        "columns": ("a,data,nvs,0x9000", "4 columns"),
        "flags": ("a,data,nvs,0x9000,0x1000,readonly", "encrypted or nothing"),
    }.values(),
)
def test_a_wrong_flash_map_is_refused_with_its_file_and_reason(tmp_path, rows, reason):
    path = tmp_path / "partitions.csv"
    path.write_text(rows)
    with pytest.raises(SignetError, match=reason) as refusal:
        flash.load_layout(path)
    assert str(path) in str(refusal.value)


def test_partitions_are_written_and_read_in_their_place(layout, tmp_path):
    chip = flash.Flash.blank(layout)
    chip.write("slot_a", b"old data")
    chip.write("slot_a", b"new")
    chip.save_new(tmp_path / "flash.bin")
    assert mode(tmp_path / "flash.bin") == 0o600
    content = (tmp_path / "flash.bin").read_bytes()
    assert len(content) == 4 * 1024 * 1024
    assert content[0x314000:0x314008] == b"new\xff\xff\xff\xff\xff"
    assert set(content[:0x8000]) == {0xFF}
    again = flash.Flash.load(tmp_path / "flash.bin")
    assert again.read("slot_a") == b"new".ljust(0x40000, b"\xff")
    assert set(again.read("slot_b")) == {0xFF}


@pytest.mark.parametrize("mib", [4, 8, 16])
def test_the_chip_is_as_large_as_the_map_needs(tmp_path, layout, mib):
    end = mib * 1024 * 1024
    rows = [*layout[:-1], replace(layout[-1], size=end - layout[-1].offset)]
    chip = flash.Flash.blank(rows)
    chip.write("vfs", b"\x11" * chip.size("vfs"))
    chip.save_new(tmp_path / "flash.bin")
    assert (tmp_path / "flash.bin").stat().st_size == end
    assert flash.Flash.load(tmp_path / "flash.bin").partitions == tuple(rows)
    (tmp_path / "short.bin").write_bytes((tmp_path / "flash.bin").read_bytes()[: end // 2])
    with pytest.raises(RefusedError, match=f"{end // 2} bytes, "):
        flash.Flash.load(tmp_path / "short.bin")


def test_a_flash_file_is_never_overwritten(layout, tmp_path):
    path = tmp_path / "flash.bin"
    path.write_bytes(b"mine")
    with pytest.raises(RefusedError, match="exists"):
        flash.Flash.blank(layout).save_new(path)
    assert path.read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["flash.bin"]


def test_what_does_not_fit_is_refused(layout):
    chip = flash.Flash.blank(layout)
    with pytest.raises(RefusedError, match="8193 bytes, the partition bootstate holds 8192"):
        chip.write("bootstate", bytes(8193))
    with pytest.raises(SignetError, match="no partition 'slot_c', only nvs"):
        chip.write("slot_c", b"")
    assert set(chip.read("bootstate")) == {0xFF}


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "0 bytes, expected 4, 8 or 16 MiB"), (b"\xff" * 0x400000, "no MD5 row")],
)
def test_a_file_that_is_no_flash_is_refused(tmp_path, content, reason):
    (tmp_path / "flash.bin").write_bytes(content)
    with pytest.raises(RefusedError, match=rf"flash\.bin: .*{reason}"):
        flash.Flash.load(tmp_path / "flash.bin")


def test_a_block_device_stays_within_its_partition(layout):
    chip = flash.Flash.blank(layout)
    device = chip.device("bootstate")
    device.writeblocks(1, b"\x11" * 4096)
    assert chip.read("bootstate") == b"\xff" * 4096 + b"\x11" * 4096
    buffer = bytearray(4)
    device.readblocks(0, buffer, 4094)
    assert buffer == b"\xff\xff\x11\x11"
    assert (device.ioctl(4, 0), device.ioctl(5, 0)) == (2, 4096)
    for out_of_range in (lambda: device.writeblocks(2, bytes(4096)),
                         lambda: device.writeblocks(-1, bytes(4096)),
                         lambda: device.readblocks(1, buffer, 4093)):  # fmt: skip
        with pytest.raises(OSError, match="of 8192"):
            out_of_range()
    assert set(chip.read("slot_a")) == {0xFF}


def test_esptool_accepts_the_synthetic_app(tmp_path):
    app = esp_image.synthetic_app("v1.25.0")
    (tmp_path / "app.bin").write_bytes(app)
    shown = run_program("esptool", "image-info", tmp_path / "app.bin").stdout
    assert "Detected image type: ESP32" in shown
    assert "(valid)" in shown
    assert "invalid" not in shown
    assert "Project name: micropython" in shown
    assert "App version: v1.25.0" in shown
    broken = bytes([*app[:60], app[60] ^ 1, *app[61:]])
    (tmp_path / "app.bin").write_bytes(broken)
    shown = run_program("esptool", "image-info", tmp_path / "app.bin").stdout
    assert shown.count("invalid") == 2  # checksum and hash


def test_a_platform_version_that_does_not_fit_is_refused():
    for version in ("v" * 32, "vé"):
        with pytest.raises(SignetError, match="at most 31 ASCII"):
            esp_image.synthetic_app(version)
