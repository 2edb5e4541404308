"""The pure tests once more, under MicroPython, with an ESP32's heap.

host_tests/pure/test_*.py are plain functions without fixtures: pytest runs them under CPython as
they are, and this file runs each of them under MicroPython and reports it as a test of its own.
"""

import ast
import functools
import re
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
RUNNER = REPO / "host_tests/mp_runner.py"
# Twice an ESP32's first heap segment: here the code is compiled in the interpreter, and the
# simulators are in it too. That the firmware itself fits is shown on the virtual board.
HEAP = "128wK"
TIMEOUT_S = 240

RESULT = re.compile(r"^@@ (passed|failed) (\w+)$", re.MULTILINE)


def find_tests() -> list[tuple[str, str]]:
    """(module, function) of every pure test, read from the source as pytest would collect it."""
    return [
        (path.stem, node.name)
        for path in sorted((REPO / "host_tests/pure").glob("test_*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test")
    ]


@functools.cache
def run_module(micropython: Path, module: str) -> tuple[dict[str, tuple[str, str]], str]:
    """Run all tests of a module in one interpreter.

    Returns what each test reported, by name: "passed" or "failed" and what it printed; and how the
    interpreter ended, with its last words.
    """
    names = [name for owner, name in find_tests() if owner == module]
    command = [str(micropython), "-X", f"heapsize={HEAP}", str(RUNNER), str(REPO), module, *names]
    try:
        done = subprocess.run(
            command, cwd=REPO, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=TIMEOUT_S,
        )  # fmt: skip
        output, end = done.stdout, f"exit status {done.returncode}"
    except subprocess.TimeoutExpired as error:
        output, end = error.stdout or b"", f"killed after {TIMEOUT_S} s"
    printed, *rest = RESULT.split(output.decode(errors="replace"))
    reports = {}
    for result, name, after in zip(rest[0::3], rest[1::3], rest[2::3], strict=True):
        reports[name] = (result, printed.strip())
        printed = after
    return reports, f"{end}\n{printed.strip()}"


@pytest.mark.parametrize(("module", "name"), find_tests())
@pytest.mark.usefixtures("vectors")
def test_on_micropython(micropython: Path, module: str, name: str) -> None:
    reports, end = run_module(micropython, module)
    result, printed = reports.get(name, ("did not run", end))
    if result != "passed":
        pytest.fail(f"{module}.{name} {result} under MicroPython:\n{printed}", pytrace=False)
