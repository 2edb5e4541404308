"""signet.pki.authority: what a fleet's folder holds, and that no key is ever lost or half made."""

import datetime
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from host_tests.tool_helpers import Signet, mode, snapshot
from signet.errors import RefusedError, SignetError
from signet.pki import authority, names

pytest_plugins = ["host_tests.tool_fixtures"]

ROLES = "server", "device", "operator", "service"
PAIRS = {f"{role}-ca" for role in ROLES} | {"server", "operator", "service"}
SECRET = {f"{name}.key" for name in PAIRS | {"release", "fleet"}}
PUBLIC = {f"{name}.pem" for name in PAIRS} | {"release.pub", "fleet.pub"}
PURPOSES = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
URL = "http://crl.example.org/devices.crl"


def certificate(keys: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((keys / f"{name}.pem").read_bytes())


def openssl_verify(
    keys: Path, role: str, chain: bytes, purpose: str, folder: Path, *more: str | Path
) -> bool:
    (folder / "chain.pem").write_bytes(chain)
    done = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-purpose", purpose,
         "-CAfile", keys / f"{role}-ca.pem", *more, "-untrusted", "chain.pem", "chain.pem"],
        capture_output=True,
        cwd=folder,
        check=False,
    )  # fmt: skip
    return done.returncode == 0


def test_a_fleet_is_complete_and_its_keys_are_private(keys):
    assert {path.name for path in keys.iterdir()} == SECRET | PUBLIC
    assert mode(keys) == 0o700
    assert {path.name for path in keys.iterdir() if mode(path) == 0o600} == SECRET


def test_keys_are_private_whatever_the_umask(signet: Signet, tmp_path):
    old = os.umask(0)
    try:
        assert signet("pki", "init", "fleet", "--host", "localhost").returncode == 0
    finally:
        os.umask(old)
    assert {mode(tmp_path / "fleet" / name) for name in SECRET} == {0o600}


def issue(keys: Path, role: str) -> bytes:
    """A certificate of a role, PEM, as the fleet's folder or its bench has it."""
    if role == "device":
        return authority.issue_device(keys, "dev-0001")[0]
    return (keys / f"{role}.pem").read_bytes()


@pytest.mark.parametrize("role", ROLES)
def test_openssl_accepts_each_certificate_under_its_own_ca_for_its_own_purpose(
    keys, tmp_path, role
):
    chain = issue(keys, role)
    purpose, other = ("sslserver", "sslclient")[:: 1 if role == "server" else -1]
    assert openssl_verify(keys, role, chain, purpose, tmp_path)
    assert not openssl_verify(keys, role, chain, other, tmp_path)
    for other in set(ROLES) - {role}:
        assert not openssl_verify(keys, other, chain, purpose, tmp_path), other


@pytest.mark.parametrize("role", ROLES)
def test_each_ca_is_an_anchor_of_its_own_and_makes_no_other_ca(keys, role):
    found = certificate(keys, f"{role}-ca")
    assert found.issuer == found.subject
    found.verify_directly_issued_by(found)
    limits = found.extensions.get_extension_for_class(x509.BasicConstraints)
    assert limits.critical
    assert limits.value == x509.BasicConstraints(ca=True, path_length=0)
    usage = found.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert not usage.value.digital_signature
    purposes = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [PURPOSES[role == "server"]]


@pytest.mark.parametrize("role", ROLES)
def test_what_a_ca_issues_is_no_ca_and_has_one_purpose(keys, role):
    extensions = x509.load_pem_x509_certificate(issue(keys, role)).extensions
    limits = extensions.get_extension_for_class(x509.BasicConstraints)
    assert limits.critical
    assert not limits.value.ca
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    assert not usage.crl_sign
    purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [PURPOSES[role == "server"]]


def test_no_two_authorities_share_a_key(keys):
    certificates = [certificate(keys, f"{role}-ca") for role in ROLES]
    shared = [x509.SubjectKeyIdentifier.from_public_key(each.public_key()) for each in certificates]
    assert len({each.digest for each in shared}) == len(ROLES)


