"""signet.formats.secure_cert: the bytes of Espressif's tool, and what of a factory's is taken."""

import csv
import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from host_tests.tool_helpers import run_program
from signet.device import identity
from signet.errors import RefusedError
from signet.formats import secure_cert
from signet.formats.secure_cert import Entry
from signet.pki import authority
from trust.identity import CA_CERT, DEVICE_CERT, PRIVATE_KEY, RECORD

pytest_plugins = ["host_tests.tool_fixtures"]

TOOL = "configure_esp_secure_cert.py"
COLUMNS = ("tlv_type", "tlv_subtype", "data_value", "data_type", "priv_key_type", "algorithm",
           "key_size", "efuse_id", "efuse_key")  # fmt: skip


def run_tool(folder: Path, *args: str) -> bytes:
    """The partition that Espressif's tool makes of ca.pem, cert0.pem and key.pem."""
    command = [str(Path(sys.executable).parent / TOOL), "--target_chip", "esp32", "--skip_flash",
               "--ca-cert", "ca.pem", "--device-cert", "cert0.pem", "--private-key", "key.pem",
               "--priv_key_algo", "ECDSA", "256", *args]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return (folder / "esp_secure_cert_data/esp_secure_cert.bin").read_bytes()


def put_inputs(folder: Path, keys: Path, device_id: str) -> tuple[bytes, bytes]:
    chain, key = authority.issue_device(keys, device_id)
    leaf = chain[: chain.index(b"-----END") + len(b"-----END CERTIFICATE-----\n")]
    (folder / "ca.pem").write_bytes((keys / "server-ca.pem").read_bytes())
    (folder / "cert0.pem").write_bytes(leaf)
    (folder / "cert1.pem").write_bytes(chain[len(leaf) :])
    (folder / "key.pem").write_bytes(key)
    return chain, key


@pytest.mark.parametrize("padding", range(0, 17, 4))
def test_the_identity_is_espressifs_byte_for_byte(keys, tmp_path, padding):
    """With records and certificates of lengths that leave all kinds of padding."""
    device_id = "d" + "x" * padding
    chain, key = put_inputs(tmp_path, keys, device_id)
    record = {"v": 1, "id": device_id, "model": "m" * (padding + 1), "broker": "", "images": ""}
    record |= {"ntp": "", "release": ["00" * 32], "fleet": ["00" * 32], "watchdog_s": 1}
    record["profile"] = "dev"
    (tmp_path / "record.json").write_bytes(json.dumps(record, separators=(",", ":")).encode())
    rows = io.StringIO()
    table = csv.DictWriter(rows, COLUMNS)
    table.writeheader()
    for type_, subtype, name in ((1, 1, "cert1.pem"), (51, 0, "record.json")):
        table.writerow({"tlv_type": type_, "tlv_subtype": subtype, "data_value": name,
                        "data_type": "file"})  # fmt: skip
    (tmp_path / "extra.csv").write_text(rows.getvalue())
    made = run_tool(
        tmp_path, "--secure_cert_type", "cust_flash_tlv", "--esp_secure_cert_csv", "extra.csv"
    )
    ca = (keys / "server-ca.pem").read_bytes()
    ours = identity.build_identity(chain, identity.stored_key(key), ca, record, 0x2000)
    assert ours.rstrip(b"\xff") == made.rstrip(b"\xff")
    assert secure_cert.unpack(made) == secure_cert.unpack(ours)
    assert secure_cert.factory_key(
        secure_cert.pack(secure_cert.unpack(ours)[:3])
    ) == identity.stored_key(key)


ENTRIES = [
    Entry(CA_CERT, 0, b"ca\0"),
    Entry(DEVICE_CERT, 0, b"certificate"),
    Entry(52, 1, b"x" * 16),
]


def test_what_was_packed_is_unpacked():
    content = secure_cert.pack(ENTRIES)
    digest = hashlib.sha256(content[: -(12 + 32 + 4)]).digest()
    expected = [*ENTRIES, Entry(secure_cert.INTEGRITY, 0, digest)]
    assert secure_cert.unpack(content.ljust(0x2000, b"\xff")) == expected
    assert secure_cert.unpack(b"\xff" * 0x2000) == []
    assert secure_cert.unpack(b"") == []


def test_every_damaged_byte_is_noticed():
    content = secure_cert.pack(ENTRIES)
    intact = secure_cert.unpack(content)
    for at in range(len(content)):
        damaged = content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]
        try:
            found = secure_cert.unpack(damaged)
        except RefusedError:
            continue
        assert found == intact[: len(found)]  # a magic was hit: the list ends there
        assert len(found) < len(intact)


def test_an_integrity_entry_of_other_entries_is_refused():
    whole, other = secure_cert.pack(ENTRIES), secure_cert.pack(ENTRIES[:2])
    mixed = whole[: -(12 + 32 + 4)] + other[-(12 + 32 + 4) :]
    with pytest.raises(RefusedError, match="integrity entry does not match"):
        secure_cert.unpack(mixed)


