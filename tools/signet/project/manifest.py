"""`signet.toml`: what a project is called, what it needs of a board, and what it may take of one.

    [project]
    name = "thermometer"
    model = "thermometer"     # what a device is: images are for one model
    hardware = "A"            # revision
    version = "1.0.0"
    counter = 1               # security counter: no device goes back below the one it confirmed
    micropython = "1.25.0"    # the oldest that runs it
    data = "data"             # folder of files for the application; absent: none

    [heap]
    reserve_kb = 32           # what the board adds to its first 56,000 bytes; 0 or absent: 16
    data_kb = 16              # what the application's data takes of it: buffers, tables, queues

    [budget]                  # what a build may take at most; absent: what fits a board
    image_kb = 80             # the signed image
    heap_kb = 12              # the application, with its data

    [servers]                 # of the fleet that is started for development
    host = "127.0.0.1"
    broker_port = 8883        # also operators_, services_, images_ and ntp_port; absent: any

    [packages]                # of modules, in the form that mip takes (signet.project.packages)
    "github:org/repo" = { version = "v1.2", sha256 = "…" }

All tables may be absent where only [heap] is asked for, as for an application without a project.
"""

import re
import reprlib
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from signet import files
from signet.device.settings import HARDWARE
from signet.errors import SignetError
from signet.image.budget import MOST_RESERVE_KB
from signet.image.slot_image import DEFAULT_PLATFORM, MODEL, VERSION
from signet.pki.names import HOST_NAME

NAME = "signet.toml"
_MOST_DATA_KB = 96
_MOST_IMAGE_KB = 16 << 10  # the largest flash
_MOST_COUNTER = 0xFFFF_FFFF
_MAX_BITS = 64
_REFERENCE = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/+-]{0,99}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PLATFORM = re.compile(r"(\d{1,3})\.(\d{1,3})\.(\d{1,3})", re.ASCII)


@dataclass(frozen=True)
class About:
    """The table [project]. data: the folder of files for the application; None: there is none."""

    name: str
    model: str
    hardware: str
    version: str
    counter: int
    micropython: tuple[int, int, int]
    data: Path | None = None


@dataclass(frozen=True)
class Heap:
    """reserve_kb: heap to reserve, 0 leaves it to the board. data_kb: what the data takes."""

    reserve_kb: int = 0
    data_kb: int = 0


@dataclass(frozen=True)
class Budget:
    """What a build may take at most; None: what fits. heap_kb: with the application's data."""

    image_kb: int | None = None
    heap_kb: int | None = None


@dataclass(frozen=True)
class Servers:
    """Where the fleet of `signet dev` listens; a port that is None is chosen."""

    host: str = "127.0.0.1"
    broker_port: int | None = None
    operators_port: int | None = None
    services_port: int | None = None
    images_port: int | None = None
    ntp_port: int | None = None


@dataclass(frozen=True)
class Package:
    """Modules of others. version: a tag, branch or commit. sha256: of all its files, in hex.

    Either may be None; without a digest nothing is built.
    """

    version: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Manifest:
    """A signet.toml. about: None for an application without a project. packages: by source."""

    about: About | None = None
    heap: Heap = Heap()
    budget: Budget = Budget()
    servers: Servers = Servers()
    packages: dict[str, Package] = field(default_factory=dict)


class _WrongError(Exception):
    """A value is not what its text says."""


_Read = Callable[[Any], Any]  # a value of TOML, checked; raises _WrongError with what was expected


def _number(least: int, most: int) -> _Read:
    def read(value: Any) -> int:
        # In Python, though not in TOML, true is a number.
        if type(value) is int and least <= value <= most:
            return value
        raise _WrongError(f"{least} to {most}")

    return read


def _text(pattern: re.Pattern[str], form: str) -> _Read:
    def read(value: Any) -> str:
        if isinstance(value, str) and pattern.fullmatch(value):
            return value
        raise _WrongError(form)

    return read


def _platform(value: Any) -> tuple[int, ...]:
    match = _PLATFORM.fullmatch(value) if isinstance(value, str) else None
    numbers = tuple(map(int, match.groups())) if match else ()
    if not numbers >= DEFAULT_PLATFORM or max(numbers) > 255:
        raise _WrongError("a text of the form '1.25.0', which is the oldest that there may be")
    return numbers


def _folder(value: Any) -> PurePosixPath:
    if isinstance(value, str) and value and "\0" not in value:
        path = PurePosixPath(value)
        if not path.is_absolute() and ".." not in path.parts and path.parts:
            return path
    raise _WrongError("the name of a folder inside the project")