def test_a_folder_of_an_older_fleet_is_named_as_one(signet: Signet, tmp_path):
    (tmp_path / "pki").mkdir()
    (tmp_path / "pki/root-ca.pem").write_text("of an older version")
    with pytest.raises(SignetError, match=r"expected server-ca.pem, .* found an older fleet's"):
        authority.anchor(tmp_path / "pki", "server")
    with pytest.raises(SignetError, match=r"expected device-ca.pem, .* found an older fleet's"):
        authority.issue_device(tmp_path / "pki", "dev-0001")
    done = signet("fleet", "serve", "fleet", "--pki", "pki")
    assert done.returncode == 2
    assert "expected device-ca.pem, the CA of device certificates, found an older" in done.stderr
    assert "signet: hint: signet pki init makes a fleet; boards of an older one" in done.stderr


# Room for revocation


def test_each_devices_certificate_says_where_revoked_ones_are_listed(signet: Signet, tmp_path):
    options = ("pki", "init", "fleet", "--host", "localhost", "--crl-url", URL)
    assert signet(*options).returncode == 0
    for _ in range(2):
        for each in x509.load_pem_x509_certificates(issue(tmp_path / "fleet", "device")):
            points = each.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
            assert [name.value for point in points for name in point.full_name or ()] == [URL]
    for name in PAIRS - {"device-ca"}:
        with pytest.raises(x509.ExtensionNotFound):
            certificate(tmp_path / "fleet", name).extensions.get_extension_for_class(
                x509.CRLDistributionPoints
            )


def test_without_a_place_for_a_list_certificates_name_none(keys):
    for each in x509.load_pem_x509_certificates(issue(keys, "device")):
        assert not any(isinstance(e.value, x509.CRLDistributionPoints) for e in each.extensions)


