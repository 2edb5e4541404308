"""The projects of docs/examples: each can be taken, passes its tests, and costs what it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from host_tests.tool_helpers import REPO
from signet.project import new

EXAMPLES = sorted(path.parent for path in (REPO / "docs/examples").glob("*/signet.toml"))
_TAKES = re.compile(r"[Oo]f heap it takes ([0-9.]+) KB|the application takes ([0-9.]+) KB of heap")
_MAY_DIFFER_KB = 0.3  # names that the agent gains or loses


def takes_kb(text: str) -> float:
    found = _TAKES.search(text)
    assert found, text
    return float(found[1] or found[2])


def run(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_there_are_some():
    assert {"battery", "relay", "thermometer"} <= {folder.name for folder in EXAMPLES}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda folder: folder.name)
def test_an_example_costs_what_it_says(tmp_path: Path, example: Path):
    new.from_folder(tmp_path / "gadget", example)
    said = takes_kb((example / "README.md").read_text())
    built = takes_kb(run(tmp_path / "gadget", "signet", "build"))
    assert abs(said - built) <= _MAY_DIFFER_KB


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda folder: folder.name)
def test_an_example_passes_its_own_tests(tmp_path: Path, example: Path):
    new.from_folder(tmp_path / "gadget", example)
    run(tmp_path / "gadget", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")