_PORT = _number(1, 65535)
_TABLES: dict[str, dict[str, _Read]] = {
    "project": {
        "name": _text(MODEL, "1 to 31 of a-z, 0-9 and '-'"),
        "model": _text(MODEL, "1 to 31 of a-z, 0-9 and '-'"),
        "hardware": _text(HARDWARE, "1 to 16 letters, digits, '.', '_' and '-'"),
        "version": _text(VERSION, "1 to 31 letters, digits, '.', '+', '_' and '-'"),
        "counter": _number(0, _MOST_COUNTER),
        "micropython": _platform,
        "data": _folder,
    },
    "heap": {"reserve_kb": _number(0, MOST_RESERVE_KB), "data_kb": _number(0, _MOST_DATA_KB)},
    "budget": {"image_kb": _number(1, _MOST_IMAGE_KB), "heap_kb": _number(0, _MOST_DATA_KB)},
    "servers": {
        "host": _text(HOST_NAME, "a host name or address"),
        "broker_port": _PORT,
        "operators_port": _PORT,
        "services_port": _PORT,
        "images_port": _PORT,
        "ntp_port": _PORT,
    },
}
_PACKAGE: dict[str, _Read] = {
    "version": _text(_REFERENCE, "a tag, branch or commit: letters, digits and '._/+-'"),
    "sha256": _text(_DIGEST, "64 hexadecimal digits"),
}
_OPTIONAL = {"data"}  # of the table project; all of the others


def beside(app: Path | None, source: Path) -> Path | None:
    """The manifest: beside the application's file, else in the source folder; None without one."""
    path = (app.parent if app else source) / NAME
    return path if path.is_file() else None


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest. Raises SignetError with what was expected and found."""
    try:
        found = tomllib.loads(files.read_file(path, "manifest").decode())
    except (ValueError, RecursionError) as error:  # two kinds of ValueError, and numbers too long
        raise SignetError(f"{path}: not TOML: {error}") from error
    _check_keys(path, "", found, [*_TABLES, "packages"])
    read = {
        name: _read_table(path, name, _table(path, name, found.get(name, {})), readers)
        for name, readers in _TABLES.items()
    }
    about = _about(path, read["project"]) if "project" in found else None
    servers = Servers(**read["servers"])
    _check_ports(path, read["servers"])
    packages = _packages(path, _table(path, "packages", found.get("packages", {})))
    return Manifest(about, Heap(**read["heap"]), Budget(**read["budget"]), servers, packages)


def _table(path: Path, name: str, table: Any) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise SignetError(f"{path}: {name} is no table, expected [{name}]")
    return table


def _packages(path: Path, table: dict[str, Any]) -> dict[str, Package]:
    packages = {}
    for source, found in table.items():
        name = f"packages.{reprlib.repr(source)}"
        if not isinstance(found, dict):
            raise SignetError(f"{path}: {name} is no table, expected {{ version, sha256 }}")
        packages[source] = Package(**_read_table(path, name, found, _PACKAGE))
    return packages


def _read_table(
    path: Path, name: str, table: dict[str, Any], readers: dict[str, _Read]
) -> dict[str, Any]:
    _check_keys(path, f"{name}.", table, list(readers))
    read = {}
    for key, value in table.items():
        try:
            read[key] = readers[key](value)
        except _WrongError as error:
            # Python writes no decimal number of thousands of digits, and TOML may have one.
            huge = type(value) is int and value.bit_length() > _MAX_BITS
            shown = "a huge number" if huge else reprlib.repr(value)
            raise SignetError(f"{path}: {name}.{key} is {shown}, expected {error}") from error
    return read


def _about(path: Path, table: dict[str, Any]) -> About:
    for key, read in _TABLES["project"].items():
        if key not in table and key not in _OPTIONAL:
            try:
                read(None)
            except _WrongError as error:
                raise SignetError(f"{path}: project.{key} is missing, expected {error}") from error
    data = path.parent / table.pop("data") if "data" in table else None
    return About(**table, data=data)


def _check_keys(path: Path, table: str, found: dict[str, Any], known: list[str]) -> None:
    unknown = [key for key in found if key not in known]
    if unknown:
        raise SignetError(f"{path}: {table}{unknown[0]} is not known, expected {', '.join(known)}")


def _check_ports(path: Path, table: dict[str, Any]) -> None:
    # The time server's is UDP, the others are TCP.
    taken: dict[int, str] = {}
    for key, port in table.items():
        if key.endswith("_port") and key != "ntp_port":
            other = taken.setdefault(port, key)
            if other != key:
                raise SignetError(
                    f"{path}: servers.{key} is {port}, expected another one than {other}"
                )
