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
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from host_tests.tool_helpers import Signet, mode, snapshot
from signet.errors import RefusedError, SignetError
from signet.pki import authority, names

pytest_plugins = ["host_tests.tool_fixtures"]

SECRET = {f"{name}.key" for name in ("root-ca", "device-ca", "server", "operator")} | {
    "release.key",
    "fleet.key",
}
PUBLIC = {"root-ca.pem", "device-ca.pem", "server.pem", "operator.pem", "release.pub", "fleet.pub"}


def certificate(keys: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((keys / f"{name}.pem").read_bytes())


def openssl_verify(keys: Path, chain: bytes, purpose: str, folder: Path) -> bool:
    (folder / "chain.pem").write_bytes(chain)
    done = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", keys / "root-ca.pem",
         "-untrusted", "chain.pem", "chain.pem"],
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


@pytest.mark.parametrize(
    ("name", "purpose", "other_purpose"),
    [("server", "sslserver", "sslclient"), ("operator", "sslclient", "sslserver")],
)
def test_openssl_accepts_each_certificate_for_its_purpose_only(
    keys, tmp_path, name, purpose, other_purpose
):
    chain = (keys / f"{name}.pem").read_bytes()
    assert openssl_verify(keys, chain, purpose, tmp_path)
    assert not openssl_verify(keys, chain, other_purpose, tmp_path)


def test_openssl_accepts_a_device_as_a_client_only(keys, tmp_path):
    chain, _ = authority.issue_device(keys, "dev-0001")
    assert openssl_verify(keys, chain, "sslclient", tmp_path)
    assert not openssl_verify(keys, chain, "sslserver", tmp_path)


def test_the_device_ca_cannot_make_another_ca(keys):
    limits = certificate(keys, "device-ca").extensions.get_extension_for_class(
        x509.BasicConstraints
    )
    assert limits.critical
    assert limits.value == x509.BasicConstraints(ca=True, path_length=0)


def test_server_names_are_those_asked_for(keys):
    names = certificate(keys, "server").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert [str(name.value) for name in names.value] == ["localhost", "127.0.0.1"]


def test_the_operator_cannot_be_taken_for_a_device(keys):
    (name,) = certificate(keys, "operator").subject
    assert name.value == names.OPERATOR_NAME
    assert not names.DEVICE_ID.fullmatch(str(name.value))


@pytest.mark.parametrize(
    ("name", "days"),
    [
        ("root-ca", authority.ROOT_CA_DAYS),
        ("device-ca", authority.DEVICE_CA_DAYS),
        ("server", authority.SERVER_DAYS),
        ("operator", authority.OPERATOR_DAYS),
    ],
)
def test_certificates_are_valid_now_and_as_long_as_stated(keys, name, days):
    found = certificate(keys, name)
    now = datetime.datetime.now(datetime.UTC)
    assert found.not_valid_before_utc < now - authority.CLOCK_SKEW + datetime.timedelta(minutes=5)
    left = found.not_valid_after_utc - now
    assert datetime.timedelta(days=days - 1) < left < datetime.timedelta(days=days + 1)


def test_no_certificate_outlives_its_issuer(keys, monkeypatch):
    monkeypatch.setattr(authority, "DEVICE_DAYS", authority.DEVICE_CA_DAYS + 1000)
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
        (target / "root-ca.key").write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(RefusedError, match="exists"):
        authority.init_pki(target, ["localhost"])
    assert snapshot(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["fleet"]


def test_a_folder_that_fills_meanwhile_is_not_overwritten(tmp_path, monkeypatch):
    fill = authority._fill

    def fill_slowly(folder, names):
        fill(folder, names)
        (tmp_path / "fleet").mkdir()
        (tmp_path / "fleet/root-ca.key").write_text("mine")

    monkeypatch.setattr(authority, "_fill", fill_slowly)
    with pytest.raises(SignetError, match="cannot create"):
        authority.init_pki(tmp_path / "fleet", ["localhost"])
    assert snapshot(tmp_path) == {"fleet/root-ca.key": b"mine"}


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
