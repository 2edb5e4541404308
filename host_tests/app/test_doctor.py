"""`signet doctor`: each thing that can be missing is said, with the command that mends it."""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from host_tests.app.conftest import write_project
from signet import cli, project, sources, toolchain
from signet.app import doctor
from signet.app.doctor import Check
from signet.errors import RefusedError, SignetError
from signet.project import Project

GOOD = {
    "micropython": "exit 0",
    "mosquitto": "echo mosquitto version 2.0.12; exit 3",
    "mosquitto_pub": "exit 0",
    "mosquitto_sub": "exit 0",
}


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project on a machine on which nothing is missing; its folder is the current one."""
    monkeypatch.setattr(sources, "TOOLCHAIN", tmp_path / "toolchain")
    for name, script in GOOD.items():
        write_program(name, script)
    folder = write_project(tmp_path / "kettle")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(doctor, "_PORTS", (str(tmp_path / "tty*"),))
    return project.load(folder)


def write_program(name: str, script: str) -> None:
    path = sources.TOOLCHAIN / "bin" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def bad(ours: Project | None) -> list[Check]:
    return [check for check in doctor.check_all(ours) if not check.good]


def test_nothing_is_missing(ours, capsys):
    assert bad(ours) == []
    doctor.check_quickly(ours)
    assert cli.run(["doctor"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1] == "nothing is missing"
    assert max(map(len, shown)) <= 80


Breaking = Callable[[Project, pytest.MonkeyPatch], object]


def _no_program(ours: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    (sources.TOOLCHAIN / "bin/micropython").unlink()
    monkeypatch.setenv("PATH", str(ours.folder))
    monkeypatch.setattr(sources, "SYSTEM_FOLDERS", "")


def _touch(path: Path, ahead_s: float) -> None:
    path.parent.mkdir(exist_ok=True)
    path.touch()
    os.utime(path, (time.time() + ahead_s,) * 2)


NEEDED: dict[str, tuple[Breaking, str, str, str | None]] = {
    "no MicroPython": (_no_program, "micropython", "not found", "signet doctor --install"),
    "an old MicroPython": (
        lambda *_: write_program("micropython", "exit 1"),
        "micropython", "bin/micropython: older than 1.25, or without tls and ffi",
        "signet doctor --install",
    ),
    "an old mosquitto": (
        lambda *_: write_program("mosquitto", "echo mosquitto version 2.0.11; exit 3"),
        "mosquitto", "mosquitto: version 2.0.11, expected 2.0.12 or later",
        "signet doctor --install",
    ),
    "an old Python": (
        lambda _, patch: patch.setattr(sys, "version_info", (3, 10, 4)),
        "Python", "3.10.4, expected 3.11 or later", None,
    ),
    "a clock that lost its battery": (
        lambda _, patch: patch.setattr(time, "time", lambda: 0.0),
        "clock", "before Signet was written", "sudo timedatectl set-ntp true",
    ),
    "a clock behind the files": (
        lambda ours, _: _touch(ours.app, 90_000),
        "clock", "before the last change of app.py", "sudo timedatectl set-ntp true",
    ),
    "no place for temporary files": (
        lambda _, patch: patch.setattr(tempfile, "tempdir", "/proc"),
        "temporary files", "/proc: ", f"sudo chown -R {os.getuid()} /proc",
    ),
    "a full disk": (
        lambda _, patch: patch.setattr(doctor, "_LEAST_FREE", 1 << 60),
        "temporary files", "MiB free, expected", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("broken", "what", "found", "command"), NEEDED.values(), ids=NEEDED)
def test_what_is_needed_is_said_before_long_work(
    ours, monkeypatch, capsys, broken, what, found, command
):
    broken(ours, monkeypatch)
    checks = [check for check in bad(ours) if check.what == what]
    assert [check.needed for check in checks] == [True]
    assert found in checks[0].found
    if command:
        assert checks[0].command == command
    with pytest.raises(RefusedError) as refusal:
        doctor.check_quickly(ours)
    start = checks[0].found.partition(", ")[0]  # what follows may be free space, which changes
    assert f"{what}: {start}" in str(refusal.value)
    assert cli.run(["doctor", "--json"]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    assert what in [check["what"] for check in json.loads(out) if not check["good"]]


def _forbid(ours: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    (ours.folder.parent / "ttyUSB0").touch()
    allowed = os.access
    monkeypatch.setattr(  # root may do all
        os, "access", lambda path, how: "ttyUSB0" not in str(path) and allowed(path, how)
    )


def _change_after_build(ours: Project, _: pytest.MonkeyPatch) -> None:
    _touch(ours.folder / "build/kettle-1.0.0.img", -10)
    _touch(ours.lib / "kettle.py", 0)
    _touch(ours.app, -20)
    _touch(ours.folder / "signet.toml", -20)


WARNED: dict[str, tuple[Breaking, str, str, str]] = {
    "no permission": (_forbid, "serial port", "ttyUSB0: no permission", "sudo usermod -aG "),
    "an old image": (
        _change_after_build, "image", "kettle-1.0.0.img is older than lib/kettle.py", "signet build"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("broken", "what", "found", "command"), WARNED.values(), ids=WARNED)
def test_a_warning_stops_nothing(ours, monkeypatch, capsys, broken, what, found, command):
    broken(ours, monkeypatch)
    (check,) = bad(ours)
    assert (check.what, check.needed) == (what, False)
    assert check.found.endswith(found)
    assert check.command
    assert check.command.startswith(command)
    doctor.check_quickly(ours)
    assert cli.run(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert f"to mend it: {check.command}\n" in shown
    assert "nothing is missing" not in shown


def test_without_a_project_the_machine_is_looked_at(ours, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["doctor", "--json"]) == 0
    found = {check["what"] for check in json.loads(capsys.readouterr().out)}
    assert "micropython" in found
    assert not {"image", "project"} & found


def test_a_test_run_does_not_begin_without_what_it_needs(ours, capsys):
    write_program("mosquitto", "echo mosquitto version 1.6.0")
    assert cli.run(["test"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"signet: error: mosquitto: {sources.TOOLCHAIN}/bin/mosquitto: version 1")
    assert "hint: signet doctor --install; signet doctor says more" in err
    assert not ours.state.exists()


def test_the_programs_are_installed_where_signet_looks(ours, monkeypatch, capsys):
    _no_program(ours, monkeypatch)

    def install(target: Path) -> None:
        assert target == sources.TOOLCHAIN
        write_program("micropython", "exit 0")

    monkeypatch.setattr(toolchain, "install", install)
    assert cli.run(["doctor", "--install"]) == 0
    assert "toolchain: MicroPython and mosquitto" in capsys.readouterr().err


def test_an_installation_that_fails_says_what_is_needed(monkeypatch):
    def fail(target: Path) -> None:
        raise toolchain.ToolchainError("no network")

    monkeypatch.setattr(toolchain, "install", fail)
    with pytest.raises(SignetError, match="no network") as refusal:
        doctor.install()
    assert "needed: MicroPython ≥ 1.25" in str(refusal.value.hint)
