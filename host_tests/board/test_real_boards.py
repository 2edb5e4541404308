"""`signet board flash`, `deploy` and `emulate`, as far as they go without a board."""

import os
import pty
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from host_tests.esp_images import make_micropython
from host_tests.fleet_helpers import wait_until
from host_tests.tool_helpers import REPO, SETTINGS
from signet.board import commands, deploy, esptool, real_flash
from signet.device import flash_file
from signet.errors import RefusedError, SignetError
from signet.fleet.serving import free_port
from signet.formats import flash, romfs
from signet.image.stage1 import compile_stage1
from trust.identity import Identity

pytest_plugins = ["host_tests.tool_fixtures"]


@pytest.fixture(scope="module")
def folder(project, keys, signed, tmp_path_factory):
    """device.bin, of `device provision`, and flash.bin, of `board image`."""
    folder = tmp_path_factory.mktemp("a, board")  # QEMU has a use of its own for commas
    (folder / "signed.img").write_bytes(signed)
    (folder / "micropython.bin").write_bytes(make_micropython())
    flash_file.provision(SETTINGS, keys, folder / "signed.img", project, folder / "device.bin")
    chip, _ = real_flash.build_board_flash(folder / "micropython.bin", folder / "device.bin")
    chip.save_new(folder / "flash.bin")
    return folder


# --- signet board flash


