"""Slot images signed, verified and inspected: signet.signing, against espsecure."""

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from host_tests.tool_helpers import run_program, snapshot
from signet import run
from signet.errors import RefusedError, SignetError
from signet.formats import signing
from signet.image import slot_image

pytest_plugins = ["host_tests.tool_fixtures"]


@pytest.fixture(scope="session")
def other_key(tmp_path_factory):
    """An RSA-3072 key of somebody else."""
    path = tmp_path_factory.mktemp("other") / "other.key"
    write_key(path, rsa.generate_private_key(65537, 3072))
    return path


def write_key(path: Path, key) -> None:
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def flip(content: bytes, offset: int) -> bytes:
    changed = bytearray(content)
    changed[offset] ^= 1
    return bytes(changed)


# --- signing and verifying


def test_espsecure_accepts_what_we_sign(keys, signed_file):
    args = ("verify-signature", "--version", "2", "--keyfile")
    assert run_program("espsecure", *args, keys / "release.pub", signed_file).returncode == 0
    assert run_program("espsecure", *args, keys / "fleet.pub", signed_file).returncode != 0


def test_we_accept_what_espsecure_signs(keys, unsigned, tmp_path):
    (tmp_path / "u.img").write_bytes(unsigned)
    args = ("--version", "2", "--keyfile", keys / "release.key", "--output", tmp_path / "s.img")
    assert run_program("espsecure", "sign-data", *args, tmp_path / "u.img").returncode == 0
    digest = signing.key_digest(keys / "release.pub")
    found = slot_image.verify_image((tmp_path / "s.img").read_bytes(), [digest], "signet-demo")
    assert (found.version, found.counter) == ("1.0.0", 1)


def test_the_key_digest_is_espsecures(keys, tmp_path):
    run_program(
        "espsecure", "digest-sbv2-public-key", "--keyfile", keys / "release.pub",
        "--output", tmp_path / "digest",
    )  # fmt: skip
    digest = (tmp_path / "digest").read_bytes()
    assert signing.key_digest(keys / "release.pub") == digest
    assert signing.key_digest(keys / "release.key") == digest


def test_signed_bytes_are_the_data_its_padding_and_a_sector(keys):
    signed = signing.sign_bytes(b"an order", keys / "fleet.key")
    assert len(signed) == 8192
    assert signed[:4096] == b"an order".ljust(4096, b"\xff")
    data = signing.verify_bytes(signed, [signing.key_digest(keys / "fleet.pub")])
    assert data == signed[:4096]
    with pytest.raises(RefusedError, match="unknown key"):
        signing.verify_bytes(signed, [signing.key_digest(keys / "release.pub")])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda signed: flip(signed, 0), "espsecure changed the data"),
        (lambda signed: flip(signed, len(signed) - 1), "after the signature block"),
        (lambda signed: flip(signed, 4096 + 900), "CRC"),
    ],
)
def test_what_espsecure_writes_is_verified(keys, monkeypatch, change, reason):
    """With its own check and the program's exit code out of the way."""

    def faulty(_name, command, *args):
        if command == "sign-data":
            run.run_program("espsecure", command, *args)
            path = args[args.index("--output") + 1]
            path.write_bytes(change(path.read_bytes()))

    monkeypatch.setattr(signing, "run_program", faulty)
    with pytest.raises(RefusedError, match=reason):
        signing.sign_bytes(b"an order", keys / "fleet.key")


def test_what_espsecure_refuses_is_refused(keys, monkeypatch):
    def run_with_another_key(name, command, *args):
        if command == "verify-signature":
            args = (*args[:-2], keys / "release.pub", args[-1])
        return run.run_program(name, command, *args)

    monkeypatch.setattr(signing, "run_program", run_with_another_key)
    with pytest.raises(run.ProgramError, match="espsecure: failed with exit code"):
        signing.sign_bytes(b"an order", keys / "fleet.key")


