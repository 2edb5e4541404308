"""signet.device and identity: what a provisioned board holds, and what is never left behind."""

import csv
import json
import os
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from host_tests.tool_helpers import REPO, SETTINGS, mode, run_program, snapshot
from signet import run
from signet.device import flash_file, identity
from signet.device.networks import Networks, Wifi
from signet.errors import RefusedError
from signet.formats import flash, signing
from signet.image import mpy
from signet.image.stage1 import compile_stage1
from signet.pki import authority
from trust.identity import Identity
from trust.state import CONFIRMED, BootState

pytest_plugins = ["host_tests.tool_fixtures"]

# As the ESP32 port mounts `vfs`, with the sizes that it uses; then stage 1 reads its own slot.
BOARD = """
import sys, os, vfs
class Partition:
    def __init__(self, path, offset, size):
        self.file, self.offset, self.size = open(path, "rb"), offset, size
    def readblocks(self, number, buffer, offset=0):
        self.file.seek(self.offset + number * 4096 + offset)
        self.file.readinto(buffer)
    def writeblocks(self, number, buffer, offset=0):
        raise OSError(30)
    def ioctl(self, operation, argument):
        return {4: self.size // 4096, 5: 4096}.get(operation, 0)
path = sys.argv[1]
disk = Partition(path, 0x394000, 0x6C000)
vfs.mount(vfs.VfsLfs2(disk, progsize=32, readsize=32, lookahead=32), "/flash")
print(sorted(os.listdir("/flash")), sorted(os.listdir("/flash/lib/romfs")))
sys.path[:] = ("/flash/lib", ".frozen")
from romfs import Archive, Blocks
blocks = Blocks("/flash/stage1.romfs")
vfs.mount(Archive(blocks, 0, blocks.length), "/stage1")
print(sorted(os.listdir("/stage1/trust")))
sys.path[:] = ("/stage1", ".frozen")
from trust.identity import Identity
from trust.image import verify
from trust.state import BootState
record = Identity(Partition(path, 0x310000, 0x2000)).record()
state = BootState(Partition(path, 0x312000, 0x2000))
slot = Partition(path, 0x314000, 0x40000)
found = verify(slot, record, state.floor, sys.implementation.version)
print(state.active, state.floor, found.version, record["id"], record["watchdog_s"])
"""


@pytest.fixture(scope="module")
def chip(project, keys, signed, tmp_path_factory):
    """The flash file of a provisioned board."""
    folder = tmp_path_factory.mktemp("board")
    (folder / "signed.img").write_bytes(signed)
    flash_file.provision(SETTINGS, keys, folder / "signed.img", project, folder / "flash.bin")
    return folder / "flash.bin"


def private_number(pem: bytes) -> int:
    key = load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key.private_numbers().private_value


# --- what a board holds


def test_a_flash_file_is_private_and_whole(chip):
    assert mode(chip) == 0o600
    assert chip.stat().st_size == flash.FLASH_LENS[0]
    assert sorted(os.listdir(chip.parent)) == ["flash.bin", "signed.img"]
    content = flash.Flash.load(chip)
    for blank in ("nvs", "otadata", "phy_init", "ota_1", "slot_b"):
        assert set(content.read(blank)) == {0xFF}


def test_slot_a_holds_the_image_and_is_confirmed(chip, signed):
    content = flash.Flash.load(chip)
    assert content.read("slot_a").rstrip(b"\xff") == signed.rstrip(b"\xff")
    state = BootState(content.device("bootstate"))
    assert (state.active, state.status[0], state.floor, state.order) == (0, CONFIRMED, 1, 0)
    first, second = content.read("bootstate")[:4096], content.read("bootstate")[4096:]
    assert first.startswith(b"SGBS\x01\0\0\0")
    assert set(second) == {0xFF}


def test_the_record_is_what_was_asked_for(chip, keys):
    reader = Identity(flash.Flash.load(chip).device("esp_secure_cert"))
    assert json.loads(reader.entry(51)) == {
        "v": 1,
        "id": "dev-0001",
        "model": "signet-demo",
        "hw": "A1",
        "profile": "production",
        "broker": "localhost:8883",
        "images": "localhost:8443",
        "ntp": "localhost:123",
        "watchdog_s": 30,
        "release": [signing.key_digest(keys / "release.pub").hex()],
        "fleet": [signing.key_digest(keys / "fleet.pub").hex()],
    }


def test_espressifs_parser_finds_the_same_identity(chip, keys, tmp_path):
    content = flash.Flash.load(chip)
    reader = Identity(content.device("esp_secure_cert"))
    (tmp_path / "identity.bin").write_bytes(content.read("esp_secure_cert"))
    tool = "configure_esp_secure_cert.py"
    run.run_program(tool, "--parse_bin", "identity.bin", cwd=tmp_path)
    parsed = tmp_path / "esp_secure_cert_parsed_data"
    with open(parsed / "esp_secure_cert_parsed.csv", newline="") as table:
        rows = {(row["tlv_type"], row["tlv_subtype"]): row for row in csv.DictReader(table)}
    assert set(rows) == {
        ("ESP_SECURE_CERT_CA_CERT_TLV", "0"),
        ("ESP_SECURE_CERT_DEV_CERT_TLV", "0"),
        ("ESP_SECURE_CERT_DEV_CERT_TLV", "1"),
        ("ESP_SECURE_CERT_PRIV_KEY_TLV", "0"),
        ("ESP_SECURE_CERT_USER_DATA_1_TLV", "0"),
    }
    record = rows["ESP_SECURE_CERT_USER_DATA_1_TLV", "0"]["data_value"]
    assert record.encode() == reader.entry(51)
    found = {path.name: path.read_bytes() for path in (parsed / "contents").iterdir()}
    assert found["cacert_0_0.pem"] == (keys / "server-ca.pem").read_bytes()
    assert found["devcert_1_1.pem"] == (keys / "device-ca.pem").read_bytes()
    chain = found["devcert_1_0.pem"] + found["devcert_1_1.pem"]
    assert chain == reader.certificate.rstrip(b"\0")
    assert private_number(found["privkey_2_0.pem"]) == private_number(reader.key.rstrip(b"\0"))
    assert (parsed / "tlv_entries_raw.txt").read_text().count("VALID") == 6  # with the integrity
    assert "INVALID" not in (parsed / "tlv_entries_raw.txt").read_text()


