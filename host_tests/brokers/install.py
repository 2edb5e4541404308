"""Put other MQTT brokers below build/brokers, without root, from this machine's own registries.

RabbitMQ comes from Debian's archive as signet.toolchain takes mosquitto from it, Aedes through
npm, aMQTT through pip. Each folder is made aside and renamed, and made again when what is wanted
has changed. `MissingError` says what a machine lacks.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from signet import toolchain

REPO = Path(__file__).resolve().parents[2]
FOLDER = REPO / "build/brokers"

# All that a RabbitMQ with its MQTT plug-in loads. Erlang is most of it.
_RABBITMQ = (
    *("rabbitmq-server", "erlang-base", "erlang-asn1", "erlang-crypto", "erlang-eldap"),
    *("erlang-inets", "erlang-mnesia", "erlang-os-mon", "erlang-parsetools", "erlang-public-key"),
    *("erlang-runtime-tools", "erlang-ssl", "erlang-syntax-tools", "erlang-tools", "erlang-xmerl"),
    *("libc6", "libcap2", "libgcc-s1", "libssl3t64", "libstdc++6", "libsystemd0", "libtinfo6"),
    *("libzstd1", "zlib1g"),
)
_AEDES = {"aedes": "1.2.0", "aedes-persistence-level": "9.2.0", "level": "10.0.0"}
_AMQTT = ("amqtt==0.12.1", "aiosqlite==0.22.1", "SQLAlchemy==2.1.9", "greenlet==3.5.6")
_NODE_MIN = 20

# In place of a program, which is then NAME.elf: starts it through its own loader.
_STARTER = """#!/bin/sh
libraries="${{0%/*}}/{up}/{libraries}"
exec "$libraries/{loader}" --library-path "$libraries" "$0.elf" "$@"
"""


class MissingError(Exception):
    """A broker cannot be had on this machine; the text says why."""


def rabbitmq() -> Path:
    """The root of the unpacked packages."""
    return _installed("rabbitmq", _RABBITMQ, _install_rabbitmq)


def aedes() -> Path:
    """The folder with node_modules; `node` is on PATH."""
    for program in ("node", "npm"):
        if not shutil.which(program):
            raise MissingError(f"{program} is not on PATH (Node.js {_NODE_MIN} or later is needed)")
    version = _run("node", "--version").strip()
    if int(version.lstrip("v").split(".")[0]) < _NODE_MIN:
        raise MissingError(f"node is {version}, v{_NODE_MIN} or later is needed")
    return _installed("aedes", _AEDES, _install_aedes)


def amqtt() -> Path:
    """The Python of a virtual environment that has it."""
    return _installed("amqtt", _AMQTT, _install_amqtt) / "bin/python"


def _installed(name: str, wanted: object, install: Callable[[Path], None]) -> Path:
    folder, stamp = FOLDER / name, FOLDER / f"{name}.json"
    text = json.dumps(wanted)
    if folder.exists() and stamp.exists() and stamp.read_text() == text:
        return folder
    FOLDER.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)
    print(f"brokers: installing {name} in build/brokers", file=sys.stderr, flush=True)
    try:
        install(folder)
    except (toolchain.ToolchainError, StopIteration) as error:
        raise MissingError(str(error) or "the packages are not as expected") from error
    stamp.write_text(text)
    return folder


def _run(*command: object, cwd: Path | None = None) -> str:
    return toolchain.run(*command, cwd=cwd)


def _install_rabbitmq(folder: Path) -> None:
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb") and toolchain.KEYRING.exists()):
        raise MissingError(f"this is not a Debian system with {toolchain.KEYRING}")
    with tempfile.TemporaryDirectory(prefix=".rabbitmq-", dir=FOLDER) as name:
        root = Path(name, "root")
        for deb in _download_packages(Path(name, "work")):
            _run("dpkg-deb", "--extract", deb, root)
        loader = next(root.glob("usr/lib/*/ld*.so.*")).relative_to(root)
        erlang = root / "usr/lib/erlang"
        for program in (*erlang.glob("erts-*/bin/*"), *erlang.glob("lib/*/priv/bin/*")):
            if program.read_bytes()[:4] == b"\x7fELF":
                _put_starter(root, program, loader)
        root.rename(folder)


def _download_packages(work: Path) -> list[Path]:
    failures = ["no mirror in this machine's apt sources has RabbitMQ:"]
    for mirror in toolchain.find_mirrors():
        try:
            return toolchain.download_packages(mirror, work, _RABBITMQ)
        except toolchain.ToolchainError as error:
            failures.append(str(error))
    raise MissingError("\n".join(failures))


def _put_starter(root: Path, program: Path, loader: Path) -> None:
    program.rename(program.with_name(program.name + ".elf"))
    up = os.path.relpath(root, program.parent)
    program.write_text(_STARTER.format(up=up, libraries=loader.parent, loader=loader.name))
    program.chmod(0o755)


def _install_aedes(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".aedes-", dir=FOLDER) as name:
        work = Path(name, "aedes")
        work.mkdir()
        (work / "package.json").write_text(json.dumps({"private": True, "dependencies": _AEDES}))
        # No scripts: what is native comes compiled.
        options = ("--ignore-scripts", "--no-audit", "--no-fund", "--silent")
        _run("npm", "install", *options, cwd=work)
        work.rename(folder)


def _install_amqtt(folder: Path) -> None:
    # In place: a virtual environment knows its own path. Without its stamp it is made anew.
    _run(sys.executable, "-m", "venv", folder)
    pip = (folder / "bin/pip", "--disable-pip-version-check", "install", "--quiet")
    _run(*pip, *_AMQTT)


def version_of(command: list[str]) -> str:
    """The first word with a digit in what a program prints."""
    shown = subprocess.run(command, capture_output=True, text=True).stdout
    return next((word for word in shown.split() if word[:1].isdigit()), "?")