@pytest.mark.parametrize("kind", ["rsa-2048", "ec", "public", "garbage", "encrypted", "missing"])
def test_a_key_that_cannot_sign_is_named(keys, unsigned, tmp_path, kind):
    path = tmp_path / "bad.key"
    if kind == "rsa-2048":
        write_key(path, rsa.generate_private_key(65537, 2048))
    elif kind == "ec":
        write_key(path, ec.generate_private_key(ec.SECP256R1()))
    elif kind == "public":
        shutil.copy(keys / "release.pub", path)
    elif kind == "garbage":
        path.write_text("not a key")
    elif kind == "encrypted":
        path.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n")
    before = snapshot(tmp_path)
    with pytest.raises(SignetError, match="espsecure" if kind == "public" else r"bad\.key"):
        slot_image.sign_image(unsigned, path)
    assert snapshot(tmp_path) == before


def broken_images(signed: bytes) -> dict[str, tuple[bytes, str]]:
    sector = len(signed) - 4096
    return {
        "empty": (b"", "descriptor"),
        "another file": (b"\x7fELF" + signed[4:], "magic"),
        "cut by a byte": (signed[:-1], "bytes, expected"),
        "without a signature": (signed[:sector], "not signed"),
        "trailing data": (signed + b"\xff", "bytes, expected"),
        "a block more": (signed + b"\xff" * 4096, "bytes, expected"),
        "descriptor": (flip(signed, 16), "digest does not match"),
        "padding of the descriptor": (flip(signed, 4000), "digest does not match"),
        "payload": (flip(signed, 5000), "digest does not match"),
        "last byte of the payload": (flip(signed, sector - 1), "digest does not match"),
        "signature": (flip(signed, sector + 812), "CRC"),
        "rest of the sector": (flip(signed, len(signed) - 1), "after the signature block"),
        "blank signature": (signed[:sector] + b"\xff" * 4096, "no signature"),
    }


@pytest.mark.parametrize("case", broken_images(bytes(12288)))
def test_a_broken_image_is_refused(keys, signed, case):
    content, reason = broken_images(signed)[case]
    with pytest.raises(RefusedError, match=reason):
        slot_image.verify_image(content, [signing.key_digest(keys / "release.pub")])


def test_an_image_by_another_key_or_for_another_model_is_refused(keys, unsigned, signed, other_key):
    digest = signing.key_digest(keys / "release.pub")
    with pytest.raises(RefusedError, match="'signet-demo', this is a 'other'"):
        slot_image.verify_image(signed, [digest], "other")
    with pytest.raises(RefusedError, match="unknown key"):
        slot_image.verify_image(slot_image.sign_image(unsigned, other_key), [digest])


@pytest.mark.parametrize("kind", ["signed", "cut", "longer", "not an image"])
def test_only_an_unsigned_image_is_signed(keys, unsigned, signed, kind):
    content, reason = {
        "signed": (signed, "signed already"),
        "cut": (unsigned[:-1], "bytes, expected"),
        "longer": (unsigned + b"x", "bytes, expected"),
        "not an image": (bytes(8192), "not a slot image"),
    }[kind]
    with pytest.raises(RefusedError, match=reason):
        slot_image.sign_image(content, keys / "release.key")


def test_what_was_signed_is_verified_as_a_board_does(keys, unsigned, signed, monkeypatch):
    changed = flip(signed, 5000)
    monkeypatch.setattr(signing, "sign_bytes", lambda *_: changed)
    with pytest.raises(RefusedError, match="digest does not match"):
        slot_image.sign_image(unsigned, keys / "release.key")


# --- inspecting


def test_a_whole_image_has_no_problems(keys, signed):
    report = slot_image.inspect_image(signed)
    assert report.problems == []
    assert report.key_digest == signing.key_digest(keys / "release.pub")
    assert report.descriptor.version == "1.0.0"
    assert report.length == len(signed)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda content: content[:-4096], "not signed"),
        (lambda content: content[:-1], "bytes, expected"),
        (lambda content: flip(content, 5000), "digest does not match"),
        (lambda content: content[:4096] + bytes(len(content) - 8192) + content[-4096:], "ROMFS"),
    ],
    ids=["unsigned", "cut", "flipped", "no file system"],
)
def test_problems_are_told(signed, change, problem):
    report = slot_image.inspect_image(change(signed))
    assert any(problem in found for found in report.problems)


def test_what_is_no_image_is_refused():
    with pytest.raises(RefusedError, match="not a slot image"):
        slot_image.inspect_image(bytes(8192))
