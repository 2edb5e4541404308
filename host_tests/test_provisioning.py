"""`signet device provision` with many boards: what is refused, and what a cut-off run leaves."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from host_tests.label_reader import read_labels
from host_tests.tool_helpers import mode, snapshot
from signet import cli
from signet.device import identity
from signet.device.provisioning import audit, inventory, labels
from signet.device.provisioning.inventory import DONE, Device, Inventory
from signet.formats import flash, secure_cert
from signet.pki import authority
from trust.identity import PRIVATE_KEY, Identity

pytest_plugins = ["host_tests.tool_fixtures"]

BOARDS = 6


class Bench:
    """The files of a run, and the command lines over them."""

    def __init__(self, folder: Path, keys: Path, project: Path, image: Path):
        self.folder, self.keys, self.csv = folder, keys, folder / "boards.csv"
        self.boards, self.database = folder / "boards", folder / "inventory.db"
        self.options = [
            *("device", "provision", "--pki", str(keys), "--model", "signet-demo", "--hw", "A1"),
            *("--broker", "localhost:8883", "--images", "localhost:8443"),
            *("--ntp", "localhost:123", "--image", str(image), "--source", str(project)),
            *("--inventory", str(self.database)),
        ]
        self.write_csv(BOARDS)

    def write_csv(self, count: int) -> None:
        rows = [f"dev-{n:04},24:0a:c4:00:{n >> 8:02x}:{n & 255:02x}" for n in range(count)]
        self.csv.write_text("\n".join(["id,mac", *rows]) + "\n")

    def command(self, *more: str | Path, many: bool = True) -> list[str]:
        place = ["--csv", str(self.csv), "-o", str(self.boards)] if many else []
        return [*self.options, *place, *map(str, more)]

    def run(self, *more: str | Path, many: bool = True) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "signet", *self.command(*more, many=many)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    def devices(self) -> dict[str, Device]:
        with Inventory(inventory.location(str(self.database), self.keys)).reading() as session:
            rows = session.query(Device).all()
            session.expunge_all()
        return {row.id: row for row in rows}

    def audit(self) -> list[audit.AuditLine]:
        with Inventory(inventory.location(str(self.database), self.keys)).reading() as session:
            lines = audit.verify(session)
            session.expunge_all()
        return lines


@pytest.fixture
def bench(tmp_path, keys, project, signed_file):
    return Bench(tmp_path, keys, project, signed_file)


def certificate_of(path: Path) -> x509.Certificate:
    reader = Identity(flash.Flash.load(path).device("esp_secure_cert"))
    return x509.load_pem_x509_certificates(reader.certificate)[0]


def check_whole(bench: Bench, count: int = BOARDS) -> None:
    """Every board is done, once, with one certificate and one valid label; nothing is left over."""
    devices = bench.devices()
    assert sorted(devices) == [f"dev-{n:04}" for n in range(count)]
    for row in devices.values():
        path = bench.boards / row.id / "flash.bin"
        certificate = certificate_of(path)
        assert row.status == DONE
        assert certificate.serial_number == int(row.serial, 16)
        assert certificate.fingerprint(hashes.SHA256()).hex() == row.certificate
        assert mode(path) == 0o600
        assert os.listdir(path.parent) == ["flash.bin"]
    done = [line.device for line in bench.audit() if line.what == "provision"]
    assert sorted(done) == sorted(devices)
    sheets = sorted(bench.boards.glob("*.pdf"))
    assert sorted(os.listdir(bench.boards)) == sorted([*devices, *(path.name for path in sheets)])
    found = [text.split(":") for path in sheets for text in read_labels(path.read_bytes())]
    assert sorted(item[2] for item in found) == sorted(devices)
    for _, _, device_id, code in found:
        assert devices[device_id].claim == labels.claim_hash(device_id, code)


# --- the main job


def test_a_batch_and_once_more(bench):
    first = bench.run()
    assert (first.returncode, first.stderr) == (0, "")
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


# --- cut off

# Kills a run before or after the n-th call of a function, in the one process that does it all.
KILLER = """
import importlib, os, signal, sys
from signet import cli
module, name, nth, when = sys.argv[1:5]
target, calls = importlib.import_module(module), 0
*path, name = name.split(".")
for part in path:
    target = getattr(target, part)
