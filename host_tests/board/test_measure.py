"""`signet board measure`: a virtual board is driven as an emulated one is, with real servers."""

import json
import os
import sys
from pathlib import Path

import pytest

from host_tests.esp_images import make_micropython
from host_tests.tool_helpers import REPO, mode, snapshot
from signet.board import emulator, real_flash
from signet.board.measure import figures
from signet.board.measure.drive import Plan
from signet.board.measure.figures import Memory, Row, Run
from signet.board.measure.run import measure
from signet.device import flash_file
from signet.device.settings import Settings
from signet.errors import SignetError
from signet.fleet.serving import free_port
from signet.image import slot_image
from signet.pki import authority

pytest_plugins = ["host_tests.tool_fixtures"]

MODEL = "signet-measure"
BUILT = 1_790_000_000
CRASHES = "raise RuntimeError('at its start')\n"
HEAP = {"live", "free", "total", "names", "largest", "uptime_s"}
IDF = {"idf_free", "idf_largest", "idf_least"}


def make_image(
    folder: Path, keys: Path, version: str, counter: int, app: str | None = None
) -> Path:
    path = None
    if app is not None:
        path = folder / f"{version}.py"
        path.write_text(app)
    release = slot_image.Release(version, MODEL, counter, (1, 25, 0), BUILT)
    content = slot_image.sign_image(
        slot_image.build_image(release, REPO, path), keys / "release.key"
    )
    (folder / f"{version}.img").write_bytes(content)
    return folder / f"{version}.img"


def make_device(folder: Path, keys: Path, host: str, path: Path) -> Path:
    broker, images, ntp = (f"{host}:{free_port()}" for _ in range(3))
    settings = Settings("dev-0001", MODEL, "A1", broker, images, ntp, 30)
    path.parent.mkdir(exist_ok=True)
    flash_file.provision(settings, keys, folder / "1.0.0.img", REPO, path)
    return path


@pytest.fixture(scope="module")
def folder(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual board in `board`, images 1.0.0 and 1.1.0, and 1.2.0, which crashes."""
    folder = tmp_path_factory.mktemp("measure")
    for version, counter, app in (("1.0.0", 1, None), ("1.1.0", 2, None), ("1.2.0", 3, CRASHES)):
        make_image(folder, keys, version, counter, app)
    make_device(folder, keys, "localhost", folder / "board/flash.bin")
    return folder


def test_a_virtual_board_through_all_steps(signet, keys, folder, tmp_path):
    before = snapshot(folder / "board")
    done = signet(
        "board", "measure", folder / "board", "--pki", keys, "--image", folder / "1.1.0.img",
        "--bad", folder / "1.2.0.img", "--restarts", "2", "--json",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    run = json.loads(done.stdout)
    assert [row["step"] for row in run["rows"]] == [
        "connect", "command", "restart 1", "restart 2", "order 1.1.0", "download", "confirmed",
        "order 1.2.0", "download", "rolled-back",
    ]  # fmt: skip
    for row in run["rows"]:
        if row["step"].startswith("order"):
            assert row["memory"] == {}
            continue
        assert row["memory"].keys() == HEAP
        assert 20_000 < row["memory"]["live"] < 200_000
    assert (run["emulated"], run["failure"]) == (False, None)
    assert run["board"] == "dev-0001 (signet-measure), 1.0.0, a virtual board"
    assert snapshot(folder / "board") == before
    assert list((tmp_path / "temp").iterdir()) == []


def test_an_application_says_what_is_live(keys, folder, tmp_path):
    """Less than with what the answer to `memory` takes."""
    run = measure(folder / "board", Plan(keys, restarts=0, telemetry=True), tmp_path)
    assert run.failure is None
    assert [row.step for row in run.rows] == ["connect", "command", "telemetry"]
    command, telemetry = run.rows[1:]
    assert telemetry.memory.keys() == {"live"}
    idle, asked = (row.memory["live"] or 0 for row in (telemetry, command))
    assert 20_000 < idle < asked


def test_a_step_that_does_not_hold(signet, keys, folder):
    """What held is shown, and the board's reason; its report ends the wait, not the limit."""
    old = make_image(folder, keys, "0.9.0", 0)
    done = signet("board", "measure", folder / "board", "--pki", keys, "--image", old,
                  "--restarts", "0")  # fmt: skip
    assert done.returncode == 1
    reason = "it is refused: security counter 0 is below the floor 1"
    assert done.stderr.startswith(f"signet: error: order 0.9.0: {reason}\n  | ")
    assert " connect " in done.stdout
    assert " command " in done.stdout
    assert " order " not in done.stdout


def test_a_board_that_never_connects(signet, keys, folder, tmp_path):
    """Keys of another fleet: it does not trust these servers."""
    authority.init_pki(tmp_path / "pki", ["localhost", "127.0.0.1"])
    done = signet("board", "measure", folder / "board", "--pki", tmp_path / "pki", "--limit", "5",
                  "--work", tmp_path / "work")  # fmt: skip
    assert done.returncode == 1
    reason, *tail = done.stderr.splitlines()
    expected = "connect: no 'signet: connected to ' on the console within 5 s"
    assert reason == f"signet: error: {expected}"
    # How far it comes in 5 s is the machine's: it may still verify its slot.
    said = (tmp_path / "work/board/console.log").read_text()
    assert tail
    assert all(line.removeprefix("  | ") in said for line in tail)
    assert mode(tmp_path / "work/board/flash.bin") == 0o600


@pytest.fixture(scope="module")
def flash(folder: Path, keys: Path) -> Path:
    """A flash for the emulator."""
    device = make_device(folder, keys, emulator.HOST, folder / "device.bin")
    (folder / "micropython.bin").write_bytes(make_micropython())
    chip, _ = real_flash.build_board_flash(folder / "micropython.bin", device)
    chip.save_new(folder / "chip.bin")
    return folder / "chip.bin"


def test_what_cannot_begin(signet, keys, folder, flash, tmp_path):
    make_device(folder, keys, "my-broker.example", tmp_path / "board/flash.bin")
    (tmp_path / "empty").mkdir()
    common = ("--pki", keys)
    cases = {
        "its broker is my-broker.example:": (tmp_path / "board", *common),
        "no boot loader at 0x1000: the flash of a virtual board":
            (folder / "board/flash.bin", *common),
        "empty/flash.bin: cannot read the flash file": (tmp_path / "empty", *common),
        "1.1.0.img: signature": (folder / "board", *common, "--image", tmp_path / "1.1.0.img"),
        "expected a new folder": (folder / "board", *common, "--work", tmp_path),
        "qemu-system-xtensa: not installed": (flash, *common),
    }  # fmt: skip
    content = bytearray((folder / "1.1.0.img").read_bytes())
    content[-4000] ^= 1
    (tmp_path / "1.1.0.img").write_bytes(content)
    for expected, arguments in cases.items():
        done = signet("board", "measure", *arguments, PATH=str(tmp_path))
        assert done.returncode in (1, 2)
        assert expected in done.stderr
        assert done.stdout == ""


_QEMU = """#!{python}
import os, sys, time
if sys.argv[1:] == ["-machine", "help"]:
    print("esp32   Espressif ESP32 machine")
elif "-device" not in sys.argv:
    open({pid!r}, "w").write(str(os.getpid()))
    print("STARTED", *sys.argv[1:], flush=True)
    {then}
"""


def run_with(signet, keys, flash, tmp_path, then, *more):
    """Measure with a program in QEMU's place that says how it was started, and then something."""
    program = tmp_path / "bin/qemu-system-xtensa"
    program.parent.mkdir()
    pid = str(tmp_path / "pid")
    program.write_text(_QEMU.format(python=sys.executable, pid=pid, then=then))
    program.chmod(0o700)
    path = f"{program.parent}:{os.environ['PATH']}"
    done = signet("board", "measure", flash, "--pki", keys, "--limit", "3", *more, PATH=path)
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path(pid).read_text()), 0)
    return done


