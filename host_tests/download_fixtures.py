"""Fixtures for the tests of the download: the firmware with less patience."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from host_tests.image_server import STALL_S, Result

# No pauses between attempts, and short patience: everything else is as on a board.
WAITS: dict[str, dict[str, float]] = {
    "download.py": {"_STALL_S": STALL_S},
    "updater.py": {"_BACKOFF_S": 0},
}


@pytest.fixture(scope="session")
def firmware(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the firmware that waits less: const() cannot be patched."""
    folder = tmp_path_factory.mktemp("patient")
    shutil.copytree(repo / "firmware", folder / "firmware")
    for name, values in WAITS.items():
        path = folder / "firmware" / name
        text = path.read_text()
        for constant, value in values.items():
            text, count = re.subn(rf"(?m)^{constant} = .*$", f"{constant} = {value}", text)
            assert count == 1, constant
        path.write_text(text)
    return folder


@pytest.fixture
def update(repo: Path, firmware: Path, micropython: Path) -> Callable[..., Result]:
    """Run the board's updater against a port, with an order by its name in vectors.py."""

    def run(port: int, order: str = "good", restarts: int = 0) -> Result:
        started = time.monotonic()
        done = subprocess.run(
            [micropython, "-X", "heapsize=128wK", repo / "host_tests/pure/update_client.py",
             repo, firmware, str(port), order, str(restarts)],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        result = Result(**json.loads(done.stdout.splitlines()[-1]))
        result.took_s = time.monotonic() - started
        return result

    return run