def test_key_and_certificate_are_a_pair_under_the_fleets_device_ca(chip, keys):
    reader = Identity(flash.Flash.load(chip).device("esp_secure_cert"))
    leaf, issuer = x509.load_pem_x509_certificates(reader.certificate.rstrip(b"\0"))
    device_ca = x509.load_pem_x509_certificate((keys / "device-ca.pem").read_bytes())
    assert load_pem_private_key(reader.key.rstrip(b"\0"), None).public_key() == leaf.public_key()
    leaf.verify_directly_issued_by(issuer)
    assert issuer == device_ca


def test_esptool_accepts_the_platform_image(chip, tmp_path):
    (tmp_path / "app.bin").write_bytes(flash.Flash.load(chip).read("ota_0"))
    shown = run_program("esptool", "image-info", tmp_path / "app.bin").stdout
    assert "App version: v1.25.0" in shown
    assert "invalid" not in shown


def test_micropython_mounts_vfs_and_stage_1_accepts_its_board(micropython, chip, tmp_path):
    (tmp_path / "board.py").write_text(BOARD)
    command = [micropython, tmp_path / "board.py", chip]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    listed, verifier, booted = done.stdout.splitlines()
    readers, modules = (
        sorted(path.stem + ".mpy" for path in (REPO / "lib" / name).glob("*.py"))
        for name in ("romfs", "trust")
    )
    assert listed == f"['boot.py', 'lib', 'main.mpy', 'stage1.romfs'] {readers}"
    assert verifier == str(modules)
    assert booted == "0 1 1.0.0 dev-0001 30"


def stage1(project, *wifi) -> bytes:
    return flash_file.pack_stage1(compile_stage1(project), 0x6C000, Networks(wifi))


def test_stage_1_is_reproducible_and_its_wiring_as_it_is(project):
    content = stage1(project)
    assert stage1(project) == content
    assert len(content) == 0x6C000
    assert (REPO / "boot.py").read_bytes() in content.replace(b"\xff", b"")


# What firmware/ondemand/link.py reads.
WIFI = {
    "open": (Wifi("works"), b'{"wifi": {"ssid": "works", "key": ""}}'),
    "with a passphrase": (
        Wifi("caf\u00e9", "correct horse"),
        b'{"wifi": {"ssid": "caf\\u00e9", "key": "correct horse"}}',
    ),
}


@pytest.mark.parametrize(("wifi", "expected"), WIFI.values(), ids=WIFI)
def test_wifi_is_a_setting_on_vfs(project, wifi, expected):
    assert expected in stage1(project, wifi)
    assert b"wifi" not in stage1(project)


# --- secrets


def test_no_secret_is_in_an_argument_a_readable_file_or_left_behind(
    project, keys, signed_file, tmp_path, monkeypatch
):
    chain, key = authority.issue_device(keys, "dev-0001")
    secrets = {line for line in key.splitlines() if not line.startswith(b"-")}
    number = private_number(key)
    secrets |= set(identity.stored_key(key).rstrip(b"\0").splitlines()[1:-1])
    secrets |= {number.to_bytes(32, "big"), number.to_bytes(32, "big").hex().encode()}
    temporary = tmp_path / "temp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    seen = []  # of each program: its arguments, and what lies in temporary files meanwhile
    really_run = subprocess.run

    def watch(command, **options):
        done = really_run(command, **options)
        seen.append((" ".join(command), b"".join(snapshot(temporary).values())))
        return done

    monkeypatch.setattr("signet.run.subprocess.run", watch)
    mpy._compile.cache_clear()  # of the tests before: what is compiled already starts no program
    flash_file.provision(
        SETTINGS,
        keys,
        signed_file,
        project,
        tmp_path / "flash.bin",
        flash_file.Credentials(chain, key),
    )
    assert {"mpy-cross"} == {Path(command.split()[0]).name for command, *_ in seen}
    for command, content in seen:
        assert not any(secret in command.encode() + content for secret in secrets)
    assert not any(temporary.iterdir())


def test_a_provisioned_board_is_not_overwritten(project, keys, signed_file, chip, tmp_path):
    target = tmp_path / "flash.bin"
    target.write_bytes(b"a board")
    with pytest.raises(RefusedError, match="not overwritten") as refusal:
        flash_file.provision(SETTINGS, keys, signed_file, project, target)
    assert refusal.value.hint == (
        f"rm {target} first: its identity and its security floor go with it"
    )
    assert target.read_bytes() == b"a board"