@pytest.mark.parametrize("with_url", [False, True])
def test_a_device_can_be_revoked_by_a_list_that_its_ca_signs(tmp_path, with_url):
    keys = tmp_path / "pki"
    authority.init_pki(keys, ["localhost"], URL if with_url else None)
    lost, kept = (authority.issue_device(keys, name)[0] for name in ("dev-0001", "dev-0002"))
    key = load_pem_private_key((keys / "device-ca.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    now = datetime.datetime.now(datetime.UTC)
    revoked = x509.RevokedCertificateBuilder().revocation_date(now)
    revoked = revoked.serial_number(x509.load_pem_x509_certificate(lost).serial_number)
    crl = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(certificate(keys, "device-ca").subject)
        .last_update(now - datetime.timedelta(hours=1))
        .next_update(now + datetime.timedelta(days=1))
        .add_revoked_certificate(revoked.build())
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "crl.pem").write_bytes(crl.public_bytes(Encoding.PEM))
    more = ("-crl_check", "-CRLfile", tmp_path / "crl.pem")
    assert not openssl_verify(keys, "device", lost, "sslclient", tmp_path, *more)
    assert openssl_verify(keys, "device", kept, "sslclient", tmp_path, *more)


def test_serial_numbers_are_long_and_never_the_same(keys):
    serials = {
        x509.load_pem_x509_certificate(issue(keys, "device")).serial_number for _ in range(50)
    }
    assert len(serials) == 50
    assert all(serial.bit_length() > 120 for serial in serials)


@pytest.mark.parametrize(
    "url",
    ["", "crl", "ftp://a/b", "http://", "http://a b/c", "http://a/\n", "http://a/" + "b" * 128],
)
def test_a_wrong_crl_url_makes_no_fleet(tmp_path, url):
    with pytest.raises(SignetError, match="CRL URL"):
        authority.init_pki(tmp_path / "fleet", ["localhost"], url)
    assert not any(tmp_path.iterdir())


def test_server_names_are_those_asked_for(keys):
    names = certificate(keys, "server").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert [str(name.value) for name in names.value] == ["localhost", "127.0.0.1"]


@pytest.mark.parametrize("role", ["operator", "service"])
def test_operators_and_services_have_no_name_of_a_device(keys, role):
    (name,) = certificate(keys, role).subject
    assert name.value == f"{role}.signet"
    assert not names.DEVICE_ID.fullmatch(str(name.value))


@pytest.mark.parametrize(
    ("name", "days"),
    [
        *((f"{role}-ca", authority.CA_DAYS[role]) for role in ROLES),
        ("server", authority.SERVER_DAYS),
        ("operator", authority.CLIENT_DAYS),
        ("service", authority.CLIENT_DAYS),
    ],
)
def test_certificates_are_valid_now_and_as_long_as_stated(keys, name, days):
    found = certificate(keys, name)
    now = datetime.datetime.now(datetime.UTC)
    assert found.not_valid_before_utc < now - authority.CLOCK_SKEW + datetime.timedelta(minutes=5)
    left = found.not_valid_after_utc - now
    assert datetime.timedelta(days=days - 1) < left < datetime.timedelta(days=days + 1)


def test_no_certificate_outlives_its_issuer(keys, monkeypatch):
    monkeypatch.setattr(authority, "DEVICE_DAYS", authority.CA_DAYS["device"] + 1000)
    chain, _ = authority.issue_device(keys, "dev-0001")
    leaf, issuer = x509.load_pem_x509_certificates(chain)
    assert leaf.not_valid_after_utc == issuer.not_valid_after_utc


def test_a_device_key_belongs_to_its_certificate_and_is_written_nowhere(keys):
    before = snapshot(keys)
    chain, key_pem = authority.issue_device(keys, "dev-0001")
    leaf, issuer = x509.load_pem_x509_certificates(chain)
    assert load_pem_private_key(key_pem, None).public_key() == leaf.public_key()
    assert leaf.subject.rfc4514_string() == "CN=dev-0001"
    assert issuer == certificate(keys, "device-ca")
    assert snapshot(keys) == before


def test_two_devices_never_share_a_key(keys):
    assert (
        authority.issue_device(keys, "dev-0001")[1] != authority.issue_device(keys, "dev-0001")[1]
    )


@pytest.mark.parametrize(
    "device_id",
    ["", "Dev", "-dev", "dev/1", "dev:1", "dev 1", "dev+", "dev#", "d" * 32, "dev\n", "gerät"],
)
def test_device_ids_of_another_form_are_refused(keys, device_id):
    with pytest.raises(SignetError, match="device id"):
        authority.issue_device(keys, device_id)


@pytest.mark.parametrize("host", ["", "-a", "a..b", "a b", "*.example.org", "http://a", "a" * 254])
def test_a_wrong_host_name_makes_no_fleet(tmp_path, host):
    with pytest.raises(SignetError, match="host"):
        authority.init_pki(tmp_path / "fleet", [host])
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["folder with a file", "file", "link"])
def test_what_exists_is_not_overwritten(tmp_path, kind):
    target = tmp_path / "fleet"
    if kind == "file":
        target.write_text("mine")
    elif kind == "link":
        target.symlink_to(tmp_path / "elsewhere")
    else:
        target.mkdir()
        (target / "server-ca.key").write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(RefusedError, match="exists"):
        authority.init_pki(target, ["localhost"])
    assert snapshot(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["fleet"]


def test_a_folder_that_fills_meanwhile_is_not_overwritten(tmp_path, monkeypatch):
    fill = authority._fill

    def fill_slowly(folder, *more):
        fill(folder, *more)
        (tmp_path / "fleet").mkdir()
        (tmp_path / "fleet/server-ca.key").write_text("mine")

    monkeypatch.setattr(authority, "_fill", fill_slowly)
    with pytest.raises(SignetError, match="cannot create"):
        authority.init_pki(tmp_path / "fleet", ["localhost"])
    assert snapshot(tmp_path) == {"fleet/server-ca.key": b"mine"}


def test_after_an_interruption_nothing_is_left(tmp_path, monkeypatch):
    def interrupted(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr("signet.pki.authority.rsa.generate_private_key", interrupted)
    with pytest.raises(KeyboardInterrupt):
        authority.init_pki(tmp_path / "fleet", ["localhost"])
    assert not any(tmp_path.iterdir())


def test_sigterm_leaves_nothing_either(tmp_path):
    program = [sys.executable, "-m", "signet", "pki", "init", "fleet", "--host", "localhost"]
    process = subprocess.Popen(program, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.005)
    (temporary,) = tmp_path.iterdir()
    assert temporary.name != "fleet"
    assert stat.S_IMODE(temporary.stat().st_mode) == 0o700
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (1, "signet: error: interrupted\n")
    assert not any(tmp_path.iterdir())


def test_a_fleet_without_its_device_ca_issues_nothing(keys, tmp_path):
    shutil.copytree(keys, tmp_path / "pki")
    (tmp_path / "pki/device-ca.key").unlink()
    with pytest.raises(SignetError, match=r"device-ca\.key: cannot read"):
        authority.issue_device(tmp_path / "pki", "dev-0001")
    shutil.copy(keys / "release.key", tmp_path / "pki/device-ca.key")
    with pytest.raises(SignetError, match="expected an EC key"):
        authority.issue_device(tmp_path / "pki", "dev-0001")
