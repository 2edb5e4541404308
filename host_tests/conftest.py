"""What the tests share, and each interpreter's own count at the end of a run."""

import os
import platform
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
PURE = REPO / "host_tests/pure"
TOOLCHAIN = REPO / ".toolchain/bin"
VECTORS = REPO / f"build/test-vectors-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}.json"

# Helpers with asserts, which then say what they compared.
pytest.register_assert_rewrite("host_tests.image_server", "host_tests.provisioning_bench")

# Whoever is started by a shell in the background ignores it, and so would what the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Set here for the interpreters that tests start, too. The file is there once a test runs.
os.environ["SIGNET_VECTORS"] = str(VECTORS)


def find_program(name: str) -> Path:
    path = TOOLCHAIN / name
    if not path.exists():
        pytest.fail(f"{path} is missing: run `make setup`", pytrace=False)
    return path


@pytest.fixture(scope="session")
def repo() -> Path:
    """The folder of the project."""
    return REPO


@pytest.fixture(scope="session")
def micropython() -> Path:
    """MicroPython's unix port."""
    return find_program("micropython")


@pytest.fixture(scope="session")
def mosquitto() -> Path:
    """The broker; mosquitto_pub and mosquitto_sub are beside it."""
    return find_program("mosquitto")


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The file with what pure tests cannot make: keys and signatures, made for this run."""
    from host_tests.vectors import write  # here: few runs of a single test need it

    VECTORS.parent.mkdir(exist_ok=True)
    write(VECTORS)
    return VECTORS


@pytest.fixture(autouse=True)
def _vectors_for_pure_tests(request: pytest.FixtureRequest) -> None:
    """Pure tests have no fixtures: they find the file in SIGNET_VECTORS."""
    if PURE in request.path.parents:
        request.getfixturevalue("vectors")


def micropython_version() -> str:
    print_version = "import sys; print('.'.join(map(str, sys.implementation.version[:3])))"
    command = [str(TOOLCHAIN / "micropython"), "-c", print_version]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "(missing)"  # and every test that needs it has failed


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: dict[str, Counter[str]] = {"CPython": Counter(), "MicroPython": Counter()}
    for outcome in ("passed", "failed", "error", "skipped", "xfailed"):
        for report in terminalreporter.stats.get(outcome, []):
            interpreter = "MicroPython" if "::test_on_micropython[" in report.nodeid else "CPython"
            counts[interpreter][outcome] += 1
    versions = {"CPython": platform.python_version(), "MicroPython": micropython_version()}
    line = " · ".join(
        f"{name} {versions[name]}: {count['passed']} passed"
        + "".join(
            f", {number} {outcome}" for outcome, number in count.items() if outcome != "passed"
        )
        for name, count in counts.items()
    )
    terminalreporter.write_line(line, bold=True)
