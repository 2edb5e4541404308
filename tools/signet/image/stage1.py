"""Stage 1 as it lies on `vfs`: two scripts, lib/romfs, and lib/trust as one archive."""

from pathlib import Path

from signet import files
from signet.errors import SignetError
from signet.formats import romfs
from signet.image import mpy

ARCHIVE = "stage1.romfs"  # main.py mounts it


def compile_stage1(source: Path) -> dict[str, bytes]:
    """Path on `vfs` and content of each file. source: the project folder."""
    for folder in ("lib/trust", "lib/romfs"):
        if not mpy.python_files(source, (folder,)):
            raise SignetError(f"{source}/{folder}: no Python files")
    contents = mpy.compile_sources(mpy.python_files(source, ("lib/romfs",)))
    verifier = mpy.compile_sources(mpy.python_files(source, ("lib/trust",)))
    contents[ARCHIVE] = romfs.pack(
        {name.removeprefix("lib/"): code for name, code in verifier.items()}
    )
    for name in ("boot.py", "main.py"):
        contents[name] = files.read_file(source / name, "stage 1 file")
    return contents
