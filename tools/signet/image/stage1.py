"""Stage 1 as it lies on `vfs`: boot.py, main.py, and lib/trust compiled."""

from pathlib import Path

from signet import files
from signet.errors import SignetError
from signet.image import mpy, names

_SCRIPTS = ("boot.py", "main.py")


def compile_stage1(source: Path) -> dict[str, bytes]:
    """Path on `vfs` and content of each file. source: the project folder."""
    contents, _ = _compile_library(source, _compile_scripts(source))
    for name in _SCRIPTS:
        contents[name] = files.read_file(source / name, "stage 1 file")
    return contents


def known_names(source: Path) -> tuple[set[str], dict[str, str]]:
    """The names that stage 1 has, or may look up in a slot; and {short: original} of its own."""
    scripts = _compile_scripts(source)
    library, short = _compile_library(source, scripts)
    return names.known_names(library | scripts), short


def _compile_scripts(source: Path) -> dict[str, bytes]:
    return mpy.compile_sources({name: source / name for name in _SCRIPTS})


def _compile_library(
    source: Path, scripts: dict[str, bytes]
) -> tuple[dict[str, bytes], dict[str, str]]:
    """lib/trust with its private names short: no slot knows them, of whatever version."""
    library = mpy.python_files(source, ("lib/trust",))
    if not library:
        raise SignetError(f"{source}/lib/trust: no Python files")
    return names.shorten_private(mpy.compile_sources(library), names.known_names(scripts))
