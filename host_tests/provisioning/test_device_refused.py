"""signet.device and identity: what is never provisioned."""

import datetime
import os
import shutil
from dataclasses import replace

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

from host_tests.tool_helpers import RELEASE, SETTINGS, snapshot
from signet.device import flash_file, identity
from signet.device.networks import Networks, Wifi
from signet.errors import RefusedError, SignetError
from signet.formats import flash, secure_cert, signing
from signet.image import slot_image
from signet.pki import authority
from trust.identity import Identity

pytest_plugins = ["host_tests.tool_fixtures"]


def pem_key(key, encryption=NoEncryption()) -> bytes:  # noqa: B008 - a constant
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    return pem


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
    "an operator's CA": (lambda keys, _: issue(keys, issuer="operator-ca"), "was not issued by"),
    "a server's CA": (lambda keys, _: issue(keys, issuer="server-ca"), "was not issued by"),
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
    "much heap": ({"heap_kb": 49}, "heap of 49 KB, expected 0 to 48"),
    "negative heap": ({"heap_kb": -1}, "heap of -1 KB, expected 0 to 48"),
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


BAD_WIFI = {
    "no name": (Wifi(""), "Wi-Fi name '', expected 1 to 32 bytes"),
    "long name": (Wifi("\u00e9" * 17), "expected 1 to 32 bytes"),
    "short key": (
        Wifi("works", "hunter2"),
        "passphrase of 7 characters, expected 8 to 63",
    ),
    "long key": (Wifi("works", "x" * 64), "passphrase of 64 characters"),
    "not ASCII": (Wifi("works", "p\u00e4ssword"), "in ASCII"),
}


@pytest.mark.parametrize(("wifi", "reason"), BAD_WIFI.values(), ids=BAD_WIFI)
def test_wifi_that_cannot_be_is_refused(project, keys, signed_file, tmp_path, wifi, reason):
    with pytest.raises(SignetError, match=reason) as failure:
        flash_file.provision(
            SETTINGS,
            keys,
            signed_file,
            project,
            tmp_path / "flash.bin",
            networks=Networks((wifi,)),
        )
    assert not wifi.key or wifi.key not in str(failure.value)
    assert not (tmp_path / "flash.bin").exists()


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
    release = slot_image.pack_descriptor(RELEASE, 0x40000) + bytes(0x40000)
    (tmp_path / "large.img").write_bytes(signing.sign_bytes(release, keys / "release.key"))
    with pytest.raises(RefusedError, match=r"large\.img: 270336 .* slot_a holds 262144"):
        flash_file.provision(
            SETTINGS, keys, tmp_path / "large.img", project, tmp_path / "flash.bin"
        )
    assert not (tmp_path / "flash.bin").exists()


def test_an_identity_that_reads_back_differently_is_refused(keys, monkeypatch):
    chain, key = authority.issue_device(keys, "dev-0001")
    other, _ = authority.issue_device(keys, "dev-0001")
    ca = (keys / "server-ca.pem").read_bytes()
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
    for name in ("boot.py", "lib/romfs", "lib/trust", slot_image.LAYOUT):
        source = tmp_path / "project"
        shutil.copytree(project, source)
        path = source / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        with pytest.raises(SignetError, match=name):
            flash_file.provision(SETTINGS, keys, signed_file, source, tmp_path / "flash.bin")
        assert not (tmp_path / "flash.bin").exists()
        shutil.rmtree(source)
