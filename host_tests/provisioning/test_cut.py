"""`signet device provision` cut off: what a run leaves, and how the next one goes on."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from host_tests.provisioning.bench import BOARDS, check_whole
from host_tests.tool_helpers import snapshot

pytest_plugins = ["host_tests.tool_fixtures"]

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
