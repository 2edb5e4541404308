"""The commands over provisioned boards: list, show, label, remove, audit."""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

from host_tests.provisioning.bench import BOARDS, Bench
from host_tests.provisioning.label_reader import read_labels
from host_tests.tool_helpers import mode, snapshot
from signet.device.provisioning import labels

pytest_plugins = ["host_tests.tool_fixtures"]


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
