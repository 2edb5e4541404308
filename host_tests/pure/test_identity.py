"""trust.identity against a partition by Espressif's configure_esp_secure_cert.py."""

import binascii
import json
import struct

import slots
from flash_sim import FlashSim

from trust.identity import CA_CERT, DEVICE_CERT, PRIVATE_KEY, RECORD, Identity, IdentityError

_MAGIC = 0xBA5EBA11


def entry(type_, data, subtype=0, flags=0, magic=_MAGIC, length=None):
    """One TLV as esp_secure_cert_tlv_config.h has it."""
    length = len(data) if length is None else length
    raw = struct.pack("<IBxxxBBH", magic, flags, type_, subtype, length)
    raw += data + bytes(-len(data) % 16)
    return raw + struct.pack("<I", binascii.crc32(raw, 0xFFFFFFFF))


def load(data, blocks=2):
    flash = FlashSim(blocks)
    flash.load([data[:4096], data[4096:]])
    return flash


def burned():
    return load(slots.vector("identity", "partition"))


def burned_record():
    return json.loads(slots.vector("identity", "record"))


def make_record(**changes):
    """An identity with only a record; None leaves a field out."""
    fields = burned_record()
    fields.update(changes)
    fields = {name: fields[name] for name in fields if fields[name] is not None}
    return load(entry(RECORD, json.dumps(fields).encode()), 1)


def refuse(reason, call, *args):
    slots.check_refused(reason, IdentityError, call, *args)


def pem_body(pem):
    """The base64 of a PEM text: how its lines are broken is nobody's business."""
    return b"".join([line for line in pem.split(b"\n") if line[:1] != b"-"])


def test_what_espressifs_tool_wrote():
    identity = Identity(burned())
    # Stored as PEM with a closing NUL, which a reader strips.
    for found, name in ((identity.ca, "ca"), (identity.key, "key")):
        assert found[-1:] != b"\0"
        assert pem_body(found) == pem_body(slots.vector("identity", name)), name
    leaf = slots.vector("identity", "leaf")
    issuer = slots.vector("identity", "issuer")
    assert pem_body(identity.entry(DEVICE_CERT).rstrip(b"\0")) == pem_body(leaf)
    assert pem_body(identity.entry(DEVICE_CERT, 1).rstrip(b"\0")) == pem_body(issuer)
    assert pem_body(identity.certificate) == pem_body(leaf) + pem_body(issuer)
    assert identity.certificate.count(b"-----BEGIN CERTIFICATE-----") == 2


def test_record():
    found = Identity(burned()).record()
    expected = slots.record()
    assert found == expected
    assert found["release"] == [slots.key_digest("release")]
    assert found["fleet"] == [slots.key_digest("fleet")]


def test_the_tests_own_encoder_is_espressifs():
    flash = burned()
    partition = flash.sector(0) + flash.sector(1)
    text = slots.vector("identity", "record")
    for data in (text, text + b"\0"):
        if entry(RECORD, data) in partition:
            break
    else:
        raise AssertionError("no entry as `entry` makes it")


def test_missing_entries():
    refuse("no entry of type 99", Identity(burned()).entry, 99)
    refuse("no entry of type 1", Identity(burned()).entry, DEVICE_CERT, 7)
    blank = Identity(FlashSim(2))
    refuse("no entry of type 51", blank.record)
    refuse("no entry of type 2", getattr, blank, "key")
    refuse("no entry of type 1", getattr, blank, "certificate")
    refuse("no entry of type 0", getattr, blank, "ca")
    zeros = Identity(load(bytes(4096), 1))
    refuse("no entry of type 51", zeros.record)


def read_all(flash):
    identity = Identity(flash)
    return identity.record(), identity.key, identity.ca, identity.certificate


def test_any_flipped_bit_is_noticed():
    """Whatever byte of an entry is altered: an error, or the entry is gone for the reader."""
    flash = burned()
    length = len(slots.vector("identity", "partition"))
    expected = read_all(flash)
    for offset in range(0, length, 31):
        flash.alter(offset, 1 << offset % 8)
        try:
            found = read_all(flash)
        except IdentityError:
            pass
        else:
            # An entry that nobody here reads, or an issuer more or less: never another value.
            assert found[:3] == expected[:3], offset
            assert found[3] in expected[3], offset
        flash.alter(offset, 1 << offset % 8)


