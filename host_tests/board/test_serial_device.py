"""serial_device: what may be a port, and that no program is started for anything else."""

import os
import pty
from pathlib import Path

import pytest

from signet import run
from signet.board import deploy, esptool, serial_device
from signet.device.sealing.efuse import Target
from signet.device.sealing.efuse_plan import CHIPS
from signet.errors import SignetError

pytest_plugins = ["host_tests.tool_fixtures"]

NAMES = {
    "spy": ("spy:///dev/ptmx?file=/tmp/x", "found a URL"),
    "in capitals": ("SPY:///dev/ptmx?file=/tmp/x", "found a URL"),
    "network": ("socket://127.0.0.1:7000", "found a URL"),
    "network, RFC 2217": ("rfc2217://127.0.0.1:7000", "found a URL"),
    "loop": ("loop://", "found a URL"),
    "search": ("hwgrep://.*", "found a URL"),
    "URL behind a folder": ("/dev/spy://x", "found a URL"),
    "relative": ("ttyUSB0", "found no path in /dev/"),
    "out of the folder": ("/dev/../etc/passwd", "found no path in /dev/"),
    "elsewhere": ("/tmp/ttyUSB0", "found no path in /dev/"),
    "option": ("-p", "found no path in /dev/"),
    "mpremote's search": ("auto", "found no path in /dev/"),
    "mpremote's number": ("id:1234", "found no path in /dev/"),
    "escape": ("/dev/tty\x1b[2J", "found no path in /dev/"),
    "empty": ("", "found no path in /dev/"),
}
DEVICES = {
    "no serial one": ("/dev/null", "found another device, /dev/null"),
    "maker of pseudo-terminals": ("/dev/ptmx", "found another device, /dev/(pts/)?ptmx"),
    "this terminal": ("/dev/tty", "found another device, /dev/tty"),
    "not there": ("/dev/ttyUSB99", "found none: No such file"),
    "too long": ("/dev/" + "x" * 300, "found none: File name too long"),
    "folder": ("/dev/pts", "found no device, /dev/pts"),
}


@pytest.mark.parametrize(("name", "reason"), NAMES.values(), ids=NAMES)
def test_what_is_no_name_of_a_device_is_refused_before_anything_is_looked_at(name, reason):
    for check in (serial_device.check_name, serial_device.check_device):
        with pytest.raises(SignetError, match=f"expected a serial device.*{reason}"):
            check(name)


@pytest.mark.parametrize(("name", "reason"), DEVICES.values(), ids=DEVICES)
def test_another_device_is_no_port(name, reason):
    assert serial_device.check_name(name) == name
    with pytest.raises(SignetError, match=reason):
        serial_device.check_device(name)


@pytest.fixture
def terminal():
    ours, theirs = pty.openpty()
    yield os.ttyname(theirs)
    os.close(ours)
    os.close(theirs)


def test_a_pseudo_terminal_is_a_port(terminal):
    assert serial_device.check_device(terminal) == terminal


def checked(monkeypatch, path: str, target: str, like: Path) -> str:
    """What check_device says of a path that leads to a target, which is as another file is."""
    stat = os.stat(like)
    with monkeypatch.context() as patch:  # pytest itself needs both
        patch.setattr(os.path, "realpath", {path: target}.get)
        patch.setattr(os, "stat", lambda _: stat)
        try:
            return serial_device.check_device(path)
        except (SignetError, KeyError, TypeError) as error:
            return f"{error}"


@pytest.mark.parametrize("name", ["ttyUSB0", "ttyACM12", "ttyS3", "ttyAMA0", "ttymxc1", "rfcomm0"])
def test_links_are_followed_to_what_they_name(monkeypatch, name):
    link = "/dev/serial/by-id/x"
    assert checked(monkeypatch, link, f"/dev/{name}", Path("/dev/null")) == link
    for other in ("/dev/mem", "/etc/passwd"):
        refused = checked(monkeypatch, link, other, Path("/dev/null"))
        assert refused.endswith(f"found another device, {other}")


def test_a_file_of_a_port_s_name_is_none(monkeypatch, tmp_path):
    refused = checked(monkeypatch, "/dev/ttyUSB0", "/dev/ttyUSB0", tmp_path)
    assert refused.endswith("found no device, /dev/ttyUSB0")


PROGRAMS = {
    "esptool": lambda name: esptool.ask(name, "flash-id"),
    "esptool, shown": lambda name: esptool.write_board(Path("flash.bin"), name),
    "esptool, not run": lambda name: esptool.commands(Path("flash.bin"), name),
    "mpremote": lambda name: deploy.copy_to_board(name, Path("x")),
    "mpremote, not run": lambda name: deploy.commands(name, Path("x")),
    "espefuse": lambda name: Target(CHIPS["esp32"], name).summary(),
}


@pytest.mark.parametrize("start", PROGRAMS.values(), ids=PROGRAMS)
def test_no_program_is_started_on_anything_else(monkeypatch, tmp_path, start):
    monkeypatch.setattr(run, "find_program", lambda name: pytest.fail(f"{name} was started"))
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    with pytest.raises(SignetError, match="found a URL"):
        start(f"spy:///dev/ptmx?file={victim}")
    assert victim.read_text() == "as it was"


@pytest.mark.parametrize("command", [("board", "flash", "x.bin"), ("board", "deploy"),
                                     ("device", "provision")])  # fmt: skip
def test_a_command_line_takes_no_url(signet, tmp_path, command):
    if command[1] == "provision":
        options = {"--pki": "pki", "--id": "a", "--model": "m", "--hw": "A1", "--broker": "h:1",
                   "--images": "h:2", "--ntp": "h:3", "--image": "i", "-o": "o"}  # fmt: skip
        command = (*command, *(word for pair in options.items() for word in pair))
    done = signet(*command, "--port", f"spy:///dev/ptmx?file={tmp_path / 'victim'}")
    assert (done.returncode, done.stdout) == (2, "")
    if command[1] != "flash":  # which looks at the file first
        assert "found a URL" in done.stderr
    assert not (tmp_path / "victim").exists()
