"""`signet board image`: the whole flash of a real ESP32, read back with tools of others."""

import hashlib
import struct
from dataclasses import replace
from itertools import pairwise

import pytest
from littlefs import LittleFS, UserContext

from host_tests.board_helpers import SEALED
from host_tests.esp_images import (
    BANNER,
    BOOT_LOADER_LEN,
    OTA,
    PLAIN,
    make_app,
    make_boot_loader,
    make_image,
    make_micropython,
    make_table,
)
from host_tests.tool_helpers import SETTINGS, mode, run_program, snapshot
from signet.board import real_flash
from signet.board.virtual import bootloader
from signet.device import flash_file
from signet.device.networks import Ethernet, Networks, Wifi
from signet.errors import RefusedError
from signet.formats import esp_image, filesystem, flash
from signet.image import slot_image
from signet.pki import authority
from signet.run import run_program as run_tool
from trust.state import BootState

pytest_plugins = ["host_tests.tool_fixtures"]

# docs/design.md, "Flash map": what of a board's flash comes from where.
REGIONS = {
    "esp_secure_cert": (0x310000, 0x2000),
    "bootstate": (0x312000, 0x2000),
    "slot_a": (0x314000, 0x40000),
    "slot_b": (0x354000, 0x40000),
    "vfs": (0x394000, 0x6C000),
}
LAYOUT = tuple(
    flash.Partition(*row)
    for row in [*OTA[:5], *((name, 0x3F, 0, *at) for name, at in REGIONS.items())]
)


@pytest.fixture(scope="module")
def device_flash(project, keys, signed, tmp_path_factory):
    """The flash file of a device, as `signet device provision` makes it."""
    folder = tmp_path_factory.mktemp("device")
    (folder / "signed.img").write_bytes(signed)
    networks = Networks((Wifi("a network"),))
    flash_file.provision(
        SETTINGS, keys, folder / "signed.img", project, folder / "flash.bin", None, networks
    )
    return folder / "flash.bin"


@pytest.fixture
def build(signet, device_flash, tmp_path):
    """Runs the command on a MicroPython image; what it did, and the file it should make."""

    def run(micropython, chip=device_flash):
        (tmp_path / "micropython.bin").write_bytes(micropython)
        arguments = ("--micropython", "micropython.bin", "--device", chip, "-o", "flash.bin")
        return signet("board", "image", *arguments), tmp_path / "flash.bin"

    return run


# --- what is in it, read by others


@pytest.fixture
def built(build):
    done, path = build(make_micropython())
    assert done.returncode == 0, done.stderr
    return path


