"""What the agent reports at a start, under CPython: firmware.ondemand.report, and the outbox."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from host_tests.played import Load, Machine, Ticks


class Agent:
    """What `report` asks of the agent; posted: the events."""

    tries: int | None = None
    timed: int | None = None
    heard: int | None = None
    held = ""

    def __init__(self, load: Load, refused: list[Any], on_trial: bool = False):
        self._load = load
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

    def note(self, *message: object) -> None:
        self._load("agent").Agent.note(self, *message)

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
        (b"", 0, b"1::0 ", ""),
        (b"0 restart into 1.1.0", 0, b"1::0 ", "restart into 1.1.0"),
        (b"2::0 TaskError: app: ended", 2, b"3::0 ", "TaskError: app: ended"),
        (b"99::0 x", 99, b"99::0 ", "x"),
        (b"junk", 0, b"1::0 ", ""),
        (b"1:down/order:2 x", 1, b"2:down/order:2 ", "x, at work on down/order"),
    ],
)
def test_restarts_are_counted(
    load: Load, machine: Machine, memory: bytes, restarts: int, kept: bytes, reason: str
) -> None:
    machine.memory = memory
    agent = Agent(load, [])
    assert load("ondemand.report").report_boot(agent) == restarts
    assert machine.memory == kept
    assert agent.posted == [{"event": "boot", "cause": 1, "reason": reason}]
    assert agent.tries is None


@pytest.mark.parametrize(
    ("number", "wake"), [(2, "pin"), (3, "pin"), (4, "timer"), (5, "touch"), (7, "pin"), (12, "12")]
)
def test_a_wake_is_no_crash(load: Load, machine: Machine, number: int, wake: str) -> None:
    """Whatever put the board to sleep; and there is nothing to say of most."""
    machine.cause = Machine.DEEPSLEEP_RESET
    machine.wake_reason = lambda: number  # type: ignore[attr-defined]
    for memory, reason in ((b"7:: ", None), (b"7:: lost", "lost"), (b"7:down/order:2 ", "order")):
        machine.memory = memory
        machine.mem32[0x3FF5A018] &= ~(1 << 6)  # it was said at the start before
        agent = Agent(load, [])
        assert load("ondemand.report").report_boot(agent) == 0
        assert machine.memory.startswith(b"1")
        if reason is None:
            assert agent.posted == []
        else:
            (event,) = agent.posted
            assert (event["cause"], event["wake"]) == (4, wake)
            assert reason in event["reason"]
    assert "order:2" in machine.memory.decode()


@pytest.mark.parametrize(
    ("cause", "age_s", "heard"), [(4, 0, True), (4, 86_400, True), (4, 86_401, False),
                                  (4, -1, False), (2, 0, False), (3, 0, False)],
)  # fmt: skip
def test_what_a_clock_knew_holds_over_a_sleep_and_for_a_day(
    load: Load, machine: Machine, ticks: Ticks, cause: int, age_s: int, heard: bool
) -> None:
    record = load("ondemand.rtc").Record()
    record.timed, record.data = ticks.unix_s - age_s, b"mine"
    load("ondemand.timekeeping")
    machine.cause = cause
    machine.wake_reason = lambda: 4  # type: ignore[attr-defined]
    machine.memory = b"0" + record.pack().encode() + b":: "
    agent = Agent(load, [])
    load("ondemand.report").report_boot(agent)
    assert (agent.timed, agent.heard) == ((0, record.timed) if heard else (None, None))
    assert agent.held.encode() in machine.memory
    assert load("ondemand.rtc").Record(agent.held[1:]).data == b"mine"


@pytest.mark.parametrize("reason", ["console", "restart into 1.1.0", "", "console "])
def test_the_word_that_opens_the_console_stands_alone_for_a_token_only(
    load: Load, machine: Machine, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    monkeypatch.setattr(machine, "reset", lambda: None, raising=False)
    device = SimpleNamespace(_kept=None)
    load("ondemand.ending").restart(SimpleNamespace(restart_reason=reason, held="", device=device))
    opens = reason == "console"  # firmware/ondemand/service.py has accepted one
    assert machine.memory == (b"" if opens else b"0 ") + reason.encode()
    agent = Agent(load, [])
    load("ondemand.report").report_boot(agent)
    assert agent.posted[0]["reason"] == ("" if opens else reason)


def test_what_is_kept_is_on_flash_before_the_board_restarts(
    load: Load, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(machine, "reset", lambda: done.append("reset"), raising=False)
    kept = SimpleNamespace(flush=lambda: done.append("flush"))
    agent = SimpleNamespace(restart_reason="x", held="", device=SimpleNamespace(_kept=kept))
    load("ondemand.ending").restart(agent)
    assert done == ["flush", "reset"]


@pytest.mark.parametrize("reason", ["out of memory: x", "TaskError: app: MemoryError: memory x"])
def test_a_lack_of_memory_is_remembered(load: Load, machine: Machine, reason: str) -> None:
    machine.memory = b"1:: " + reason.encode()
    agent = Agent(load, [])
    load("ondemand.report").report_boot(agent)
    assert agent.tries == 0


def test_what_stage_1_passed_over_is_reported(load: Load, machine: Machine) -> None:
    machine.memory, machine.cause = b"1:down/command:1 half a reason", Machine.WDT_RESET
    agent = Agent(load, [(1, True, "no tries left"), (0, False, "altered")], on_trial=True)
    load("ondemand.report").report_boot(agent)
    why = "no tries left; last: watchdog, at work on down/command"
    assert agent.posted == [
        {"event": "boot", "cause": 3, "reason": "watchdog, at work on down/command"},
        {"event": "update", "result": "trying", "version": "1.1.0"},
        {"event": "update", "result": "rolled-back", "version": None, "reason": why},
        {"event": "security", "reason": "slot a: altered"},
    ]


@pytest.mark.parametrize(("session_at", "settled_at"), [(0, 60), (1, 60), (61, 120), (299, 300)])
def test_a_lack_of_memory_is_not_forgotten_before_there_is_a_session(
    load: Load, machine: Machine, ticks: Ticks, session_at: int, settled_at: int
) -> None:
    module = load("agent")
    noted: list[tuple[Any, ...]] = []

    class Ended(Exception):
        pass

    def beat(name: str) -> None:
        if ticks.passed_ms >= 600_000:
            raise Ended

    class Watched(SimpleNamespace):
        @property
        def tries(self) -> int | None:
            return None if ticks.passed_ms >= 1000 * session_at else 0

    agent: Any = Watched(
        restarts=2, message=("down/order", 1), on_trial=False, wake=SimpleNamespace(set=list),
        supervisor=SimpleNamespace(beat=beat),
        note=lambda *message: noted.append((ticks.passed_ms // 1000, agent.restarts, *message)),
    )  # fmt: skip
    with pytest.raises(Ended):
        asyncio.run(module.Agent._watch(agent))
    assert noted == [(settled_at, 0, "down/order", 1)]


def test_outbox_keeps_the_latest_telemetry_and_all_events(load: Load) -> None:
    agent = load("agent").Agent
    queue = SimpleNamespace(outbox=[], dropped=[0, 0], wake=SimpleNamespace(set=lambda: None))
    for number in range(9):
        agent.post(queue, "telemetry", number, 0)
        agent.post(queue, "event", number, 1)
    assert [entry[1] for entry in queue.outbox if not entry[2]] == [5, 6, 7, 8]
    assert [entry[1] for entry in queue.outbox if entry[2]] == list(range(9))
    assert queue.dropped == [0, 5]
    for number in range(9, 40):
        agent.post(queue, "event", number, 1)
    agent.post(queue, "telemetry", 9, 0)
    # The first may be on its way, and tells of the start; telemetry does not push events out.
    assert [entry[1] for entry in queue.outbox] == [0, *range(17, 40)]
    assert queue.dropped == [16, 10]


@pytest.mark.parametrize("profile", [0, 1, 2])
def test_a_board_that_is_not_locked_says_so_at_each_start(
    load: Load, machine: Machine, profile: int
) -> None:
    report, agent = load("ondemand.report"), Agent(load, [])
    agent.boot.record["profile"] = profile
    report.report_boot(agent)
    assert [event["event"] for event in agent.posted] == ["boot"]
    machine.mem32[0x3FF5A018] &= ~(1 << 6)
    for _ in range(2):
        agent.posted.clear()
        report.report_boot(agent)
        security = {"event": "security", "reason": "not locked: jtag"}
        assert agent.posted[1:] == ([security] if profile else [])


def test_a_chip_that_is_not_known_does_not_count_as_locked(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, agent = load("ondemand.report"), Agent(load, [])
    monkeypatch.setattr(report.lock, "read", lambda: None)
    report.report_boot(agent)
    assert agent.posted[1:] == [{"event": "security", "reason": "not locked: unknown chip"}]


@pytest.mark.parametrize("on_trial", [True, False])
def test_a_trial_that_does_not_confirm_is_given_up(
    load: Load, ticks: Ticks, on_trial: bool
) -> None:
    """Five minutes, then the board restarts, which costs the version a try."""
    module = load("agent")
    beats: list[int] = []

    class Ended(Exception):
        pass

    def beat(name: str) -> None:
        beats.append(ticks.passed_ms // 1000)
        if ticks.passed_ms >= 600_000:
            raise Ended

    agent = SimpleNamespace(
        restarts=0, tries=None, on_trial=on_trial, wake=SimpleNamespace(set=list),
        supervisor=SimpleNamespace(beat=beat),
    )  # fmt: skip
    with pytest.raises(module.TaskError if on_trial else Ended):
        asyncio.run(module.Agent._watch(agent))
    assert beats[-1] == (240 if on_trial else 600)
