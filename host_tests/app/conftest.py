"""A small project of a user's own, and a bench that runs for the session."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from signet import project
from signet.app import bench, ports
from signet.app.bench import Bench
from signet.project import Project

MANIFEST = """\
[project]
name = "kettle"
model = "kettle"
hardware = "A"
version = "1.0.0"
counter = 1
micropython = "1.25.0"
"""
APP = """\
from micropython import const
from kettle import to_fahrenheit

_PERIOD_S = const(1)
GREETING = "hello"


async def run(device):
    device.commands["greet"] = greet
    device.commands["boil"] = boil
    device.event("begun")
    while True:
        device.telemetry({"fahrenheit": to_fahrenheit(20), "level": device.config.get("level")})
        await device.sleep(_PERIOD_S)


def greet(device, args):
    return GREETING + " " + args["whom"]


def boil(device, args):
    raise ValueError("no water")
"""


def write_project(folder: Path) -> Path:
    (folder / "lib").mkdir(parents=True)
    (folder / "signet.toml").write_text(MANIFEST)
    (folder / "app.py").write_text(APP)
    (folder / "lib/kettle.py").write_text("def to_fahrenheit(c):\n    return c * 9 // 5 + 32\n")
    return folder


@pytest.fixture(scope="session")
def kettle(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project, with its keys."""
    made = project.load(write_project(tmp_path_factory.mktemp("projects") / "kettle"))
    bench.make_state_folder(made)
    return made


@pytest.fixture(scope="session")
def image(kettle: Project) -> bytes:
    """Its first release, signed."""
    return bench.build(kettle)


@pytest.fixture(scope="module")
def kettle_bench(kettle: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    chosen = ports.choose(kettle.servers)
    with Bench(kettle, tmp_path_factory.mktemp("bench"), chosen) as running:
        yield running
