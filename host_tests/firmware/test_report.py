"""What the agent reports at a start, under CPython: firmware.ondemand.report, and the outbox."""

from types import SimpleNamespace
from typing import Any

import pytest

from host_tests.played import Load, Machine


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
    assert load("ondemand.report").report_boot(agent) == restarts
    assert machine.memory == kept
    assert agent.posted == [{"event": "boot", "cause": 1, "reason": reason}]


def test_what_stage_1_passed_over_is_reported(load: Load, machine: Machine) -> None:
    machine.memory, machine.cause = b"1 half a reason", Machine.WDT_RESET
    agent = Agent([(1, True, "no tries left"), (0, False, "altered")], on_trial=True)
    load("ondemand.report").report_boot(agent)
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
    report, agent = load("ondemand.report"), Agent([])
    agent.boot.record["profile"] = profile
    report.report_boot(agent)
    assert [event["event"] for event in agent.posted] == ["boot"]
    machine.mem32[0x3FF5A018] &= ~(1 << 6)
    for _ in range(2):
        agent.posted.clear()
        report.report_boot(agent)
        security = {"event": "security", "reason": "not locked: jtag"}
        assert agent.posted[1:] == ([security] if profile else [])
