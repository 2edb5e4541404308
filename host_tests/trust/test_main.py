"""main.py under CPython: what RTC memory says, and what may not be taken for it."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from host_tests.played import Machine


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
    path = Path(__file__).resolve().parents[2] / "main.py"
    spec = importlib.util.spec_from_file_location("stage1_main", path)
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
            assert b" " in machine.memory


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
