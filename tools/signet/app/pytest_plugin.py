"""Fixtures for a project's own tests: `board`, `fleet` and `power`. `signet test` runs them.

    def test_it_reports(board):
        assert board.telemetry()["celsius"] > 0

    def test_the_next_version_stays(board, fleet):
        version = fleet.publish()
        fleet.wait_for_update("confirmed")
        assert board.state(version=version)["slot"] == "b"

    def test_it_goes_on_after_a_power_cut(board, power):
        power.cut()
        power.restore()
        assert board.telemetry()

The project's folder, its `lib` and its packages are on the path of imports: what needs no board is
tested with `import app` alone, on CPython. pytest finds this plug-in by itself, and it does nothing
outside of a project.
"""

import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # nothing of it is loaded before a test asks for a board
    from signet.app.bench import Bench
    from signet.app.board import ProjectBoard
    from signet.app.handles import FleetHandle, PowerHandle

_MANIFEST = "signet.toml"
_SHOWN_LINES = 60


def find_project(start: Path) -> Path | None:
    """The folder with signet.toml, `start` or one above it."""
    return next((path for path in (start, *start.parents) if (path / _MANIFEST).is_file()), None)


def pytest_configure(config: pytest.Config) -> None:
    folder = find_project(config.rootpath)
    if folder is None:
        return
    from signet import project
    from signet.errors import SignetError

    try:
        ours = project.load(folder)
        sys.path[:0] = map(str, [ours.folder, *project.libraries(ours)])
    except SignetError as error:
        raise pytest.UsageError(_explained(error)) from error


@pytest.fixture(scope="session")
def signet_bench(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> "Iterator[Bench]":
    """The servers of this run, with the keys of the project's `.signet`."""
    from signet import project
    from signet.app import bench, ports
    from signet.errors import SignetError

    folder = find_project(request.config.rootpath)
    if folder is None:
        pytest.fail(f"{request.config.rootpath}: no {_MANIFEST} here or above", pytrace=False)
    try:
        found = project.load(folder)
        bench.make_state_folder(found)
        running = bench.Bench(found, tmp_path_factory.mktemp("signet"), ports.choose(found.servers))
        running.__enter__()
    except SignetError as error:
        pytest.fail(_explained(error), pytrace=False)
    yield running
    running.__exit__()


@pytest.fixture(scope="session")
def signet_image(signet_bench: "Bench") -> bytes:
    """A signed dev image of the project, with which boards are provisioned."""
    from signet.app import bench
    from signet.errors import SignetError

    try:
        return bench.build(signet_bench.project)
    except SignetError as error:
        pytest.fail(_explained(error), pytrace=False)


@pytest.fixture
def board(
    signet_bench: "Bench", signet_image: bytes, tmp_path_factory: pytest.TempPathFactory
) -> "Iterator[ProjectBoard]":
    """A virtual board that runs the application and is connected: a new one for each test.

    telemetry(), event(name)   the next of its reports since it was switched on, each once, in
                               order; with fields that are wanted: event("update", result="trying")
    state(**fields)            its state since it was switched on
    command(name, **args)      the result; signet.app.board.CommandError if the board says no
    configure({…})             new configuration, the same error
    lines, wait_for_line(text) its console since it was switched on
    """
    folder = tmp_path_factory.mktemp("board")
    made = signet_bench.make_board(f"test-{signet_bench.take_number()}", folder, signet_image)
    with made:
        made.start(record_flash=True)
        yield made
    signet_bench.network.bring_back()


@pytest.fixture
def fleet(board: "ProjectBoard", signet_bench: "Bench") -> "FleetHandle":
    """The servers, with the board of this test.

    publish(version, app)      build, sign and order the next version; version: else one is made
                               from the project's; app: a file, or the text of one, instead of
                               app.py. Returns the version
    wait_for_update(result)    that the board reports so; at once an error if it ends otherwise
    reports()                  all that the board has reported: (kind, report)
    """
    from signet.app.handles import FleetHandle

    return FleetHandle(signet_bench, board)


@pytest.fixture
def power(board: "ProjectBoard") -> "PowerHandle":
    """The board's power, reset button and network.

    cut(), restore()           take the power away, give it back and wait for the connection
    reset()                    press reset; the same as a short cut, as on the chip
    operations()               flash operations since it was switched on, in order
    cut_at(number, torn)       switch it off and on, and cut the power at this flash operation,
                               counted from 1; of it `torn` bytes are done. `restore` after it
    drop_network(), return_network()
    """
    from signet.app.handles import PowerHandle

    return PowerHandle(board)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, object, None]:
    """What failed has the end of the board's console with it."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]  # pluggy's Result
    made = getattr(item, "funcargs", {}).get("board")
    lines = getattr(made, "lines", None)
    if report.when == "call" and report.failed and lines:
        report.sections.append(("console of the board", "\n".join(lines[-_SHOWN_LINES:])))


def _explained(error: Exception) -> str:
    hint = getattr(error, "hint", None)
    return f"{error}\nhint: {hint}" if hint else str(error)
