"""What a start reports, under CPython: firmware.report, and what main.py leaves in RTC memory."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from host_tests.played import Load, Machine

pytest_plugins = ["host_tests.firmware_fixtures"]


class Agent:
    """What `report` asks of the agent; posted: the events."""

    def __init__(self, refused: list[Any], on_trial: bool = False):
        self.on_trial = on_trial
        self.boot = SimpleNamespace(
            record={"profile": 1},
            refused=refused,
            slots=(Unreadable(), Unreadable()),
            running=1,
            version="1.1.0",
        )
        self.device = self
        self.posted: list[dict[str, Any]] = []

    def event(self, name: str, **details: object) -> None:
        self.posted.append({"event": name} | details)

    def report(self, result: str, **details: object) -> None:
        self.event("update", result=result, **details)


class Unreadable:
    def readblocks(self, *_: object) -> None:
        raise OSError(5)


@pytest.mark.parametrize(
    ("memory", "restarts", "kept", "reason"),
    [
        (b"", 0, b"1 ", ""),
        (b"0 restart into 1.1.0", 0, b"1 ", "restart into 1.1.0"),
        (b"2 TaskError: app: ended", 2, b"3 ", "TaskError: app: ended"),
        (b"99 x", 99, b"99 ", "x"),
        (b"junk", 0, b"1 ", ""),
    ],
)
def test_restarts_are_counted(
    load: Load, machine: Machine, memory: bytes, restarts: int, kept: bytes, reason: str
) -> None:
    machine.memory = memory
    agent = Agent([])
    assert load("report").report_boot(agent) == restarts
    assert machine.memory == kept
    assert agent.posted == [{"event": "boot", "cause": 1, "reason": reason}]


def test_what_stage_1_passed_over_is_reported(load: Load, machine: Machine) -> None:
    machine.memory, machine.cause = b"1 half a reason", Machine.WDT_RESET
    agent = Agent([(1, True, "no tries left"), (0, False, "altered")], on_trial=True)
    load("report").report_boot(agent)
    why = "no tries left; last: watchdog"
    assert agent.posted == [
        {"event": "boot", "cause": 3, "reason": "watchdog"},
        {"event": "update", "result": "trying", "version": "1.1.0"},
        {"event": "update", "result": "rolled-back", "version": None, "reason": why},
        {"event": "security", "reason": "slot a: altered"},
    ]


def test_outbox_keeps_the_latest_telemetry_and_all_events(load: Load) -> None:
    agent = load("agent").Agent
    queue = SimpleNamespace(outbox=[], wake=SimpleNamespace(set=lambda: None))
    for number in range(9):
        agent.post(queue, "telemetry", number, 0)
        agent.post(queue, "event", number, 1)
    assert [entry[1] for entry in queue.outbox if not entry[2]] == [5, 6, 7, 8]
    assert [entry[1] for entry in queue.outbox if entry[2]] == list(range(9))
    for number in range(9, 40):
        agent.post(queue, "event", number, 1)
    assert [entry[1] for entry in queue.outbox] == list(range(16, 40))


@pytest.mark.parametrize("profile", [0, 1, 2])
def test_a_board_that_is_not_locked_says_so_at_each_start(
    load: Load, machine: Machine, profile: int
) -> None:
    report, agent = load("report"), Agent([])
    agent.boot.record["profile"] = profile
    report.report_boot(agent)
    assert [event["event"] for event in agent.posted] == ["boot"]
    machine.mem32[0x3FF5A018] &= ~(1 << 6)
    for _ in range(2):
        agent.posted.clear()
        report.report_boot(agent)
        security = {"event": "security", "reason": "not locked: jtag"}
        assert agent.posted[1:] == ([security] if profile else [])


# main.py: what RTC memory says


@pytest.fixture
def stage1(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> Any:
    """main.py with played `machine`, up to where it looks for a slot."""
    for name in ("esp32", "vfs"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules["esp32"], "Partition", None, raising=False)
    monkeypatch.setitem(sys.modules, "machine", machine)
    path = Path(__file__).resolve().parents[1] / "main.py"
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
