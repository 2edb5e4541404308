"""Stage 1 as it lies on `vfs`: boot.py, main.py, and lib/trust compiled."""

from pathlib import Path

from signet import files
from signet.errors import SignetError
from signet.image import mpy, names

_SCRIPTS = ("boot.py", "main.py")


def compile_stage1(source: Path) -> dict[str, bytes]:
    """Path on `vfs` and content of each file. source: the project folder."""
    library = mpy.python_files(source, ("lib/trust",))
    if not library:
        raise SignetError(f"{source}/lib/trust: no Python files")
    contents = mpy.compile_sources(library)
    for name in _SCRIPTS:
        contents[name] = files.read_file(source / name, "stage 1 file")
    return contents


def known_names(source: Path) -> set[str]:
    """Names that stage 1 has in memory, or may look up, when a slot starts."""
    sources = mpy.python_files(source, ("lib/trust",))
    sources |= {name: source / name for name in _SCRIPTS}
    return names.known_names(mpy.compile_sources(sources))
