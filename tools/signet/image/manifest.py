"""`signet.toml`, beside an application: what it needs of a board.

[heap]
reserve_kb = 32     # what the board adds to its first 56,000 bytes of heap; 0 or absent: 16
data_kb = 16        # what the application's data takes of it: buffers, tables, queues
"""

import reprlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from signet import files
from signet.errors import SignetError

NAME = "signet.toml"
MOST_RESERVE_KB = 48  # a larger piece of the heap cannot be cut out of an ESP32's memory
_MOST_DATA_KB = 96
_MAX_BITS = 64
_KEYS = {"reserve_kb": MOST_RESERVE_KB, "data_kb": _MOST_DATA_KB}  # and the largest value


@dataclass(frozen=True)
class Manifest:
    """reserve_kb: heap to reserve, 0 leaves it to the board. data_kb: what the data takes."""

    reserve_kb: int = 0
    data_kb: int = 0


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
    _check_keys(path, "", found, ["heap"])
    table = found.get("heap", {})
    if not isinstance(table, dict):
        raise SignetError(f"{path}: heap is no table, expected [heap]")
    _check_keys(path, "heap.", table, list(_KEYS))
    for key, value in table.items():
        # In Python, though not in TOML, true is a number.
        if type(value) is not int or not 0 <= value <= _KEYS[key]:
            # Python writes no decimal number of thousands of digits, and TOML may have one.
            huge = type(value) is int and value.bit_length() > _MAX_BITS
            shown = "a huge number" if huge else reprlib.repr(value)
            raise SignetError(f"{path}: heap.{key} is {shown}, expected 0 to {_KEYS[key]}")
    return Manifest(**table)


def _check_keys(path: Path, table: str, found: dict[str, Any], known: list[str]) -> None:
    unknown = [key for key in found if key not in known]
    if unknown:
        raise SignetError(f"{path}: {table}{unknown[0]} is not known, expected {', '.join(known)}")
