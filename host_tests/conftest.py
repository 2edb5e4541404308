"""What the tests share, and each interpreter's own count at the end of a run."""

import os
import platform
import signal
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

REPO = Path(__file__).resolve().parent.parent
PURE = REPO / "host_tests/pure"
TOOLCHAIN = REPO / ".toolchain/bin"
VECTORS_MADE = os.environ.get("SIGNET_VECTORS_MADE")  # by `make mutants`, for all of its runs
# Else of this worker, of this run.
VECTORS = Path(VECTORS_MADE or REPO / f"build/test-vectors-{os.getpid()}.json")

# Helpers with asserts, which then say what they compared.
pytest.register_assert_rewrite("host_tests.firmware.image_server", "host_tests.provisioning.bench")

# Whoever is started by a shell in the background ignores it, and so would what the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Set here for the interpreters that tests start, too. The file is there once a test runs.
os.environ["SIGNET_VECTORS"] = str(VECTORS)


def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`: two for each processor, as many tests wait for a clock or a process."""
    return 2 * len(os.sched_getaffinity(0))


class _ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """A file to a worker, in its order: its tests may share a board.

    But those of burning one by one, for they share nothing and take longest; single tests are given
    out last, so that all workers end at about the same time.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return nodeid if "/test_burn" in path else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ByFile:
    return _ByFile(config, log)


# `make test-quick`. There is no list of quick tests to keep: a file begins with what matters most,
# and of every file some tests run, whatever the machine.


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick",
        type=float,
        metavar="SECONDS",
        help="all pure tests; of every other file the first tests, each with its first parameters, "
        "until they have taken so long; none that is marked slow",
    )


_spent_s: defaultdict[str, float] = defaultdict(float)  # by file, on this worker
_started: set[str] = set()  # tests, without their parameters


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _spent_s[report.nodeid.partition("::")[0]] += report.duration


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    limit_s = item.config.getoption("quick")
    path, name = item.nodeid.partition("[")[0].split("::")
    if limit_s is None or PURE in item.path.parents or name == "test_on_micropython":
        return
    begun = f"{path}::{name}" in _started
    if begun or _spent_s[path] >= limit_s or item.get_closest_marker("slow"):
        pytest.skip("left out by --quick")
    _started.add(f"{path}::{name}")


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
def vectors() -> Iterator[Path]:
    """The file with what pure tests cannot make: keys and signatures, made for this run."""
    if VECTORS_MADE:
        yield VECTORS
        return
    from host_tests.vectors import write  # here: few runs of a single test need it

    VECTORS.parent.mkdir(exist_ok=True)
    write(VECTORS)
    yield VECTORS
    VECTORS.unlink()


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
