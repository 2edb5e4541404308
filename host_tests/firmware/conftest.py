"""Fixtures for the tests of the firmware: played time, a hasty updater, a world around a board.

`world` needs the plugins for the tools and the fleet, too.
"""

import asyncio
import contextlib
import functools
import importlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from host_tests.firmware.image_server import PATIENCE_S, Result
from host_tests.firmware.posts import Posts
from host_tests.firmware.world import SLEEPER, World
from host_tests.played import Load, Machine, Ticks
from signet.fleet.proxy import Proxy
from signet.fleet.serving import Fleet
from signet.fleet.session import EVERYTHING_DEVICES_SAY, OperatorSession


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def load(
    monkeypatch: pytest.MonkeyPatch, machine: Machine, ticks: Ticks, tmp_path: Path
) -> Iterator[Load]:
    """Import a module of the firmware with played time, `machine`, and files in `tmp_path`."""

    def load(name: str) -> ModuleType:
        module = importlib.import_module("firmware." + name)
        if hasattr(module, "time"):
            monkeypatch.setattr(module, "time", ticks)
        if hasattr(module, "asyncio"):
            played = SimpleNamespace(
                create_task=asyncio.create_task, sleep=ticks.sleep, sleep_ms=ticks.sleep_ms
            )
            monkeypatch.setattr(module, "asyncio", played)
        for attribute in ("_PATH", "_CONFIG_PATH"):
            path = getattr(module, attribute, str(tmp_path))
            if not path.startswith(str(tmp_path)):
                monkeypatch.setattr(module, attribute, str(tmp_path) + path)
        return module

    before = {name for name in sys.modules if name.startswith("firmware")}
    monkeypatch.setitem(sys.modules, "machine", machine)
    # It would drop `trust`, of which other tests in this process have classes.
    monkeypatch.setattr(importlib.import_module("firmware.ondemand"), "unload", lambda: None)
    yield load
    for name in list(reversed(sys.modules)):  # what a package holds before the package
        if name.startswith("firmware.") and name not in before:
            parent, _, child = name.rpartition(".")
            if parent in sys.modules:  # what a test put in place itself has none
                vars(sys.modules[parent]).pop(child, None)
            del sys.modules[name]


@pytest.fixture
def posts() -> Posts:
    return Posts()


@pytest.fixture
def device(load: Load, posts: Posts) -> SimpleNamespace:
    """What an application is given; posts: the agent behind it."""
    found: SimpleNamespace = load("device").Device(posts)
    load("ondemand.control").load_config(found)
    return found


@contextlib.contextmanager
def make_world(keys: Path, fleet: Fleet, folder: Path, app: str | None = None) -> Iterator[World]:
    """A board that is off, and its servers."""
    targets = {"broker": fleet.broker.port, "images": fleet.images_port}
    with (
        Proxy(targets) as proxy,
        OperatorSession(keys, fleet.addresses["operators"], EVERYTHING_DEVICES_SAY) as operator,
    ):
        world = World(folder, keys, fleet, proxy, operator, app)
        with world.board:
            yield world


@pytest.fixture(scope="module")
def world(keys: Path, fleet: Fleet, tmp_path_factory) -> Iterator[World]:
    with make_world(keys, fleet, tmp_path_factory.mktemp("world")) as world:
        world.board.power_on(record_flash=True)
        world.wait_for_state(0, version="1.0.0", status="confirmed")
        yield world


@pytest.fixture(scope="module")
def sleeper(keys: Path, fleet: Fleet, tmp_path_factory) -> Iterator[World]:
    """A board whose application sleeps; off."""
    with make_world(keys, fleet, tmp_path_factory.mktemp("sleeper"), SLEEPER) as world:
        yield world


@pytest.fixture(scope="session")
def firmware(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], Path]:
    """Folders with a copy of the firmware that has another patience: const() cannot be patched."""

    @functools.cache
    def make(stall_s: float) -> Path:
        folder = tmp_path_factory.mktemp("patient")
        shutil.copytree(repo / "firmware", folder / "firmware")
        # No pauses between attempts; everything else is as on a board.
        for name, constant, value in (
            ("download.py", "_STALL_S", stall_s), ("updater.py", "_BACKOFF_S", 0)
        ):  # fmt: skip
            path = folder / "firmware/ondemand" / name
            new = f"{constant} = {value}"
            text, count = re.subn(rf"(?m)^{constant} = .*$", new, path.read_text())
            assert count == 1, constant
            path.write_text(text)
        return folder

    return make


@pytest.fixture
def update(
    repo: Path, firmware: Callable[[float], Path], micropython: Path
) -> Callable[..., Result]:
    """Run the board's updater against a port, with an order by its name in vectors.py.

    stall_s: how long it waits for a block; few seconds only where that is what a test is about.
    """

    def run(
        port: int,
        order: str = "good",
        restarts: int = 0,
        stall_s: float = PATIENCE_S,
        lack: str = "",
        guess: int = 0,
    ) -> Result:
        started = time.monotonic()
        done = subprocess.run(
            [micropython, "-X", "heapsize=128wK", repo / "host_tests/pure/update_client.py",
             repo, firmware(stall_s), str(port), order, str(restarts), lack, str(guess)],
            capture_output=True, text=True, timeout=2 * PATIENCE_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        result = Result(**json.loads(done.stdout.splitlines()[-1]))
        result.took_s = time.monotonic() - started
        return result

    return run
