"""`signet device provision`: many boards or one, and what stops a run or is refused."""

import os
import re
import shutil

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from host_tests.provisioning.bench import BOARDS, certificate_of, check_whole
from host_tests.provisioning.label_reader import read_labels
from host_tests.tool_helpers import snapshot
from signet import cli
from signet.device import identity
from signet.device.provisioning.inventory import DONE
from signet.formats import flash, secure_cert
from signet.pki import authority
from trust.identity import PRIVATE_KEY, Identity

pytest_plugins = ["host_tests.tool_fixtures"]

# --- the main job


def test_a_batch_and_once_more(bench):
    first = bench.run()
    progress = r"signet: \d+ of \d+ boards\n"  # every ten seconds
    assert (first.returncode, re.sub(progress, "", first.stderr)) == (0, "")
    assert f"boards: {BOARDS} provisioned, 0 done before, 0 failed\n" in first.stdout
    check_whole(bench)
    before = snapshot(bench.folder)
    second = bench.run()
    assert (second.returncode, second.stderr) == (0, "")
    assert second.stdout.endswith(f"boards: 0 provisioned, {BOARDS} done before, 0 failed\n")
    assert snapshot(bench.folder) == before
    bench.write_csv(BOARDS + 3)  # more boards came
    assert f"3 provisioned, {BOARDS} done before" in bench.run().stdout
    check_whole(bench, BOARDS + 3)


def test_no_key_or_code_is_in_inventory_output_or_audit(bench):
    done = bench.run()
    codes = [
        text.rpartition(":")[2]
        for path in bench.boards.glob("*.pdf")
        for text in read_labels(path.read_bytes())
    ]
    secrets = {code.encode() for code in codes}
    for path in bench.boards.glob("*/flash.bin"):
        key = Identity(flash.Flash.load(path).device("esp_secure_cert")).key
        secrets |= set(key.splitlines()[1:-1])
    assert len(secrets) == BOARDS * 4
    public = bench.database.read_bytes() + (done.stdout + done.stderr).encode()
    assert not [secret for secret in secrets if secret in public]


def test_each_board_has_its_own_network_and_the_keys_file_is_private(bench, keys):
    bench.csv.write_text(
        "id,wifi_ssid,wifi_key,hw\ndev-0000,one,first secret,B1\ndev-0001,two,,\ndev-0002,,,\n"
    )
    assert bench.run().returncode == 2
    bench.csv.chmod(0o600)
    assert bench.run("--jobs", "2").returncode == 0
    content = [
        flash.Flash.load(bench.boards / f"dev-{n:04}/flash.bin").read("vfs") for n in range(3)
    ]
    assert b'{"wifi": {"ssid": "one", "key": "first secret"}}' in content[0]
    assert b'{"wifi": {"ssid": "two", "key": ""}}' in content[1]
    assert b"wifi" not in content[2]
    assert bench.devices()["dev-0000"].hw == "B1"
    assert b"first secret" not in bench.database.read_bytes()


# --- one bad board


def test_boards_that_fail_are_named_and_the_rest_is_done(bench):
    (bench.boards / "dev-0003").mkdir(parents=True)
    (bench.boards / "dev-0003").chmod(0o500)
    (bench.boards / "dev-0005").write_text("a file in the way")
    done = bench.run()
    root = os.geteuid() == 0  # nothing is closed to root
    assert done.returncode == 1
    assert "signet: error: dev-0005: " in done.stderr
    assert f"{BOARDS - 1 - (not root)} provisioned" in done.stdout
    assert "dev-0005" not in bench.devices()
    failed = [line for line in bench.audit() if line.device == "dev-0005"]
    assert [line.result.split(":")[0] for line in failed] == ["failed"]
    (bench.boards / "dev-0005").unlink()
    (bench.boards / "dev-0003").chmod(0o700)
    assert bench.run().returncode == 0
    assert set(bench.devices()) == {f"dev-{n:04}" for n in range(BOARDS)}


# --- what stops a run at once


def test_a_wrong_list_stops_before_the_first_board(bench):
    bench.csv.write_text("id,mac\ndev-0000,\ndev-0001,junk\ndev-0000,\n")
    before = snapshot(bench.folder)
    done = bench.run()
    assert (done.returncode, done.stdout) == (2, "")
    assert "boards.csv:3: mac 'junk'" in done.stderr
    assert "boards.csv:4: id 'dev-0000' is on line 2 already" in done.stderr
    assert snapshot(bench.folder) == before
    assert not bench.boards.exists()


def test_boards_that_the_inventory_has_stop_the_run(bench):
    assert bench.run().returncode == 0
    before = snapshot(bench.folder)
    bench.csv.write_text("id,mac\nnew-1,24:0a:c4:00:00:03\nnew-2,\n")
    mac = bench.run()
    assert mac.returncode == 1
    assert "new-1: MAC 24:0a:c4:00:00:03 is already provisioned, as dev-0003" in mac.stderr
    elsewhere = bench.run("--id", "dev-0004", "-o", bench.folder / "x.bin", many=False)
    assert elsewhere.returncode == 1
    assert "dev-0004: already provisioned (done, " in elsewhere.stderr
    bench.csv.write_text("id,mac\ndev-0003,24:0a:c4:00:00:99\n")
    other = bench.run()
    assert "dev-0003: already provisioned, with MAC 24:0a:c4:00:00:03" in other.stderr
    bench.write_csv(BOARDS)
    assert snapshot(bench.folder) == before


