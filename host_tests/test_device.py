"""flash_file and identity: what a provisioned board holds, and what is never provisioned."""

import csv
import datetime
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from host_tests.tool_helpers import RELEASE, REPO, SETTINGS, mode, run_program, snapshot
from signet import run
from signet.device import flash_file, identity
from signet.device.settings import Wifi
from signet.errors import RefusedError, SignetError
from signet.formats import flash, secure_cert, signing
from signet.image import slot_image
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
disk = Partition(path, 0x3D4000, 0x2C000)
vfs.mount(vfs.VfsLfs2(disk, progsize=32, readsize=32, lookahead=32), "/flash")
print(sorted(os.listdir("/flash")), sorted(os.listdir("/flash/lib/trust")))
sys.path[:] = ("/flash/lib", ".frozen")
from trust.identity import Identity
from trust.image import verify
from trust.state import BootState
record = Identity(Partition(path, 0x310000, 0x2000)).record()
state = BootState(Partition(path, 0x312000, 0x2000))
slot = Partition(path, 0x314000, 0x60000)
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


def pem_key(key, encryption=NoEncryption()) -> bytes:  # noqa: B008 - a constant
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    return pem


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
    assert found["cacert_0_0.pem"] == (keys / "root-ca.pem").read_bytes()
    assert found["devcert_1_1.pem"] == (keys / "device-ca.pem").read_bytes()
    chain = found["devcert_1_0.pem"] + found["devcert_1_1.pem"]
    assert chain == reader.certificate.rstrip(b"\0")
    assert private_number(found["privkey_2_0.pem"]) == private_number(reader.key.rstrip(b"\0"))
    assert (parsed / "tlv_entries_raw.txt").read_text().count("VALID") == 6  # with the integrity
    assert "INVALID" not in (parsed / "tlv_entries_raw.txt").read_text()


def test_key_and_certificate_are_a_pair_under_the_fleets_root(chip, keys):
    reader = Identity(flash.Flash.load(chip).device("esp_secure_cert"))
    leaf, issuer = x509.load_pem_x509_certificates(reader.certificate.rstrip(b"\0"))
    root = x509.load_pem_x509_certificate((keys / "root-ca.pem").read_bytes())
    assert load_pem_private_key(reader.key.rstrip(b"\0"), None).public_key() == leaf.public_key()
    leaf.verify_directly_issued_by(issuer)
    issuer.verify_directly_issued_by(root)


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
    listed, booted = done.stdout.splitlines()
    modules = sorted(path.stem + ".mpy" for path in (REPO / "lib/trust").glob("*.py"))
    assert listed == f"['boot.py', 'lib', 'main.py'] {modules}"
    assert booted == "0 1 1.0.0 dev-0001 30"


def stage1(project, wifi=None) -> bytes:
    return flash_file.pack_stage1(compile_stage1(project), 0x2C000, wifi)


def test_stage_1_is_reproducible_and_its_wiring_as_it_is(project):
    content = stage1(project)
    assert stage1(project) == content
    assert len(content) == 0x2C000
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


BAD_WIFI = {
    "no name": (Wifi(""), "Wi-Fi name '', expected 1 to 32 bytes"),
    "long name": (Wifi("\u00e9" * 17), "expected 1 to 32 bytes"),
    "short key": (Wifi("works", "hunter2"), "passphrase of 7 characters, expected 8 to 63"),
    "long key": (Wifi("works", "x" * 64), "passphrase of 64 characters"),
    "not ASCII": (Wifi("works", "p\u00e4ssword"), "in ASCII"),
}


@pytest.mark.parametrize(("wifi", "reason"), BAD_WIFI.values(), ids=BAD_WIFI)
def test_wifi_that_cannot_be_is_refused(project, keys, signed_file, tmp_path, wifi, reason):
    with pytest.raises(SignetError, match=reason) as failure:
        flash_file.provision(
            SETTINGS, keys, signed_file, project, tmp_path / "flash.bin", wifi=wifi
        )
    assert not wifi.key or wifi.key not in str(failure.value)
    assert not (tmp_path / "flash.bin").exists()


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


# --- what is refused


