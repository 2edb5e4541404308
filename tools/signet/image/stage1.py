"""Stage 1 as it lies on `vfs`: boot.py, main, lib/romfs, and lib/trust as one archive."""

from pathlib import Path

from signet import files
from signet.errors import SignetError
from signet.formats import romfs
from signet.image import mpy, names

ARCHIVE = "stage1.romfs"  # main.py mounts it

# What a slot, of whatever version, may use of stage 1: these names are never shortened in it.
_FOR_SLOTS_TEXT = """
BLOCK_LEN Boot BootState DESCRIPTOR_LEN Descriptor Identity TrustError accept_order active
block_count boot build_time ca certificate check clear clock_floor confirm counter device digest
floor heap identity image image_len key length model number on_trial order platform profile
record refused running sector signature slots stage state status tries trust verify version
"""
FOR_SLOTS = frozenset(_FOR_SLOTS_TEXT.split())


def compile_stage1(source: Path) -> dict[str, bytes]:
    """Path on `vfs` and content of each file. source: the project folder."""
    library, _ = _compile_library(source)
    verifier = {
        name.removeprefix("lib/"): library.pop(name)
        for name in list(library)
        if name.startswith("lib/trust/")
    }
    script = files.read_file(source / "boot.py", "stage 1 file")
    return library | {ARCHIVE: romfs.pack(verifier), "boot.py": script}


def compile_modules(source: Path) -> dict[str, bytes]:
    """Every module of stage 1 as a .mpy file; on a stock board boot.py lies as source."""
    return _compile_library(source)[0] | _compile_boot(source)


def known_names(source: Path) -> tuple[set[str], dict[str, str]]:
    """The names that stage 1 has, or may look up in a slot; and {short: original} of its own."""
    library, short = _compile_library(source)
    return names.known_names(library | _compile_boot(source)), short


def _compile_boot(source: Path) -> dict[str, bytes]:
    """boot.py, which the port wants as source: for its names."""
    return mpy.compile_sources({"boot.py": source / "boot.py"})


def _compile_library(source: Path) -> tuple[dict[str, bytes], dict[str, str]]:
    """main.py, lib/romfs and lib/trust with names short that no slot uses."""
    sources = {"main.py": source / "main.py"}
    for folder in ("lib/romfs", "lib/trust"):
        found = mpy.python_files(source, (folder,))
        if not found:
            raise SignetError(f"{source}/{folder}: no Python files")
        sources |= found
    known = names.known_names(_compile_boot(source))
    return names.shorten_stage1(mpy.compile_sources(sources), known | FOR_SLOTS)