@pytest.mark.parametrize("kind", ["cust_flash", "nvs"])
def test_the_older_formats_are_named(keys, tmp_path, kind):
    """As Espressif's tool still writes them."""
    put_inputs(tmp_path, keys, "dev-0001")
    code = (
        "import sys, os\n"
        "from esp_secure_cert import custflash_format, nvs_format\n"
        "if sys.argv[1] == 'nvs':\n"
        "    nvs_format.generate_csv_file_no_ds('cert0.pem', 'ca.pem', 'key.pem', None, 'o.csv')\n"
        "    nvs_format.generate_partition('o.csv', 'out.bin')\n"
        "else:\n"
        "    custflash_format.generate_partition_no_ds('cert0.pem', 'ca.pem', 'key.pem', None,"
        " 'esp32', 'out.bin')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, kind], cwd=tmp_path, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    with pytest.raises(RefusedError, match=f"the old {kind} format, expected TLV") as refusal:
        secure_cert.factory_key((tmp_path / "out.bin").read_bytes())
    assert refusal.value.hint
    assert "--cert and --key" in refusal.value.hint


def test_cust_flash_with_the_ds_peripheral_is_named_too():
    metadata = bytes(36) + (0x12345678).to_bytes(4, "little")
    with pytest.raises(RefusedError, match="old cust_flash format"):
        secure_cert.unpack(metadata.ljust(0x6000, b"\xff"))


@pytest.mark.parametrize("content", [b"\0" * 64, b"MZ" * 100, b"\xfe\xff\xff\xff" + bytes(60)])
def test_something_else_is_refused(content):
    with pytest.raises(RefusedError, match="expected 11ba5eba"):
        secure_cert.unpack(content)


def test_a_damaged_first_entry_is_not_an_empty_partition():
    with pytest.raises(RefusedError, match="expected 11ba5eba"):
        secure_cert.unpack(b"\x00" + secure_cert.pack(ENTRIES)[1:])


HARDWARE_KEYS = {
    "DS data": ([Entry(3, 0, b"d")], "type 3 (DS data): the key is bound to the chip"),
    "DS context": ([Entry(4, 0, b"d")], "type 4 (DS context)"),
    "ECDSA peripheral": ([Entry(6, 0, bytes(40))], "type 6 (a peripheral's key)"),
    "HMAC-encrypted": ([Entry(PRIVATE_KEY, 0, b"k", 0x80)], "encrypted with an HMAC eFuse key"),
    "HMAC-derived": ([Entry(PRIVATE_KEY, 0, b"k", 0x40)], "derived from an HMAC eFuse key"),
    "in an eFuse": ([Entry(PRIVATE_KEY, 0, b"k", 0x08)], "in the ECDSA peripheral's eFuse"),
    "unknown flags": ([Entry(PRIVATE_KEY, 0, b"k", 0x01)], "flags 0x01"),
    "no key": ([Entry(DEVICE_CERT, 0, b"c")], "no private key"),
    "erased": ([], "no private key"),
    "a device of ours": (
        [Entry(PRIVATE_KEY, 0, b"k"), Entry(RECORD, 0, b'{"id":"dev-7"}')],
        'already provisioned: b\'{"id":"dev-7"}\'',
    ),
}


@pytest.mark.parametrize(("entries", "reason"), HARDWARE_KEYS.values(), ids=HARDWARE_KEYS)
def test_keys_that_micropython_cannot_use_are_refused(entries, reason):
    with pytest.raises(RefusedError) as refusal:
        secure_cert.factory_key(secure_cert.pack(entries))
    assert reason in str(refusal.value)


def test_espressifs_flags_are_the_ones_refused(tmp_path):
    """Their tool's own table of flags (run as a program, not imported here)."""
    code = (
        "from esp_secure_cert.tlv_format_construct import _get_flag_byte\n"
        "from esp_secure_cert.tlv_format import tlv_priv_key_type_t as t\n"
        "print([_get_flag_byte(k) for k in t if k.value >= 0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {*json.loads(done.stdout)} == {0, *secure_cert._KEY_FLAGS}


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (ec.generate_private_key(ec.SECP256R1()), None),
        (ec.generate_private_key(ec.SECP384R1()), "expected a P-256 key"),
        (rsa.generate_private_key(65537, 2048), "expected a P-256 key"),
    ],
    ids=["P-256", "P-384", "RSA"],
)
def test_keys_in_der(key, reason):
    der = key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    if reason is None:
        assert identity.load_key(der).private_numbers() == key.private_numbers()
    else:
        with pytest.raises(RefusedError, match=reason):
            identity.load_key(der)


def test_the_tool_is_there():
    assert run_program(TOOL, "--help").returncode == 0