def issue(
    keys,
    *,
    key=None,
    name="dev-0001",
    days=(-1, 1),
    issuer="device-ca",
    with_issuer=True,
    purpose=ExtendedKeyUsageOID.CLIENT_AUTH,
):
    """A device's credentials with something of one's own choice."""
    authority = x509.load_pem_x509_certificate((keys / f"{issuer}.pem").read_bytes())
    signer = load_pem_private_key((keys / f"{issuer}.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = key or ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=days[0]))
        .not_valid_after(now + datetime.timedelta(days=days[1]))
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    chain = [certificate, authority] if with_issuer else [certificate]
    pem = b"".join(item.public_bytes(Encoding.PEM) for item in chain)
    return flash_file.Credentials(pem, pem_key(key))


# What is wrong, from the fleet's keys and those of another fleet; and the reason given.
BAD_CREDENTIALS = {
    "key of another": (
        lambda keys, _: replace(issue(keys), key=issue(keys).key),
        "key does not belong to the device certificate",
    ),
    "another device": (
        lambda keys, _: issue(keys, name="dev-0002"),
        r"CN \['dev-0002'\], expected \['dev-0001'\]",
    ),
    "RSA": (lambda keys, _: issue(keys, key=rsa.generate_private_key(65537, 2048)), "P-256"),
    "P-384": (lambda keys, _: issue(keys, key=ec.generate_private_key(ec.SECP384R1())), "P-256"),
    "encrypted key": (
        lambda keys, _: replace(
            issue(keys),
            key=pem_key(ec.generate_private_key(ec.SECP256R1()), BestAvailableEncryption(b"word")),
        ),
        "not an unencrypted PEM private key",
    ),
    "no key": (lambda keys, _: replace(issue(keys), key=b""), "not an unencrypted PEM"),
    "no certificate": (lambda keys, _: replace(issue(keys), chain=b""), "not PEM certificates"),
    "no issuer": (lambda keys, _: issue(keys, with_issuer=False), "was not issued by"),
    "another fleet": (lambda _, foreign: issue(foreign), "was not issued by"),
    "another fleet's device, our CA": (
        lambda keys, foreign: replace(
            device_of_foreign := issue(foreign, with_issuer=False),
            chain=device_of_foreign.chain + (keys / "device-ca.pem").read_bytes(),
        ),
        "was not issued by",
    ),
    "expired": (lambda keys, _: issue(keys, days=(-2, -1)), "is valid from"),
    "not yet valid": (lambda keys, _: issue(keys, days=(1, 2)), "is valid from"),
    "a server's": (
        lambda keys, _: issue(keys, purpose=ExtendedKeyUsageOID.SERVER_AUTH),
        "do not include client authentication",
    ),
    "issued by a leaf": (lambda keys, _: issue(keys, issuer="operator"), "is not a CA"),
    "long chain": (
        lambda keys, _: replace(c := issue(keys), chain=c.chain * 3),
        "chain of 6, at most 4",
    ),
}


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """The PKI folder of another fleet."""
    folder = tmp_path_factory.mktemp("foreign") / "pki"
    authority.init_pki(folder, ["localhost"])
    return folder


@pytest.mark.parametrize(("make", "reason"), BAD_CREDENTIALS.values(), ids=BAD_CREDENTIALS)
def test_credentials_that_could_not_log_in_are_refused(
    project, keys, foreign, signed_file, tmp_path, make, reason
):
    before = snapshot(tmp_path)
    with pytest.raises(RefusedError, match=reason):
        flash_file.provision(
            SETTINGS, keys, signed_file, project, tmp_path / "flash.bin", make(keys, foreign)
        )
    assert snapshot(tmp_path) == before


def test_good_credentials_from_elsewhere_are_burned(project, keys, signed_file, tmp_path):
    credentials = issue(keys)
    flash_file.provision(SETTINGS, keys, signed_file, project, tmp_path / "flash.bin", credentials)
    reader = Identity(flash.Flash.load(tmp_path / "flash.bin").device("esp_secure_cert"))
    assert reader.certificate.rstrip(b"\0") == credentials.chain


BAD_SETTINGS = {
    "id": ({"id": "Dev 1"}, "device id 'Dev 1'"),
    "id with a topic": ({"id": "dev/+"}, "device id"),
    "model": ({"model": "a_b"}, "model 'a_b'"),
    "hardware": ({"hw": ""}, "hardware revision ''"),
    "no port": ({"broker": "localhost"}, "broker 'localhost', expected host:port"),
    "port 0": ({"images": "localhost:0"}, "images 'localhost:0'"),
    "large port": ({"ntp": "localhost:65536"}, "ntp"),
    "no host": ({"broker": ":8883"}, "broker"),
    "URL": ({"images": "https://localhost:8443"}, "images"),
    "digits of another script": ({"ntp": "localhost:\u0661\u0662"}, "ntp"),
    "watchdog": ({"watchdog_s": 4}, "watchdog 4 s, expected 5 to 300"),
    "profile": ({"profile": "debug"}, "profile 'debug', expected one of dev, production, sealed"),
    "long watchdog": ({"watchdog_s": 301}, "watchdog 301 s"),
    "record too long": (
        dict.fromkeys(("broker", "images", "ntp"), f"{'a.' * 126}a:1234"),
        "provisioning record: 10.. bytes, expected at most 1024",
    ),
}


@pytest.mark.parametrize(("fields", "reason"), BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_wrong_settings_are_refused(project, keys, signed_file, tmp_path, fields, reason):
    before = snapshot(tmp_path)
    settings = replace(SETTINGS, **fields)
    with pytest.raises(SignetError, match=reason):
        flash_file.provision(settings, keys, signed_file, project, tmp_path / "flash.bin")
    assert snapshot(tmp_path) == before


def test_an_image_that_the_board_would_refuse_is_not_provisioned(
    project, keys, foreign, unsigned, signed, tmp_path
):
    path = tmp_path / "image.img"
    cases = [
        (unsigned, "signet-demo", "not signed"),
        (signed[:-1], "signet-demo", "bytes, expected"),
        (signed[:5000] + b"?" + signed[5001:], "signet-demo", "digest does not match"),
        (slot_image.sign_image(unsigned, foreign / "release.key"), "signet-demo", "unknown key"),
        (slot_image.sign_image(unsigned, keys / "fleet.key"), "signet-demo", "unknown key"),
        (signed, "signet-other", "image for model 'signet-demo'"),
    ]
    for content, model, reason in cases:
        path.write_bytes(content)
        with pytest.raises(RefusedError, match=rf"image\.img: .*{reason}"):
            flash_file.provision(
                replace(SETTINGS, model=model), keys, path, project, tmp_path / "flash.bin"
            )
        assert os.listdir(tmp_path) == ["image.img"]


def test_an_image_larger_than_the_slot_is_refused(project, keys, tmp_path):
    release = slot_image.pack_descriptor(RELEASE, 0x60000) + bytes(0x60000)
    (tmp_path / "large.img").write_bytes(signing.sign_bytes(release, keys / "release.key"))
    with pytest.raises(RefusedError, match=r"large\.img: 401408 .* slot_a holds 393216"):
        flash_file.provision(
            SETTINGS, keys, tmp_path / "large.img", project, tmp_path / "flash.bin"
        )
    assert not (tmp_path / "flash.bin").exists()


def test_a_provisioned_board_is_not_overwritten(project, keys, signed_file, chip, tmp_path):
    target = tmp_path / "flash.bin"
    target.write_bytes(b"a board")
    with pytest.raises(RefusedError, match="not overwritten") as refusal:
        flash_file.provision(SETTINGS, keys, signed_file, project, target)
    assert refusal.value.hint == (
        f"rm {target} first: its identity and its security floor go with it"
    )
    assert target.read_bytes() == b"a board"


def test_an_identity_that_reads_back_differently_is_refused(keys, monkeypatch):
    chain, key = authority.issue_device(keys, "dev-0001")
    other, _ = authority.issue_device(keys, "dev-0001")
    ca = (keys / "root-ca.pem").read_bytes()
    record = {"v": 1, "id": "dev-0001", "model": "m", "broker": "", "images": "", "ntp": ""}
    record |= {"release": ["00" * 32], "fleet": ["00" * 32], "watchdog_s": 1, "profile": "dev"}
    key = identity.stored_key(key)
    identity.build_identity(chain, key, ca, record, 0x2000)
    other_leaf = x509.load_pem_x509_certificate(other).public_bytes(Encoding.PEM) + b"\0"
    really_pack = secure_cert.pack
    monkeypatch.setattr(
        secure_cert,
        "pack",
        lambda entries: really_pack(
            [entry._replace(data=other_leaf) if entry[:2] == (1, 0) else entry for entry in entries]
        ),
    )
    with pytest.raises(RefusedError, match="what was read back differs"):
        identity.build_identity(chain, key, ca, record, 0x2000)


def test_a_missing_part_is_named(project, keys, signed_file, tmp_path):
    for name in ("boot.py", "lib/trust", slot_image.LAYOUT):
        source = tmp_path / "project"
        shutil.copytree(project, source)
        path = source / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        with pytest.raises(SignetError, match=name):
            flash_file.provision(SETTINGS, keys, signed_file, source, tmp_path / "flash.bin")
        assert not (tmp_path / "flash.bin").exists()
        shutil.rmtree(source)