ENVIRONMENT = {
    "no device CA": ("device-ca.key", None, "device-ca.key: cannot read the CA key"),
    "another CA's key": ("device-ca.key", "server-ca.key", "device-ca.key: not the key of"),
    "no server CA": ("server-ca.pem", None, "expected server-ca.pem, the CA of server cert"),
}


@pytest.mark.parametrize(("name", "instead", "reason"), ENVIRONMENT.values(), ids=ENVIRONMENT)
def test_a_missing_key_stops_the_run(bench, keys, tmp_path, name, instead, reason):
    copy = tmp_path / "pki"
    copy.mkdir()
    for path in keys.iterdir():
        if path.name != name:
            (copy / path.name).write_bytes(path.read_bytes())
    if instead:
        (copy / name).write_bytes((keys / instead).read_bytes())
    done = bench.run("--pki", copy)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr
    assert not bench.database.exists()
    assert not list(bench.folder.glob("boards/*"))


def test_an_inventory_out_of_reach_stops_the_run(bench):
    done = bench.run("--inventory", bench.folder / "gone/inventory.db")
    assert done.returncode == 2
    assert "cannot make the inventory" in done.stderr
    assert not list(bench.folder.glob("boards/*"))


def test_a_full_disk_is_seen_before_the_first_board(bench, monkeypatch, capsys):
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 50 << 20))
    assert cli.run(bench.command()) == 2
    assert "50 MB free, 6 boards need 24 MB" in capsys.readouterr().err
    assert not bench.database.exists()


USAGE = {
    "neither": ((), "one of --id and --csv is needed"),
    "no hw": (("--id", "a", "--hw", ""), "hardware revision ''"),
    "two ports": (("--id", "a", "--port", "1", "--port", "2"), "one board needs one --port"),
    "dump and certificate": (
        ("--id", "a", "--esp-secure-cert", "x", "--cert", "x", "--key", "x"),
        "--esp-secure-cert and --cert exclude each other",
    ),
    "mac": (("--id", "a", "--mac", "1"), "mac '1', expected"),
    "port without MicroPython": (("--id", "a", "--port", "/dev/null"), "needs --micropython"),
}


@pytest.mark.parametrize(("options", "reason"), USAGE.values(), ids=USAGE)
def test_options_that_do_not_go_together(bench, options, reason):
    done = bench.run(*options, "-o", bench.folder / "x.bin", many=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr
    assert not bench.database.exists()


# --- one board


def test_one_board_is_entered_and_the_same_again_is_no_other(bench):
    target = bench.folder / "flash.bin"
    options = ("--id", "dev-0001", "--mac", "24:0A:C4:00:00:01", "-o", target)
    done = bench.run(*options, many=False)
    assert (done.returncode, done.stderr) == (0, "")
    before = snapshot(bench.folder)
    again = bench.run(*options, many=False)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.endswith("in slot A, provisioned before\n")
    assert snapshot(bench.folder) == before
    row = bench.devices()["dev-0001"]
    assert (row.status, row.mac, row.claim) == (DONE, "24:0a:c4:00:00:01", None)
    assert certificate_of(target).serial_number == int(row.serial, 16)


# --- modules from the factory


@pytest.fixture
def factory(bench):
    """A dump of a module as Espressif provisions it, and its key."""
    foreign = bench.folder / "espressif"
    authority.init_pki(foreign, ["localhost"])
    chain, key = authority.issue_device(foreign, "module-17")
    leaf = chain[: chain.index(b"-----END CERTIFICATE-----\n") + 26]
    stored = identity.stored_key(key)
    content = secure_cert.pack(
        [
            secure_cert.Entry(0, 0, (foreign / "server-ca.pem").read_bytes() + b"\0"),
            secure_cert.Entry(1, 0, leaf + b"\0"),
            secure_cert.Entry(2, 0, stored),
        ]
    )
    (bench.folder / "dump.bin").write_bytes(content.ljust(0x2000, b"\xff"))
    return stored


def test_a_factory_key_stays_and_gets_our_certificate(bench, keys, factory):
    target = bench.folder / "flash.bin"
    options = ("--id", "dev-0001", "--esp-secure-cert", bench.folder / "dump.bin", "-o", target)
    done = bench.run(*options, many=False)
    assert (done.returncode, done.stderr) == (0, "")
    content = flash.Flash.load(target).read("esp_secure_cert")
    kept = secure_cert.find(secure_cert.unpack(content), PRIVATE_KEY)
    assert kept is not None
    assert kept.data == factory
    dump = (bench.folder / "dump.bin").read_bytes()
    at, found = dump.index(factory), content.index(factory)
    entry_len = 12 + len(factory) + -len(factory) % 16 + 4
    assert content[found - 12 :][:entry_len] == dump[at - 12 :][:entry_len]
    certificate = certificate_of(target)
    assert certificate.public_key() == load_pem_private_key(factory[:-1], None).public_key()
    authority = x509.load_pem_x509_certificate((keys / "device-ca.pem").read_bytes())
    certificate.verify_directly_issued_by(authority)


def test_a_factory_key_in_hardware_is_refused(bench):
    content = secure_cert.pack([secure_cert.Entry(3, 0, b"x"), secure_cert.Entry(4, 0, b"y")])
    (bench.folder / "dump.bin").write_bytes(content)
    bench.csv.write_text("id,factory\ndev-0001,\ndev-0002," + str(bench.folder / "dump.bin") + "\n")
    done = bench.run()
    assert done.returncode == 1
    assert "dump.bin: esp_secure_cert: entry of type 3 (DS data)" in done.stderr
    assert not bench.database.exists()