def test_wrong_crc():
    raw = bytearray(entry(RECORD, b"{}"))
    for offset in (12, 13, len(raw) - 5, len(raw) - 4, len(raw) - 1, 5, 7):
        raw[offset] ^= 0x10
        refuse("entry of type 51 has a wrong CRC", Identity(load(bytes(raw), 1)).entry, RECORD)
        raw[offset] ^= 0x10
    assert Identity(load(bytes(raw), 1)).entry(RECORD) == b"{}"


def test_a_damaged_entry_hurts_only_itself():
    good, bad = entry(RECORD, b"{}"), bytearray(entry(CA_CERT, b"x" * 40))
    bad[20] ^= 1
    identity = Identity(load(bytes(bad) + good, 1))
    assert identity.entry(RECORD) == b"{}"
    refuse("entry of type 0 has a wrong CRC", identity.entry, CA_CERT)


def test_entries_that_are_encrypted_or_otherwise_special():
    refuse("type 51 has flags 0x10", Identity(load(entry(RECORD, b"{}", flags=16), 1)).record)


def test_lengths_that_run_out():
    for length in (4096 - 12 - 4 + 1, 0xFFFF):
        raw = entry(RECORD, b"{}", length=length)
        refuse("runs past the partition", Identity(load(raw, 1)).record)
    longest = b"x" * (4096 - 12 - 4)
    assert Identity(load(entry(RECORD, longest), 1)).entry(RECORD) == longest
    refuse("no entry of type 51", Identity(load(entry(CA_CERT, longest), 1)).record)


def test_endless_list():
    raw = b"".join([entry(CA_CERT, b"") for _ in range(200)])
    refuse("no entry of type 51", Identity(load(raw + entry(RECORD, b"{}"), 1)).entry, RECORD)


def test_first_of_two():
    raw = entry(RECORD, b"first") + entry(RECORD, b"second")
    assert Identity(load(raw, 1)).entry(RECORD) == b"first"


def test_a_chain_is_of_four_at_most():
    chain = [entry(DEVICE_CERT, b"%d\n" % number, number) for number in range(6)]
    assert Identity(load(b"".join(chain), 1)).certificate == b"0\n1\n2\n3\n"


def test_bad_records():
    # name: (reason, data of the entry)
    cases = {
        "not JSON": ("not JSON", b"v=1"),
        "nothing": ("not JSON", b""),
        "not text": ("provisioning record", b"\x80\x81"),
        "list": ("expected version 1", b"[]"),
        "number": ("expected version 1", b"1"),
        "empty": ("expected version 1", b"{}"),
        "version 2": ("expected version 1", b'{"v":2}'),
        "only a version": ("provisioning record: no '", b'{"v":1}'),
    }
    for name in cases:
        reason, data = cases[name]
        refuse(reason, Identity(load(entry(RECORD, data), 1)).record)


def test_records_without_a_field():
    fields = slots.record()
    del fields["v"], fields["hw"]
    for name in fields:
        refuse("provisioning record: no %r" % name, Identity(make_record(**{name: None})).record)
    assert Identity(make_record(hw=None)).record()["id"] == slots.DEVICE


def test_profiles():
    for number, name in enumerate(("dev", "production", "sealed")):
        assert Identity(make_record(profile=name)).record()["profile"] == number
    for name in ("", "Production", "prod", 0, 1, True, [], {}, ["dev"]):
        refuse("provisioning record: profile", Identity(make_record(profile=name)).record)


def test_records_with_key_digests_that_are_none():
    good = burned_record()["release"][0]
    for digests in (
        [],
        [good[:62]],
        [good, ""],
        [good + "00"],
        ["xy" * 32],
        [good[:63]],
        good,
        5,
        [5],
        [None],
    ):
        for name in ("release", "fleet"):
            identity = Identity(make_record(**{name: digests}))
            refuse("%r needs SHA-256 digests" % name, identity.record)


def test_several_keys():
    digests = [slots.key_digest(name) for name in ("release", "other")]
    texts = [binascii.hexlify(digest).decode() for digest in digests]
    assert Identity(make_record(release=texts)).record()["release"] == digests


def test_the_partition_is_only_read():
    flash = burned()
    flash.log = []
    before = dict(flash.content)
    read_all(flash)
    assert flash.content == before
    assert all(operation == "read" for _, operation, _ in flash.log)
    assert PRIVATE_KEY == 2