def test_the_emulator_is_started_and_ended(signet, keys, flash, tmp_path):
    before = flash.read_bytes()
    done = run_with(signet, keys, flash, tmp_path, "time.sleep(600)")
    assert done.returncode == 1
    assert "error: connect: no 'signet: connected to ' on the console within 3 s" in done.stderr
    started = next(line for line in done.stderr.splitlines() if "STARTED" in line)
    assert "-serial stdio" in started
    assert started.endswith("-icount 3")
    assert str(flash) not in started  # but a copy
    assert flash.read_bytes() == before


def test_an_emulator_that_ends(signet, keys, flash, tmp_path):
    done = run_with(signet, keys, flash, tmp_path, "sys.exit('no such chip')", "--", "-icount", "5")
    assert done.returncode == 1
    assert (
        "error: connect: the board stopped: the emulator ended with 1: no such chip" in done.stderr
    )
    assert "-icount 5" in done.stderr
    assert "-icount 3" not in done.stderr


MEMORY = dict.fromkeys((*HEAP, *IDF), 123456)


def test_a_table_has_80_columns_and_can_be_kept(capsys, tmp_path):
    memory: Memory = dict.fromkeys((*HEAP, *IDF), 123_456)
    rows = [Row("rolled-back", 1234.5, memory), Row("order 1.1.0", 3.2)]
    run = Run("dev-0001 (signet-check), 1.0.0 in slot a, MicroPython 1.25.0", True, "2026-01-01",
              rows=rows)  # fmt: skip
    figures.show(run)
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert max(map(len, figures.LEGEND.splitlines())) <= 80
    assert said.count("123,456") == len(memory) - 3  # free, total and names are for --json
    assert run.idf_least == 123_456
    figures.save(tmp_path / "kept.json", "make it", [run])
    assert figures.load(tmp_path / "kept.json") == ("make it", [run])
    for text in ("", "[]", '{"runs": []}', '{"command": "x", "runs": [{"rows": [1]}]}'):
        (tmp_path / "kept.json").write_text(text)
        with pytest.raises(SignetError, match="expected what `make qemu-check` keeps"):
            figures.load(tmp_path / "kept.json")
