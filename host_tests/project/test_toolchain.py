"""signet.toolchain: what it takes, what it refuses, and that a failure leaves all as it was."""

import subprocess
from pathlib import Path

import pytest

from signet import toolchain

GOOD = {
    "micropython": "exit 0",
    "mosquitto": "echo mosquitto version 2.0.12; exit 3",
    "mosquitto_pub": "exit 0",
    "mosquitto_sub": "exit 0",
}


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH, with programs that are good enough."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setattr(toolchain, "SYSTEM_FOLDERS", "")
    monkeypatch.setenv("PATH", str(folder))
    for name, script in GOOD.items():
        write_program(folder / name, script)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project folder with an earlier .toolchain in it."""
    folder = tmp_path / "project"
    (folder / ".toolchain").mkdir(parents=True)
    (folder / ".toolchain/earlier").touch()
    return folder


def write_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_good_programs_on_path_are_taken(programs: Path, project: Path) -> None:
    assert toolchain.main([str(project / ".toolchain")]) == 0
    starter = (project / ".toolchain/bin/mosquitto").read_text()
    assert starter == f'#!/bin/sh\nexec {programs / "mosquitto"} "$@"\n'
    assert [path.name for path in project.iterdir()] == [".toolchain"]
    assert not (project / ".toolchain/earlier").exists()


@pytest.mark.parametrize(
    ("name", "script"),
    [
        pytest.param("micropython", "exit 1", id="MicroPython too old or without tls"),
        pytest.param("mosquitto", "echo mosquitto version 2.0.11; exit 3", id="old broker"),
        pytest.param("mosquitto", "echo moskito", id="no version"),
        pytest.param("mosquitto_sub", None, id="no client"),
    ],
)
def test_programs_that_fall_short_are_not_taken(
    programs: Path, name: str, script: str | None
) -> None:
    assert toolchain.find_installed() is not None
    if script is None:
        (programs / name).unlink()
    else:
        write_program(programs / name, script)
    assert toolchain.find_installed() is None


def test_failure_says_what_is_needed_and_changes_nothing(
    programs: Path,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (programs / "mosquitto").unlink()
    (project / ".toolchain-killed").mkdir()  # what an earlier run left when it was killed
    write_program(programs / "apt-get", "echo 'E: no network' >&2; exit 100")
    write_program(programs / "dpkg-deb", "exit 0")
    monkeypatch.setattr(toolchain, "KEYRING", programs / "apt-get")
    assert toolchain.main([str(project / ".toolchain")]) == 2
    printed = capfd.readouterr().err
    assert "apt-get exited with 100:\n  E: no network" in printed
    assert "needed: MicroPython ≥ 1.25" in printed
    assert "hint: docker run" in printed
    assert [path.name for path in project.iterdir()] == [".toolchain"]
    assert (project / ".toolchain/earlier").exists()


def test_mirrors_are_the_archives_of_whole_releases(programs: Path) -> None:
    write_program(
        programs / "apt-get",
        """\
echo "'http://one/debian/dists/bookworm/InRelease' one_InRelease 0 "
echo "'http://one/debian/dists/bookworm-updates/InRelease' one_updates 0 "
echo "'http://one/debian-security/dists/bookworm-security/InRelease' one_security 0 "
echo "'http://one/debian/dists/bookworm/main/binary-amd64/Packages.xz' one_Packages 0 "
echo "'mirror+file:/etc/list/dists/stable/InRelease' two_InRelease 0 "
""",
    )
    assert toolchain.find_mirrors() == ["http://one/debian", "mirror+file:/etc/list"]


@pytest.mark.parametrize(
    ("call", "status"),
    [
        pytest.param("func('v', '_exit', 'i')(66)", 66, id="exit status"),
        pytest.param("func('i', 'raise', 'i')(14)", -14, id="killed by SIGALRM"),
    ],
)
def test_a_starter_becomes_the_program(micropython: Path, call: str, status: int) -> None:
    """The virtual board relies on both, and on ffi.open(None)."""
    command = [str(micropython), "-c", f"import ffi; ffi.open(None).{call}"]
    assert subprocess.run(command).returncode == status
