"""`signet test`: a project's own tests, run as its user runs them; and what its fixtures need."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from host_tests.app.conftest import write_project
from host_tests.tool_helpers import mode

TESTS = Path(__file__).with_name("kettle_tests.py")
FAILS = """\
def test_it_fails(board):
    board.wait_for_line("connected to")
    assert board.command("greet", whom="you") == "something else"
"""


@pytest.fixture
def folder(tmp_path):
    folder = write_project(tmp_path / "kettle")
    (folder / "tests").mkdir()
    return folder


def signet_test(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: text for name, text in os.environ.items() if "PYTEST" not in name}
    return subprocess.run(
        [sys.executable, "-m", "signet", "test", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_a_project_s_own_tests_run(folder):
    shutil.copy(TESTS, folder / "tests/test_kettle.py")
    done = signet_test(folder, "-q", "--durations=20")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert re.search(r"^6 passed in ", done.stdout, re.MULTILINE), done.stdout
    assert mode(folder / ".signet") == 0o700
    assert sorted(path.name for path in (folder / ".signet").iterdir()) == ["pki"]


def test_a_failure_shows_the_console_and_refuses(folder):
    (folder / "tests/test_kettle.py").write_text(FAILS)
    done = signet_test(folder, "-q", "tests/test_kettle.py")
    assert done.returncode == 1, done.stderr
    _, shown = done.stdout.split("console of the board")
    assert "signet: slot a verified: 1.0.0" in shown
    assert "assert 'hello you' == 'something else'" in done.stdout


def test_an_application_that_does_not_compile_is_named(folder):
    (folder / "tests/test_kettle.py").write_text("def test_it(board): pass\n")
    (folder / "app.py").write_text("x = 1\ndef run(:\n")
    done = signet_test(folder, "-q")
    assert done.returncode == 1
    assert re.search(r"app\.py: does not compile: .*line 2", done.stdout)
    assert "Traceback" not in done.stdout


def test_no_tests_and_no_project_are_said(folder, tmp_path):
    done = signet_test(folder)
    assert done.returncode == 2
    assert "no tests ran" in done.stdout
    done = signet_test(tmp_path)
    assert done.returncode == 2
    assert "no project: expected signet.toml in it" in done.stderr