def test_it_says_what_it_made_and_keeps_it_private(build):
    done, path = build(make_micropython())
    assert done.stdout == (
        "flash.bin: dev-0001 (signet-demo), 1.0.0 in slot a, MicroPython 1.25.0, 4 MB\n"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert mode(path) == 0o600
    assert path.stat().st_size == 4 * 1024 * 1024
    assert not any((path.parent / "temp").iterdir())


@pytest.mark.parametrize(("start", "end"), [(0x1000, 0x8000), (0x10000, 0x190000)])
def test_esptool_accepts_boot_loader_and_app(built, tmp_path, start, end):
    (tmp_path / "part.bin").write_bytes(built.read_bytes()[start:end])
    shown = run_program("esptool", "image-info", tmp_path / "part.bin").stdout
    assert "Detected image type: ESP32\n" in shown
    assert shown.count("(valid)") == 2  # checksum and hash
    assert "invalid" not in shown


def test_the_table_is_by_the_rules_of_the_idf(built):
    """esp_partition_table_verify: entries, then one MD5 row over them, then nothing."""
    table = built.read_bytes()[0x8000:0x9000]
    rows: list[tuple[int, int, int, int, bytes, int]] = []
    while table[len(rows) * 32 :].startswith(b"\xaa\x50"):
        entry = table[len(rows) * 32 :][:32]
        rows.append(struct.unpack("<xxBBII16sI", entry))
    end = len(rows) * 32
    assert table[end : end + 16] == b"\xeb\xeb" + b"\xff" * 14
    assert table[end + 16 : end + 32] == hashlib.md5(table[:end]).digest()
    assert set(table[end + 32 :]) == {0xFF}
    found = {row[4].rstrip(b"\0").decode(): row[:4] for row in rows}
    assert [(name, *found[name]) for name, *_ in OTA[:5]] == OTA[:5]
    assert {name: found[name][2:] for name in REGIONS} == REGIONS
    places = sorted(row[2:4] for row in rows)
    assert all(at + size <= following for (at, size), (following, _) in pairwise(places))
    assert places[-1][0] + places[-1][1] == len(built.read_bytes())
    assert all(row[5] == 0 for row in rows)


def test_otadata_is_blank_so_ota_0_boots(built):
    content = built.read_bytes()
    assert set(content[0x9000:0x10000]) == {0xFF}  # nvs, otadata, phy_init
    assert set(content[:0x1000]) == set(content[0x190000:0x310000]) == {0xFF}
    assert bootloader.boot(bootloader.FlashFile(built)).partition.label == "ota_0"


def test_all_that_is_the_devices_is_as_it_was(built, device_flash):
    content, before = built.read_bytes(), device_flash.read_bytes()
    assert content[0x310000:] == before[0x310000:]
    assert content[0x1000:0x8000].startswith(make_boot_loader())
    assert content[0x10000:].startswith(make_app())


@pytest.fixture
def sealed_flash(built, tmp_path):
    """The same, with a sealed build's table, and its boot loader up to there."""
    content = bytearray(built.read_bytes())
    loader = make_image([(0x3FFF0030, bytes(0x7E00))])
    table = flash.build_table(SEALED)
    content[0x1000:0x9000] = loader.ljust(0x8000, b"\xff")
    content[0x9000 : 0x9000 + len(table)] = table
    path = tmp_path / "sealed.bin"
    path.write_bytes(content)
    return path


def test_a_sealed_board_s_table_is_behind_its_boot_loader(sealed_flash):
    assert real_flash.check_file(sealed_flash).id == "dev-0001"
    content = bytearray(sealed_flash.read_bytes())
    content[0x8000] ^= 1  # in the boot loader
    sealed_flash.write_bytes(content)
    with pytest.raises(RefusedError, match="boot loader at 0x1000: "):
        real_flash.check_file(sealed_flash)


def test_a_stock_micropython_is_not_for_a_sealed_flash(build, sealed_flash):
    """Its boot loader looks for the table at 0x8000."""
    done, _ = build(make_micropython(), sealed_flash)
    assert done.returncode == 1
    assert "its partition nvs (0x9000, 0x4000 bytes) is not one of the board's" in done.stderr


def test_espressifs_tool_reads_the_identity(built, tmp_path):
    start, size = REGIONS["esp_secure_cert"]
    (tmp_path / "identity.bin").write_bytes(built.read_bytes()[start : start + size])
    run_tool("configure_esp_secure_cert.py", "--parse_bin", "identity.bin", cwd=tmp_path)
    parsed = tmp_path / "esp_secure_cert_parsed_data"
    assert '""id"":""dev-0001""' in (parsed / "esp_secure_cert_parsed.csv").read_text()
    entries = (parsed / "tlv_entries_raw.txt").read_text()
    assert "INVALID" not in entries
    assert entries.count("VALID") == 6  # CA, certificate and its issuer, key, record, integrity


def test_littlefs_mounts_vfs(built, project):
    start, size = REGIONS["vfs"]
    vfs = LittleFS(
        UserContext(buffer=bytearray(built.read_bytes()[start : start + size])), mount=False,
        block_size=4096, block_count=size // 4096, read_size=32, prog_size=32,
        cache_size=128, lookahead_size=32, name_max=255, disk_version=0x20001,
    )  # fmt: skip
    vfs.mount()
    with vfs.open("/boot.py", "rb") as file:
        assert file.read() == (project / "boot.py").read_bytes()
    with vfs.open("/settings.json", "rb") as file:
        assert b"a network" in file.read()


def test_espsecure_verifies_the_slot(built, keys, tmp_path):
    slot = built.read_bytes()[REGIONS["slot_a"][0] :]
    payload_len = struct.unpack_from("<I", slot, 12)[0]
    (tmp_path / "slot.img").write_bytes(slot[: payload_len + 8192])
    arguments = ("--version", "2", "--keyfile", keys / "release.pub", tmp_path / "slot.img")
    done = run_program("espsecure", "verify-signature", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr


# --- what is refused


def cut(data: bytes, count: int) -> bytes:
    return data[: len(data) - count]


def rehash(app: bytes) -> bytes:
    """An app with another checksum, and the SHA-256 over that."""
    body = app[:-33] + bytes([app[-33] ^ 1])
    return body + hashlib.sha256(body).digest()


GOOD = make_micropython()
DATED = b"3.4.0; MicroPython v%s on 2025-04-15\0"
WRONG = {
    "ESP32-S3": (make_boot_loader(chip=9) + GOOD, r"for ESP32-S3 \(chip id 9\), expected ESP32"),
    "ESP32-C3": (make_boot_loader(chip=5) + GOOD, r"for ESP32-C3 \(chip id 5\), expected ESP32"),
    "app of another chip": (make_micropython(app=make_app(chip=9)), "app at 0x10000: chip id 9"),
    "empty": (b"", "0 bytes, expected a MicroPython image"),
    "zeros": (bytes(1000), "magic byte 0x00, expected 0xe9"),
    "ELF": (b"\x7fELF" + bytes(1000), "an ELF file, expected the .bin"),
    "UF2": (b"UF2\nWQ]\x9e" + bytes(504), "a UF2 file, expected the .bin"),
    "app alone": (make_app(), "an app alone, expected boot loader"),
    "whole flash": (b"\xff" * 0x1000 + GOOD, "magic byte 0xff"),
    "cut in the boot loader": (GOOD[:0x800], "cut off in the boot loader"),
    "cut before the table": (GOOD[:0x6FFF], "cut off: 28671 bytes, no partition table"),
    "cut before the app": (GOOD[:0xF000], "cut off in the app, after 0 bytes"),
    "cut in the app": (cut(GOOD, 2000), "cut off in the app"),
    "cut in the hash": (cut(GOOD, 1), "cut off in the app"),
    "data behind it": (GOOD + b"\0", "data between 0x"),
    "data before the app": (GOOD[:0x8100] + b"\0" + GOOD[0x8101:],
                            "data between 0x8c00 and 0x10000"),
    "no hash": (make_micropython(app=make_app(hashed=False)), "app at 0x10000: no SHA-256"),
    "boot loader without hash": (
        make_micropython(make_boot_loader(hashed=False)), "boot loader at 0x1000: no SHA-256"),
    "wrong checksum, right hash": (
        make_micropython(app=rehash(make_app())), "app at 0x10000: checksum 0x"),
    "too large": (make_micropython(app=make_app(size=0x180000)), "app at 0x10000: "),
    "plain layout": (make_micropython(table=make_table(PLAIN)), "not an OTA image"),
    "8 MB layout": (
        make_micropython(table=make_table([*OTA[:4], ("ota_1", 0, 0x11, 0x280000, 0x270000)])),
        r"its partition ota_1 \(0x280000, 0x270000 bytes\) is not one of the board's"),
    "no table": (make_micropython(table=b""), "partition table: row 0: no MD5 row"),
    "2 MB boot loader": (make_micropython(make_boot_loader(flash_size=1)),
                         "for 2 MiB of flash, the board has 4"),
    "1.24.1": (make_micropython(app=make_app(DATED % b"1.24.1")),
               "MicroPython 1.24.1, expected 1.25.0 or later"),
    "1.25.0 to be": (make_micropython(app=make_app(DATED % b"1.25.0-preview.384.g53a8a1c2d")),
                     "MicroPython 1.25.0-preview, expected 1.25.0 or later"),
    "no MicroPython": (make_micropython(app=make_app(b"hello world")), "0 MicroPython versions"),
    "two of them": (make_micropython(app=make_app(BANNER + DATED % b"1.26.0")), "2 MicroPython"),
    "no description": (make_micropython(app=make_image([(0x3F400020, BANNER.ljust(512, b"\0"))])),
                       r"no description \(esp_app_desc_t\)"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "reason"), WRONG.values(), ids=WRONG)
def test_a_wrong_image_is_refused(content, reason):
    with pytest.raises(RefusedError, match=reason):
        esp_image.parse_micropython(content, LAYOUT)


def is_refused(content: bytes) -> bool:
    try:
        esp_image.parse_micropython(content, LAYOUT)
    except RefusedError:
        return True
    return False


def test_every_byte_counts():
    """Whichever byte is altered, the image is refused."""
    assert esp_image.parse_micropython(GOOD, LAYOUT).version == (1, 25, 0)
    ends = (len(make_boot_loader()), BOOT_LOADER_LEN + 32 * 7, len(GOOD))
    starts = (0, BOOT_LOADER_LEN, 0xF000)
    places = [range(start, end, 13) for start, end in zip(starts, ends, strict=True)]
    places.append(range(0, len(GOOD), 997))
    for at in (place for part in places for place in part):
        altered = bytearray(GOOD)
        altered[at] ^= 0x10
        assert is_refused(bytes(altered)), f"byte {at:#x}"


@pytest.mark.parametrize(
    ("banner", "version"),
    [(b"1.25.0", (1, 25, 0)), (b"1.28.3", (1, 28, 3)), (b"1.26.0-preview.5.gabc-dirty", (1, 26, 0)),
     (b"2.0", (2, 0, 0))],
)  # fmt: skip
def test_later_versions_are_taken(banner, version):
    taken = esp_image.parse_micropython(make_micropython(app=make_app(DATED % banner)), LAYOUT)
    assert taken.version == version


def alter(chip: flash.Flash, label: str, at: int) -> None:
    content = bytearray(chip.read(label))
    content[at] ^= 1
    chip.write(label, bytes(content))


def erase(label):
    return lambda chip: chip.write(label, b"")


WRONG_DEVICES = {
    "no identity": (erase("esp_secure_cert"), "it would not boot"),
    "no boot state": (erase("bootstate"), "it would not boot: boot state"),
    "no image": (erase("slot_a"), "it would not boot: no slot may run"),
    "image altered": (lambda chip: alter(chip, "slot_a", 5000), "digest does not match"),
    "no vfs": (erase("vfs"), "not a sound littlefs file system"),
    "no stage 1": (
        lambda chip: chip.write("vfs", filesystem.pack({"boot.py": b""}, 108)),
        "stage 1 is not on vfs: no /lib/romfs/__init__.mpy, /main.mpy, /stage1.romfs",
    ),
}


@pytest.mark.parametrize(("spoil", "reason"), WRONG_DEVICES.values(), ids=WRONG_DEVICES)
def test_a_device_that_would_not_boot_is_refused(build, device_flash, tmp_path, spoil, reason):
    chip = flash.Flash.load(device_flash)
    spoil(chip)
    chip.save_new(tmp_path / "device.bin")
    before = snapshot(tmp_path)
    done, path = build(GOOD, "device.bin")
    assert done.returncode == 1
    assert reason in done.stderr
    assert done.stderr.startswith("signet: error: device.bin: ")
    assert not path.exists()
    assert snapshot(tmp_path) == before | {"micropython.bin": GOOD}


def test_an_image_that_needs_a_later_micropython_is_refused(
    build, keys, project, tmp_path, device_flash
):
    release = slot_image.Release("1.0.0", "signet-demo", 1, (1, 26, 0), 1_700_000_000)
    content = slot_image.sign_image(slot_image.build_image(release, project), keys / "release.key")
    chip = flash.Flash.load(device_flash)
    chip.write("slot_a", content)
    chip.save_new(tmp_path / "device.bin")
    done, path = build(GOOD, "device.bin")
    assert "needs MicroPython 1.26.0, this is 1.25.0" in done.stderr
    assert (done.returncode, path.exists()) == (1, False)
    assert build(make_micropython(app=make_app(DATED % b"1.26.1")), "device.bin")[0].returncode == 0


def test_ethernet_takes_a_micropython_that_has_it(build, keys, project, signed, tmp_path):
    (tmp_path / "signed.img").write_bytes(signed)
    template = flash_file.prepare(
        keys, tmp_path / "signed.img", project, SETTINGS.model, SETTINGS.profile
    )
    flash_file.build_flash(
        replace(template, knows_networks=True),
        replace(SETTINGS, ethernet=Ethernet("LAN8720", 1, 23, 18)),
        flash_file.Credentials(*authority.issue_device(keys, SETTINGS.id)),
    ).save_new(tmp_path / "device.bin")
    done, path = build(make_micropython(), tmp_path / "device.bin")
    assert done.returncode == 1
    assert "this MicroPython has no network.PHY_LAN8720" in done.stderr
    assert not path.exists()
    done, path = build(
        make_micropython(app=make_app(BANNER + b"PHY_LAN8720")), tmp_path / "device.bin"
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_slot_on_trial_keeps_its_tries(build, device_flash, tmp_path):
    """Checking the device is not a boot of it."""
    chip = flash.Flash.load(device_flash)
    chip.write("slot_b", chip.read("slot_a"))
    state = BootState(chip.device("bootstate"))
    state.stage(1)
    chip.save_new(tmp_path / "device.bin")
    done, path = build(GOOD, "device.bin")
    assert "1.0.0 in slot b" in done.stdout
    assert flash.Flash.load(path).read("bootstate") == chip.read("bootstate")


def test_a_file_is_never_overwritten(build, tmp_path):
    (tmp_path / "flash.bin").write_bytes(b"mine")
    done, path = build(GOOD)
    assert (done.returncode, path.read_bytes()) == (1, b"mine")
    assert done.stderr == "signet: error: flash.bin: exists, and is not overwritten\n"


def test_a_refusal_names_the_file_and_what_to_take(build):
    done, path = build(make_app())
    assert done.returncode == 1
    assert done.stderr == (
        "signet: error: micropython.bin: an app alone, expected boot loader, partition table "
        "and app\nsignet: hint: it takes a published ESP32_GENERIC-OTA-….bin, 1.25.0 or later\n"
    )
    assert not path.exists()