real = getattr(target, name)
def killing(*args, **options):
    global calls
    calls += 1
    if calls == int(nth) and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = real(*args, **options)
    if calls == int(nth) and when == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(target, name, killing)
sys.exit(cli.run(sys.argv[5:]))
"""

MOMENTS = {
    "before the boards are entered": ("signet.device.provisioning.batch", "enter", 1, "before"),
    "entered": ("signet.device.provisioning.batch", "enter", 1, "after"),
    "first folder": ("signet.device.provisioning.making", "files.flush_folder", 1, "before"),
    "file under its temporary name": ("signet.files", "os.link", 4, "before"),
    "file has its name": ("signet.files", "os.link", 4, "after"),
    "all files, none recorded": ("signet.device.provisioning.batch", "record_done", 1, "before"),
    "half recorded, uncommitted": (
        "signet.device.provisioning.batch",
        "record_done",
        BOARDS // 2,
        "after",
    ),
    "all recorded, no labels": ("signet.device.provisioning.sheets", "new_sheet", 1, "before"),
    "labels made, uncommitted": (
        "signet.device.provisioning.labels",
        "segno.make_qr",
        BOARDS,
        "after",
    ),
    "sheet has its name, codes do not count": (
        "signet.device.provisioning.sheets",
        "files.write_new_secret",
        BOARDS + 1,
        "after",
    ),
    "labels done": ("signet.device.provisioning.sheets", "new_sheet", 1, "after"),
}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
def test_a_killed_run_goes_on_where_it_was(bench, moment):
    module, name, nth, when = moment
    command = [sys.executable, "-c", KILLER, module, name, str(nth), when]
    killed = subprocess.run(
        [*command, *bench.command("--jobs", "1")], capture_output=True, check=False, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    made = {path: path.read_bytes() for path in bench.boards.glob("*/flash.bin")}
    serials = {row.id: row.serial for row in bench.devices().values()}
    assert len(made) <= len(serials)  # no certificate that the inventory does not know
    done = bench.run()
    assert done.returncode == 0, done.stderr
    check_whole(bench)
    assert {path: path.read_bytes() for path in made} == made
    for device_id, serial in serials.items():
        assert bench.devices()[device_id].serial == serial


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_parallel_run_is_cut_off_and_leaves_no_process(bench, kind, share):
    count = 40
    bench.write_csv(count)
    stderr = bench.folder / "stderr"
    with stderr.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "signet", *bench.command("--jobs", "2")],
            stdout=subprocess.DEVNULL, stderr=file, start_new_session=True,
        )  # fmt: skip
    try:
        until = time.monotonic() + 60
        while len(list(bench.boards.glob("*/flash.bin"))) < count * share:
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.005)
        if kind == signal.SIGINT:
            os.killpg(process.pid, kind)  # a terminal's Ctrl-C reaches the workers, too
        else:
            process.kill()
        code = process.wait(60)
        with pytest.raises(ProcessLookupError):
            _wait_for_end_of(process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if kind == signal.SIGINT:
        assert (code, stderr.read_text()) == (1, "signet: error: interrupted\n")
    made = {path: path.read_bytes() for path in bench.boards.glob("*/flash.bin")}
    assert made
    assert bench.run().returncode == 0
    check_whole(bench, count)
    assert {path: path.read_bytes() for path in made} == made


def _wait_for_end_of(group: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        os.killpg(group, 0)
        time.sleep(0.05)


def test_a_cut_off_run_is_not_finished_with_other_options(bench):
    command = [sys.executable, "-c", KILLER, "signet.files", "os.link", "4", "after"]
    subprocess.run([*command, *bench.command("--jobs", "1")], capture_output=True, check=False)
    before = snapshot(bench.boards)
    done = bench.run("--watchdog-s", "31")
    assert done.returncode == 1
    assert "dev-0000/flash.bin: exists, and is not what these options make" in done.stderr
    after = snapshot(bench.boards)
    assert {name: after[name] for name in before if name.endswith("flash.bin")} == {
        name: data for name, data in before.items() if name.endswith("/flash.bin")
    }
    assert bench.devices()["dev-0000"].status == "started"


def test_a_second_run_at_the_same_time_is_refused(bench):
    bench.write_csv(200)
    command = [sys.executable, "-m", "signet", *bench.command("--jobs", "1")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        while not list(bench.boards.glob("*/flash.bin")):
            time.sleep(0.005)
        second = bench.run()
        first.kill()
    assert second.returncode == 2
    assert "boards: another run works in this folder" in second.stderr


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
    "another CA's key": ("device-ca.key", "root-ca.key", "device-ca.key: not the key of"),
    "no root": ("root-ca.pem", None, "cannot read the root CA certificate"),
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
            secure_cert.Entry(0, 0, (foreign / "root-ca.pem").read_bytes() + b"\0"),
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


# --- list, show, label, remove, audit


def device_command(bench: Bench, *args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "signet", "device", *map(str, args), "--pki", str(bench.keys),
               "--inventory", str(bench.database)]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_list_and_show(bench):
    assert json.loads(device_command(bench, "list", "--json").stdout) == []
    bench.run()
    rows = json.loads(device_command(bench, "list", "--json").stdout)
    assert [row["id"] for row in rows] == [f"dev-{n:04}" for n in range(BOARDS)]
    shown = device_command(bench, "list").stdout
    assert "dev-0003   done     signet-demo   A1   1.0.0     24:0a:c4:00:00:03" in shown
    assert max(map(len, shown.splitlines())) <= 80
    one = json.loads(device_command(bench, "show", "dev-0003", "--json").stdout)
    assert {key: value for key, value in one.items() if key != "audit"} == rows[3]
    assert [line["what"] for line in one["audit"]] == ["provision", "label"]
    assert "certificate  " + one["certificate"] in device_command(bench, "show", "dev-0003").stdout
    assert device_command(bench, "show", "dev-9").returncode == 1


def test_a_new_label_makes_the_older_one_void(bench):
    bench.run()
    old = bench.devices()["dev-0003"].claim
    made = device_command(bench, "label", "dev-0003", "dev-0005", "-o", bench.folder / "new.pdf")
    assert (made.returncode, made.stderr) == (0, "")
    assert mode(bench.folder / "new.pdf") == 0o600
    codes = [text.split(":")[2:] for text in read_labels((bench.folder / "new.pdf").read_bytes())]
    assert [device_id for device_id, _ in codes] == ["dev-0003", "dev-0005"]
    for device_id, code in codes:
        assert bench.devices()[device_id].claim == labels.claim_hash(device_id, code)
    assert bench.devices()["dev-0003"].claim != old
    before = snapshot(bench.folder)
    again = device_command(bench, "label", "dev-0003", "-o", bench.folder / "new.pdf")
    unknown = device_command(bench, "label", "dev-0003", "dev-9", "-o", bench.folder / "x.pdf")
    assert (again.returncode, unknown.returncode) == (1, 1)
    assert "not provisioned: dev-9" in unknown.stderr
    assert snapshot(bench.folder) == before


def test_remove_asks_and_keeps_the_certificates_number(bench):
    bench.run()
    serial = bench.devices()["dev-0003"].serial
    refused = device_command(bench, "remove", "dev-0003")
    assert refused.returncode == 1  # nobody typed anything
    assert "dev-0003" in bench.devices()
    assert device_command(bench, "remove", "dev-0003", "--yes").returncode == 0
    assert "dev-0003" not in bench.devices()
    assert bench.audit()[-1].result == f"removed: certificate {serial}"


def test_audit_shows_whether_the_chain_is_whole(bench):
    bench.run()
    shown = device_command(bench, "audit")
    assert shown.returncode == 0
    assert shown.stdout.endswith(f"last digest {bench.audit()[-1].digest[:16]}\n")
    assert len(json.loads(device_command(bench, "audit", "--json").stdout)) == 2 * BOARDS
    with sqlite3.connect(bench.database) as connection:
        connection.execute("delete from audit where number = 3")
    broken = device_command(bench, "audit")
    assert (broken.returncode, broken.stdout) == (1, "")
    assert "line 3 is missing" in broken.stderr