def test_flash_shows_what_it_would_do(signet, folder):
    done = signet("board", "flash", "flash.bin", "--port", "/dev/ttyUSB7", "--dry-run", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    esptool = "esptool --chip esp32 --port /dev/ttyUSB7 --baud 460800"
    assert done.stdout == (
        f"{esptool} --after no-reset write-flash 0x0 flash.bin\n"
        f"{esptool} verify-flash 0x0 flash.bin\n"
    )


def test_flash_says_that_there_is_no_such_port(signet, folder):
    done = signet("board", "flash", "flash.bin", "--port", "/dev/ttyNONE", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "signet: error: port /dev/ttyNONE: expected a serial device such as /dev/ttyUSB0, "
        "found none: No such file or directory\nsignet: hint: is the board plugged in?\n"
    )


@pytest.fixture
def port():
    """A serial port without a board."""
    ours, theirs = pty.openpty()
    yield os.ttyname(theirs)
    os.close(ours)
    os.close(theirs)


def test_flash_says_that_nothing_answers(signet, folder, port):
    done = signet("board", "flash", "flash.bin", "--port", port, cwd=folder)
    assert done.returncode == 2
    assert "Failed to connect to ESP32" in done.stderr
    assert f"signet: error: esptool could not write to {port}, see above\n" in done.stderr
    assert "verify-flash" not in done.stderr


@pytest.mark.parametrize("command", ["flash", "emulate"])
def test_the_flash_of_a_virtual_board_is_no_real_one(signet, folder, command):
    port = ("--port", "/dev/ttyNONE") if command == "flash" else ()
    done = signet("board", command, "device.bin", *port, cwd=folder)
    assert done.returncode == 1
    assert done.stderr == (
        "signet: error: device.bin: no boot loader at 0x1000: the flash of a virtual board\n"
        "signet: hint: signet board image makes a real board's of it\n"
    )


@pytest.mark.parametrize(("at", "reason"), [(0x1100, "boot loader"), (0x10200, "app"),
                                            (0x8004, "MD5"), (0x315000, "digest")])  # fmt: skip
def test_an_altered_flash_is_not_written(signet, folder, tmp_path, at, reason):
    content = bytearray((folder / "flash.bin").read_bytes())
    content[at] ^= 1
    (tmp_path / "altered.bin").write_bytes(content)
    done = signet("board", "flash", "altered.bin", "--port", "/dev/ttyNONE")
    assert (done.returncode, "$ esptool" in done.stderr) == (1, False)
    assert reason in done.stderr


@pytest.mark.parametrize(
    ("codes", "error", "calls"),
    [((0, 0), None, 2), ((2, 0), SignetError, 1), ((0, 2), RefusedError, 2)],
)
def test_writing_and_comparing_both_have_to_succeed(monkeypatch, port, codes, error, calls):
    """A flash that differs is refused (1); one that cannot be written is no answer at all (2)."""
    done: list[list[str]] = []

    def run_esptool(arguments: list[str]) -> object:
        done.append(arguments)
        return codes[len(done) - 1]

    monkeypatch.setattr(esptool, "_show", run_esptool)
    if error is None:
        esptool.write_board(Path("flash.bin"), port)
    else:
        with pytest.raises(error) as failure:
            esptool.write_board(Path("flash.bin"), port)
        assert type(failure.value) is error
    assert len(done) == calls


# --- signet board emulate

_MACHINES = "Supported machines are:\nesp32   Espressif ESP32 machine\nnone   empty machine\n"
_QEMU = """#!{python}
import sys, time
if sys.argv[1:] == ["-machine", "help"]:
    print({machines!r})
elif "-device" in sys.argv:
    sys.exit({wifi})
else:
    print("STARTED", *sys.argv[1:], flush=True)
    time.sleep(60)
"""


def install_qemu(folder: Path, machines: str = _MACHINES, wifi: int = 0) -> str:
    """A qemu-system-xtensa that has these machines, and says so; the PATH that finds it."""
    path = folder / "bin/qemu-system-xtensa"
    path.parent.mkdir()
    path.write_text(_QEMU.format(python=sys.executable, machines=machines, wifi=wifi))
    path.chmod(0o700)
    return str(path.parent)


def test_without_qemu_it_says_what_is_missing(signet, folder, tmp_path):
    done = signet("board", "emulate", "flash.bin", cwd=folder, PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "signet: error: qemu-system-xtensa: not installed, or not in PATH\n"
        "signet: hint: it takes a QEMU with the machine esp32 and the network device esp32_wifi\n"
    )


@pytest.mark.parametrize(
    ("machines", "wifi", "lacks"),
    [
        ("lx60   lx60 EVB\nesp32s3   other\n", 0, "it has no machine esp32\n"),
        (_MACHINES, 1, "it has the machine esp32, and no Wi-Fi (device esp32_wifi)\n"),
    ],
)
def test_a_qemu_that_lacks_something_is_named(signet, folder, tmp_path, machines, wifi, lacks):
    path = install_qemu(tmp_path, machines, wifi)
    done = signet("board", "emulate", "flash.bin", cwd=folder, PATH=path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"signet: error: {path}/qemu-system-xtensa: {lacks}signet: hint:")


def test_qemu_gets_the_flash_a_console_and_wifi(signet, folder, tmp_path):
    path = install_qemu(tmp_path)
    arguments = (
        "board",
        "emulate",
        "flash.bin",
        "--port",
        "5999",
        "--dry-run",
        "--",
        "-icount",
        "3",
    )
    done = signet(*arguments, cwd=folder, PATH=path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"{path}/qemu-system-xtensa -machine esp32 -display none -monitor none "
        "-drive file=flash.bin,if=mtd,format=raw "
        "-serial tcp:127.0.0.1:5999,server=on,wait=off -nic user,model=esp32_wifi -icount 3\n"
    )
    done = signet("board", "emulate", folder / "flash.bin", "--dry-run", PATH=path)
    assert "a,, board" in done.stdout


def test_one_flash_file_runs_once_and_one_port_is_used_once(signet, folder, tmp_path):
    path = install_qemu(tmp_path)
    log = tmp_path / "log"
    command = [sys.executable, "-m", "signet", "board", "emulate", folder / "flash.bin", "--port"]
    with log.open("w") as output:
        first = subprocess.Popen(
            [*command, str(free_port())], stdout=output, env=os.environ | {"PATH": path}
        )
    try:
        wait_until(lambda: "STARTED" in log.read_text())
        second = signet(*command[3:], str(free_port()), PATH=path)
    finally:
        first.kill()
        first.wait()
    assert second.returncode == 1
    assert "a board runs on it already" in second.stderr
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        third = signet(*command[3:], str(port), PATH=path)
    assert third.returncode == 2
    assert f"console port {port}: Address already in use" in third.stderr


# --- signet board deploy


def test_deploy_says_that_there_is_no_such_port(signet):
    done = signet("board", "deploy", "--port", "/dev/ttyNONE")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("signet: error: port /dev/ttyNONE: expected a serial device")


def test_what_deploy_copies_is_stage_1_and_no_more(folder, project):
    contents = compile_stage1(project)
    on_vfs = flash_file.pack_stage1(compile_stage1(project), 0x6C000)
    assert all(content[:64] in on_vfs for content in contents.values())
    names = {path.stem for path in (REPO / "lib/romfs").glob("*.py")}
    scripts = {"boot.py", "main.mpy", "stage1.romfs"}
    assert set(contents) == scripts | {f"lib/romfs/{name}.mpy" for name in names}
    verifier = romfs.list_files(contents["stage1.romfs"])
    names = {path.stem for path in (REPO / "lib/trust").glob("*.py")}
    assert set(verifier) == {f"/trust/{name}.mpy" for name in names}


@pytest.mark.parametrize(("profile", "taken"), [(0, True), ("dev", True), (1, False),
                                                ("production", False), (None, False)])  # fmt: skip
def test_the_board_itself_refuses_unless_it_is_for_development(
    folder, monkeypatch, capsys, profile, taken
):
    chip = flash.Flash.load(folder / "flash.bin")
    found = [chip.device("esp_secure_cert")]
    partition = SimpleNamespace(find=lambda type_, label: found if type_ == 0x3F else [])
    monkeypatch.setitem(sys.modules, "esp32", SimpleNamespace(Partition=partition))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(Identity, "record", lambda _: {"id": "dev-0001", "profile": profile})
    if taken:
        exec(deploy._CHECK, {})
        assert capsys.readouterr().out == "development board dev-0001\n"
    else:
        with pytest.raises(ValueError, match="not a development board"):
            exec(deploy._CHECK, {})


@pytest.mark.parametrize("error", [None, SignetError("no REPL")])
def test_nothing_is_copied_before_the_board_was_asked(monkeypatch, project, error):
    steps: list[list[str]] = []

    def run_mpremote(arguments: list[str], _port: str, _timeout_s: int) -> None:
        steps.append(arguments)
        if error is not None:
            raise error

    monkeypatch.setattr(deploy, "_run_mpremote", run_mpremote)
    arguments = ["--port", "/dev/ttyUSB0", "--source", str(project)]
    if error is None:
        commands.board_deploy.main(arguments, standalone_mode=False)
        assert [step[3] for step in steps] == ["exec", "fs"]
    else:
        with pytest.raises(SignetError):
            commands.board_deploy.main(arguments, standalone_mode=False)
        assert [step[3] for step in steps] == ["exec"]
    assert steps[0] == ["connect", "/dev/ttyUSB0", "resume", "exec", deploy._CHECK]


def test_a_board_without_a_repl_is_given_up(monkeypatch, port):
    """A production board: what is sent to it goes nowhere, and what it prints is no REPL."""
    monkeypatch.setattr(deploy, "_CHECK_S", 1)
    with pytest.raises(SignetError, match="no answer from a REPL within 1 s") as failure:
        commands.board_deploy.main(["--port", port], standalone_mode=False)
    assert "only a development board" in str(failure.value.hint)


# --- make


@pytest.mark.parametrize("target", ["flash", "console", "deploy"])
def test_make_asks_for_the_port(target):
    done = subprocess.run(["make", "-n", target], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 2
    assert "PORT=… is missing" in done.stderr
