"""boot.py and main.py under CPython: their ways out, what they mount, what RTC memory says."""

import importlib.util
import runpy
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from host_tests.played import Machine
from trust import TrustError

REPO = Path(__file__).resolve().parents[2]


class Reset(BaseException):
    """Where a board would restart."""


def returns(value: object) -> Callable[[], object]:
    return lambda: value


def raises(error: BaseException) -> Callable[[], object]:
    def run() -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("run", "done"),
    [
        (returns(True), []),
        (returns(False), ["reset"]),
        (returns(None), ["reset"]),
        (returns(1), ["reset"]),
        (returns("console"), ["reset"]),
        (raises(ValueError()), ["ValueError is kept", "reset"]),
        (raises(KeyboardInterrupt()), ["KeyboardInterrupt is kept", "reset"]),
        (raises(SystemExit()), ["SystemExit is kept", "reset"]),
        (raises(OSError("cannot be kept")), ["reset"]),
    ],
)
def test_one_way_out_of_boot_py_leaves_the_console_open(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, run: Callable[[], object], done: list[str]
) -> None:
    events: list[str] = []

    def keep(error: BaseException) -> None:
        if isinstance(error, OSError):
            raise error
        events.append(f"{type(error).__name__} is kept")

    def reset() -> None:
        events.append("reset")
        raise Reset

    main, micropython = ModuleType("main"), ModuleType("micropython")
    main.run, main.note_failure = run, keep  # type: ignore[attr-defined]
    micropython.kbd_intr = lambda key: events.append(f"shut for {key}")  # type: ignore[attr-defined]
    monkeypatch.setattr(machine, "reset", reset, raising=False)
    for module in (main, micropython, machine):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    with suppress(Reset):
        runpy.run_path(str(REPO / "boot.py"))
    assert events == ["shut for -1", *done]


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def stage1(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> Any:
    """main.py with played `machine`, up to where it looks for a slot."""
    for name in ("esp32", "vfs"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules["esp32"], "Partition", None, raising=False)
    monkeypatch.setitem(sys.modules, "machine", machine)
    spec = importlib.util.spec_from_file_location("stage1_main", REPO / "main.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda _: None))
    return module


@pytest.mark.parametrize("memory", [b"", b"console", b"0 ", b"3 x", b"console ", b"\xff"])
def test_no_failure_can_be_taken_for_the_service_console(
    stage1: Any, machine: Machine, memory: bytes
) -> None:
    class console(Exception):
        pass

    for text in ("", "console", "\0", " " * 300, "x" * 300):
        for kind in (console, ValueError, KeyboardInterrupt):
            machine.memory = memory
            stage1.note_failure(kind(text))
            assert machine.memory != b"console"
            assert machine.memory.startswith(memory.partition(b" ")[0] + b" ")  # the restarts
            assert len(machine.memory) <= 300  # RTC memory has 2 KB


def test_only_the_flag_opens_the_console_and_it_is_cleared_first(
    stage1: Any, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_slot() -> None:
        raise LookupError

    monkeypatch.setattr(stage1, "_mount_slot", no_slot)
    machine.memory = b"console"
    assert stage1.run() is True
    assert machine.memory == b"0 console was open"
    for memory in (machine.memory, b"", b"0 console", b"console ", b" console", b"console\0"):
        machine.memory = memory
        with pytest.raises(LookupError):
            stage1.run()
        assert machine.memory == memory


@pytest.fixture
def found(stage1: Any, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A board with a slot that is sound; events: what was done to it, in order."""
    boot = SimpleNamespace(record={"watchdog_s": 30}, slots=("a", "b"), running=1, version="1")
    found: Any = SimpleNamespace(boot=boot, events=[], identity=["identity"])

    class Partition:
        def __init__(self, label: str):
            self.label = label

        @staticmethod
        def find(kind: int, label: str) -> Any:
            assert (kind, label) == (0x3F, "esp_secure_cert")
            return found.identity

    def note(name: str) -> Any:
        return lambda *args, **keywords: found.events.append((name, *args, *keywords.items()))

    monkeypatch.setattr(stage1, "Partition", Partition)
    monkeypatch.setattr(sys.modules["vfs"], "mount", note("mount"), raising=False)
    monkeypatch.setattr("trust.boot.select", lambda *_: (boot, 8192))
    monkeypatch.setattr("trust.state.BootState", lambda _: None)
    monkeypatch.setattr(machine, "WDT", note("watchdog"), raising=False)
    monkeypatch.setattr(stage1, "Archive", lambda *args: args)
    return found


def test_the_verified_slot_alone_is_mounted_and_under_the_watchdog(stage1: Any, found: Any) -> None:
    assert stage1._mount_slot()[0] is found.boot
    assert found.events == [
        ("watchdog", ("timeout", 30_000)),
        ("mount", ("b", 4096, 8192), "/slot", ("readonly", True)),
    ]


def test_without_an_identity_nothing_runs(stage1: Any, found: Any) -> None:
    found.identity = []
    with pytest.raises(TrustError, match="no esp_secure_cert partition"):
        stage1._mount_slot()
    assert found.events == []


@pytest.mark.parametrize(
    ("profile", "ended", "opens"), [(0, True, True), (0, None, False), (1, True, False)]
)
def test_what_a_slot_runs_comes_out_of_it_and_ctrl_c_ends_a_dev_image_only(
    stage1: Any, monkeypatch: pytest.MonkeyPatch, profile: int, ended: bool, opens: bool
) -> None:
    board_path = [".frozen", "", "/lib", "/stage1"]

    def run(*_: object) -> bool:
        assert sys.path == ["/slot", ".frozen"]
        return ended

    on_demand, agent, package = (ModuleType("firmware") for _ in range(3))
    on_demand.unload = lambda: None  # type: ignore[attr-defined]
    agent.run = run  # type: ignore[attr-defined]
    package.agent = agent  # type: ignore[attr-defined]
    for module, name in ((package, ""), (on_demand, ".ondemand"), (agent, ".agent")):
        monkeypatch.setitem(sys.modules, "firmware" + name, module)
    monkeypatch.setattr(stage1, "_mount_slot", lambda: (SimpleNamespace(profile=profile), None))
    with monkeypatch.context() as patched:
        patched.setattr(sys, "path", board_path)
        assert bool(stage1.run()) is opens
