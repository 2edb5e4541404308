"""Symbol maps: the file beside an image that says what its short names stand for."""

import hashlib
import json
from pathlib import Path

from signet import files
from signet.errors import SignetError
from signet.formats.documents import load_object
from signet.image import slot_image
from signet.image.slot_image import Build, Release

_FILE = files.Kind(
    "a symbol map", lambda head: head.startswith(b"{") and b'"image"' in head and b'"names"' in head
)


def map_path(image: Path) -> Path:
    """Where the map of an image lies: x.img.symbols beside x.img."""
    return image.with_name(image.name + ".symbols")


def write_build(path: Path, release: Release, build: Build, image: bytes | None = None) -> None:
    """Write an image, and its map if names were shortened; a map of an older build goes.

    image: the build, signed; None: unsigned, as it is. If it cannot be written, the map is as it
    was.
    """
    symbols = map_path(path)
    before = files.read_file(symbols, "symbol map") if symbols.is_file() else None
    content = {
        "version": release.version,
        "model": release.model,
        "image": hashlib.sha256(build.content).hexdigest(),  # unsigned
        "names": build.names,
    }
    _put(symbols, (json.dumps(content, indent=1) + "\n").encode() if build.names else None)
    try:
        files.replace_file(path, build.content if image is None else image, slot_image.FILE)
    except BaseException:
        _put(symbols, before)
        raise


def _put(path: Path, content: bytes | None) -> None:
    if content is None:
        files.remove_file(path, _FILE)
    else:
        files.replace_file(path, content, _FILE)


def read_map(path: Path) -> dict[str, str]:
    """{short: original} of a map; SignetError for a file that is none."""
    try:
        content = load_object(files.read_file(path, "symbol map"))
        names = content["names"]
    except (ValueError, TypeError, KeyError) as error:
        raise _no_map(path) from error
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise _no_map(path)
    return names


def _no_map(path: Path) -> SignetError:
    return SignetError(
        f"{path}: no symbol map: expected JSON with 'names'",
        "`signet image build -o x.img` writes x.img.symbols",
    )
