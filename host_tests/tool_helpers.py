"""What the tests of the tools share, beside the fixtures in tool_fixtures.py."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from signet.device.settings import Settings
from signet.image import slot_image

REPO = Path(__file__).resolve().parent.parent
RELEASE = slot_image.Release("1.0.0", "signet-demo", 1, (1, 25, 0), 1_700_000_000)
SETTINGS = Settings(
    "dev-0001", "signet-demo", "A1", "localhost:8883", "localhost:8443", "localhost:123", 30
)

Signet = Callable[..., subprocess.CompletedProcess[str]]  # the program, see the fixture `signet`


def run_program(name: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program from this Python's folder: the oracles that no one here wrote."""
    command = [str(Path(sys.executable).parent / name), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder and its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777
