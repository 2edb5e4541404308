"""What an application may take of a board's heap: its price, and a refused build."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from host_tests.tool_helpers import REPO, Signet
from signet.errors import RefusedError
from signet.image import budget, mpy, slot_image
from signet.project.manifest import beside

pytest_plugins = ["host_tests.tool_fixtures"]

BUILD = ("image", "build", "--version", "1.0.0", "--model", "lamp", "--counter", "1")
APP = "async def run(device):\n    while True:\n        await device.sleep(1)\n"


def write_manifest(folder: Path, text: str) -> Path:
    path = folder / "signet.toml"
    path.write_text(text)
    return path


def test_where_a_manifest_is_looked_for(tmp_path):
    app = tmp_path / "app/app.py"
    app.parent.mkdir()
    assert beside(app, tmp_path) is None
    project = write_manifest(tmp_path, "")
    assert beside(None, tmp_path) == project
    assert beside(app, tmp_path) is None  # that of the project is about its own application
    assert beside(app, tmp_path) != write_manifest(app.parent, "") == beside(app, tmp_path)


def cost_of(tmp_path: Path, text: str, data_kb: int = 0) -> budget.Cost:
    app = tmp_path / "app.py"
    app.write_text(text)
    sources = slot_image.slot_sources(REPO, app)
    return budget.application_cost(sources, mpy.compile_sources(sources), data_kb)


def test_what_makes_an_application_dear(tmp_path):
    plain = cost_of(tmp_path, APP)
    assert cost_of(tmp_path, APP, 3) == budget.Cost(plain.code, plain.names, 3072)
    named = cost_of(tmp_path, APP + "brightness = darkness = 1\n")
    assert named.names == plain.names + 2
    assert cost_of(tmp_path, APP + "outbox = 1\n").names == plain.names  # the agent has that
    # Its methods weigh more than its bytes.
    thing = "class Lamp{}:\n    def run(self): pass\n    def _run(self): pass\n"
    classes = "".join(thing.format(number) for number in range(9))
    dear = cost_of(tmp_path, APP + classes)
    assert dear.code - plain.code >= 27 * 60


def test_modules_that_only_the_application_imports(project, tmp_path):
    firmware = tmp_path / "firmware"
    for name in ("firmware", "lib"):
        for path in (project / name).rglob("*.py"):
            copy = tmp_path / path.relative_to(project)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    (firmware / "agent.py").write_text("from firmware import app\nimport mtls\n")
    (firmware / "app.py").write_text(
        "from . import sensors\nimport mtls\ndef run():\n    from sense import raw\n"
    )
    (firmware / "sensors.py").write_text("import firmware.ondemand.rare\n")
    (firmware / "ondemand").mkdir()
    (firmware / "ondemand/rare.py").write_text("")
    (tmp_path / "lib/sense").mkdir()
    (tmp_path / "lib/sense/__init__.py").write_text("")
    (tmp_path / "lib/sense/raw.py").write_text("")
    (tmp_path / "lib/sense/unused.py").write_text("")
    sources = slot_image.slot_sources(tmp_path)
    agent = budget._reached(sources, "firmware/agent.py", "firmware/app.py")
    assert agent == {"firmware/agent.py", "lib/mtls.py"}
    assert budget._reached(sources, "firmware/app.py") - agent == {
        "firmware/app.py", "firmware/sensors.py", "lib/sense/__init__.py", "lib/sense/raw.py",
    }  # fmt: skip


def test_a_reserve_makes_room_and_takes_it_from_the_network():
    cost = budget.Cost(4000, 10, 4096)
    small, large = (budget.rooms(cost, size, (1, 25, 0)) for size in (16, 32))
    for less, more in zip(small, large, strict=True):
        assert more.left - less.left == 16 * 1024 == less.network - more.network
    assert [room.board.micropython for room in small] == [(1, 25, 0), (1, 26, 0)]
    assert budget.rooms(cost, 0, (1, 25, 0)) == small  # a board reserves that by itself
    assert len(budget.rooms(cost, 16, (1, 26, 0))) == 1
    assert budget.rooms(cost, 16, (1, 29, 0)) == small[-1:]  # the newest that is known


def test_what_does_not_fit_is_refused_with_what_would():
    cost = budget.Cost(8000, 50, 16 * 1024)
    with pytest.raises(RefusedError) as error:
        budget.check_room(cost, 0, (1, 25, 0))
    assert "1.25.0" in str(error.value)
    assert "too many" in str(error.value)
    assert error.value.hint is not None
    wanted = int(error.value.hint.rpartition(" ")[2])
    assert all(room.fits for room in budget.check_room(cost, wanted, (1, 25, 0)))
    with pytest.raises(RefusedError):
        budget.check_room(cost, wanted - 4, (1, 25, 0))


def test_a_reserve_that_leaves_the_network_too_little_is_refused(monkeypatch):
    board = replace(budget.BOARDS[0], network=60_000)  # as much is left by each that is known
    monkeypatch.setattr(budget, "BOARDS", (board,))
    with pytest.raises(RefusedError, match="48 KB reserved leave the network"):
        budget.check_room(budget.Cost(0, 0, 0), 48, (1, 25, 0))
    with pytest.raises(RefusedError) as error:
        budget.check_room(budget.Cost(0, 0, 60 * 1024), 0, (1, 25, 0))
    assert error.value.hint == "no board has that; make code or data smaller"


def test_the_build_says_what_is_left_and_signs_the_reserve(signet: Signet, tmp_path: Path):
    app = tmp_path / "app.py"
    app.write_text(APP)
    write_manifest(tmp_path, "[heap]\nreserve_kb = 20\ndata_kb = 4\n")
    done = signet(*BUILD, "--app", app, "-o", "out.unsigned")
    assert done.returncode == 0, done.stderr
    first, costs, *rooms = done.stdout.splitlines()
    assert first.endswith("unsigned")
    assert costs.startswith("  the application takes 4.")
    assert costs.endswith("data 4.0")
    assert [line.split(":")[0] for line in rooms] == [
        "  MicroPython 1.25.0, 20 KB reserved", "  MicroPython 1.26.0, 20 KB reserved",
    ]  # fmt: skip
    shown = json.loads(signet("image", "inspect", "--json", "out.unsigned").stdout)
    assert shown["heap_kb"] == 20


def test_the_build_refuses_and_writes_nothing(signet: Signet, tmp_path: Path):
    app = tmp_path / "app.py"
    app.write_text(APP)
    other = tmp_path / "other.toml"
    other.write_text("[heap]\ndata_kb = 24\n")
    done = signet(*BUILD, "--app", app, "--manifest", other, "-o", "out.unsigned")
    assert done.returncode == 1
    assert "which does not fit" in done.stderr
    assert "hint: signet.toml: [heap]" in done.stderr
    other.write_text("[heap]\nreserve = 20\n")
    done = signet(*BUILD, "--app", app, "--manifest", other, "-o", "out.unsigned")
    assert done.returncode == 2
    assert "heap.reserve is not known, expected reserve_kb, data_kb" in done.stderr
    assert not (tmp_path / "out.unsigned").exists()


def test_the_room_that_the_documents_name():
    """| reserve | heap, bytes | room and network of each board, KB |, rounded down."""
    text = Path(REPO, "docs/design.md").read_text()
    table = re.findall(r"^\| (\d+) \| ([\d,]+) \| ([\d. |]+) \|$", text, re.MULTILINE)
    assert len(table) == 5
    for reserve, heap, figures in table:
        found = budget.rooms(budget.Cost(0, 0, 0), int(reserve), (1, 25, 0))
        assert int(heap.replace(",", "")) == budget.FIRST_SEGMENT + int(reserve) * 1024
        said = [float(figure) for figure in figures.split(" | ")]
        for room in found:
            for length in (room.left, room.network):
                assert said.pop(0) == int(length / 1024 * 10) / 10
        assert said == []


def test_the_default_of_the_board_is_that_of_the_tools():
    agent = Path(REPO, "firmware/ondemand/start.py").read_text()
    assert f"_HEAP_KB = const({budget.DEFAULT_RESERVE_KB})" in agent
