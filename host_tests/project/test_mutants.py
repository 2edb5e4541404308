"""`make mutants`: its lists fit the project, it knows what is a kill, and a sample of them dies."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from host_tests.mutants import lists
from host_tests.tool_helpers import REPO, snapshot

# A file without a mutant has checks that nobody looks after, or none:
PLACES = (
    "boot.py", "main.py", "lib/trust/*.py", "lib/romfs/*.py", "firmware/*.py",
    "firmware/ondemand/*.py", "firmware/ondemand/extras/*.py", "tools/signet/pki/[!_]*.py",
    "tools/signet/fleet/[!_]*.py", "tools/signet/device/sealing/[!_]*.py",
)  # fmt: skip
NO_CHECKS = {
    "firmware/app.py", "firmware/device.py", "firmware/ondemand/memory.py",
    "tools/signet/pki/commands.py", "tools/signet/fleet/commands.py",
    "tools/signet/fleet/folder.py", "tools/signet/fleet/time_server.py",
    "tools/signet/fleet/proxy.py", "tools/signet/fleet/reports.py",
    "firmware/ondemand/extras/rtc.py",
}  # fmt: skip
LOCK = "host_tests/pure/test_lock.py"
GOOD: dict[str, Any] = {
    "why": "a chip that is not known counts as locked",
    "file": "firmware/ondemand/lock.py",
    "old": "        return None\n",
    "new": "        return []\n",
    "tests": [f"{LOCK}::test_names_of_chips"],
}
# What tests start imports the files of the copy, too, whatever its environment.
PROGRAM = """\
import subprocess, sys
def test_program():
    code = "import trust.identity, signet.errors as e; print(trust.identity.RECORD, e.EXIT_REFUSED)"
    assert subprocess.check_output([sys.executable, "-c", code], env={}) == b"51 1\\n"
"""


def write(folder: Path, *entries: dict[str, object]) -> Path:
    """A folder of lists with one; a text as JSON has it is one of TOML."""
    folder.mkdir()
    rows = [
        "[[mutant]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in entry.items())
        for entry in entries
    ]
    (folder / "own.toml").write_text("".join(rows))
    return folder


def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "host_tests.mutants", "--jobs", "2", *map(str, args)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True)


def test_a_sample_dies() -> None:
    done = run("--sample", "3")
    assert done.returncode == 0, done.stdout + done.stderr  # with the seed


def test_the_lists_fit_the_project() -> None:
    """Each text is in its file once, each test is there, and no mutation is listed twice."""
    mutants = lists.read()
    files = {mutant.file for mutant in mutants}
    assert len({(each.file, each.old, each.new) for each in mutants}) == len(mutants)
    guarded = {path.relative_to(REPO).as_posix() for place in PLACES for path in REPO.glob(place)}
    assert sorted(guarded - files) == sorted(NO_CHECKS)


def test_what_counts_as_a_kill(tmp_path: Path) -> None:
    program = tmp_path / "test_program.py"
    program.write_text(PROGRAM)
    tried = [
        (GOOD, "test_lock.py::test_names_of_chips"),
        (GOOD | {"why": "harmless", "new": "        return (None)\n"}, "survived (passed)"),
        (
            GOOD | {"why": "no such module", "old": "import sys\n", "new": "import nothing\n"},
            "survived (the tests could not be collected)",
        ),
        (
            GOOD | {"why": "endless", "new": "        while True: pass\n", "hangs_s": 5},
            "killed by timeout after 5 s",
        ),
        (GOOD | {"why": "not endless", "hangs_s": 60}, "survived (failed)"),
        (
            GOOD | {"why": "tools", "file": "tools/signet/errors.py", "tests": [str(program)]}
            | {"old": "EXIT_REFUSED = 1", "new": "EXIT_REFUSED = 2"},
            "test_program.py::test_program",
        ),
        (
            GOOD | {"why": "lib", "file": "lib/trust/identity.py", "tests": [str(program)]}
            | {"old": "RECORD = const(51)", "new": "RECORD = const(52)"},
            "test_program.py::test_program",
        ),
    ]  # fmt: skip
    before = snapshot(REPO / "firmware") | snapshot(REPO / "lib")
    done = run("--verbose", "--lists", write(tmp_path / "lists", *(entry for entry, _ in tried)))
    lines = [line.split(": ") for line in done.stdout.splitlines() if line[0] != " "]
    ends = {line[-1]: line[0].rpartition("/")[2] for line in lines[:-1]}  # a test has a path
    assert ends == {entry["why"]: end for entry, end in tried}, done.stdout + done.stderr
    assert lines[-1][0].startswith("7 mutants, 3 survived, ")
    assert "    - return None\n    + return (None)\n" in done.stdout
    assert done.returncode == 1
    assert snapshot(REPO / "firmware") | snapshot(REPO / "lib") == before


def test_a_test_that_fails_anyway_kills_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_red.py").write_text("def test_red():\n    raise SystemError\n")
    entry = GOOD | {"tests": [str(tmp_path / "test_red.py")]}
    done = run("--lists", write(tmp_path / "lists", entry))
    assert (done.returncode, done.stdout) == (2, "")
    assert "without a mutation the tests have to pass, but: failed" in done.stderr
    assert "SystemError" in done.stderr


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"old": "no such text"},
            "`old` has to be in firmware/ondemand/lock.py once, it is there 0",
        ),
        ({"old": "return"}, "once, it is there 3 times"),
        ({"old": ""}, "it is there 0 times"),
        ({"new": GOOD["old"]}, "`new` is the same as `old`"),
        ({"new": "        return (\n"}, "lock.py is not Python any more"),
        ({"file": "lib/gone.py"}, "there is no file lib/gone.py"),
        ({"tests": []}, "it names no tests"),
        ({"tests": ["host_tests/test_gone.py"]}, "there is no host_tests/test_gone.py"),
        ({"tests": [f"{LOCK}::test_gone[x]"]}, f"{LOCK} has no test_gone"),
        ({"tests": LOCK}, "missing, not known, or of another type: tests"),
        ({"reason": "x"}, "missing, not known, or of another type: reason"),
    ],
)
def test_a_wrong_entry_is_refused(tmp_path: Path, wrong: dict[str, object], message: str) -> None:
    folder = write(tmp_path / "lists", GOOD, GOOD | wrong)
    with pytest.raises(lists.ListError) as caught:
        lists.read(folder)
    assert f"own.toml, entry 2 ({GOOD['why']}): " in str(caught.value)
    assert message in str(caught.value)


def test_a_choice_that_is_none(tmp_path: Path) -> None:
    done = run("--lists", write(tmp_path / "lists", GOOD), "--only", "no such area")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no mutant is of a list 'no such area'" in done.stderr
