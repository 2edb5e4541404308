"""How long a board is awake before a deep sleep, under CPython: with played time, no broker."""

import asyncio
import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from host_tests.played import NOW, Load, Machine, Ticks

DAY = 86_400
Change = Callable[[SimpleNamespace, int], None]


class AsleepError(Exception):
    pass


class Session:
    """One that is up. published: each state, and what became of the agent and the client then."""

    def __init__(self, agent: SimpleNamespace, meanwhile: Callable[[Any], None]):
        self.agent = agent
        self.client = self
        self.error: Exception | None = None
        self.on_change: object = print
        self.published: list[dict[str, Any]] = []
        self.sent = b""
        self._backlog: list[object] = []
        self._link = self
        self._meanwhile = meanwhile

    def dropped(self) -> list[int]:
        return [0, 0, 0]

    async def publish(self, kind: str, state: dict[str, Any], qos: int, retain: bool) -> None:
        assert (kind, qos, retain) == ("state", 1, True)
        self.published.append(dict(state))
        self._meanwhile(self)

    async def send(self, packet: bytes) -> None:
        assert self.on_change is None  # that the broker hangs up now is no failure
        assert packet == b"\xe0\x00"  # DISCONNECT: the will is not published
        self.sent += packet
        self.error = EOFError()


@pytest.fixture
def rtc(load: Load) -> Any:
    return load("ondemand.rtc")


@pytest.fixture
def sleep(load: Load, machine: Machine, ticks: Ticks, rtc: Any, monkeypatch) -> Callable[..., Any]:
    """Call `deep_sleep`; how long it took in ms, and what it kept.

    at: what becomes of the agent at each turn, given the ms that have passed.
    """
    module = load("ondemand.extras.deep_sleep")
    load("ondemand.timekeeping")
    slept: list[int] = []

    def deepsleep(ms: int) -> None:
        slept.append(ms)
        raise AsleepError

    machine.deepsleep = deepsleep  # type: ignore[attr-defined]

    def run(
        *args: Any,
        at: Change | None = None,
        data: Any = b"",
        is_ordered=False,
        kept=None,
        **fields: Any,
    ):
        wakes = SimpleNamespace(set=lambda: at and at(agent, ticks.passed_ms))
        agent: SimpleNamespace = SimpleNamespace(
            **{"held": "", "on_trial": False, "restart_reason": None, "state": {}, "heard": NOW,
               "timed": 0, "outbox": [], "message": ("", 0), "close": None, "restarts": 3}
            | fields,
            wake=wakes, device=SimpleNamespace(beat=lambda: None, _kept=kept),
            supervisor=SimpleNamespace(uptime_ms=0),
        )  # fmt: skip
        agent.note = lambda *message: load("agent").Agent.note(agent, *message)
        monkeypatch.setattr(module, "store", SimpleNamespace(
            exists=lambda path: is_ordered, ORDER_PATH="/update.order"
        ))  # fmt: skip
        device = SimpleNamespace(_agent=agent, rtc=data)
        started = ticks.passed_ms
        with pytest.raises(AsleepError):
            asyncio.run(module.make(device)(*args))
        return ticks.passed_ms - started, rtc.Record(agent.held[1:]), slept[-1]

    return run


def test_a_broker_that_is_away_is_waited_for_as_long_as_is_asked(sleep) -> None:
    assert sleep(600)[0] == 30_000
    took_ms, record, slept_ms = sleep(600, True, 5)
    assert (took_ms, slept_ms) == (5_000, 600_000)
    assert (record.misses, record.timed, record.due) == (1, NOW, 0)


@pytest.mark.parametrize("connect", [True, False])
def test_no_version_on_trial_sleeps(sleep, connect: bool) -> None:
    """Nor when it would not have to connect. The agent restarts one that is not confirmed."""

    def confirm(agent: SimpleNamespace, passed_ms: int) -> None:
        agent.on_trial = passed_ms < 290_000

    assert sleep(600, connect, at=confirm, on_trial=True)[0] == 320_000


def test_a_board_that_is_to_restart_does_not_sleep(sleep, machine: Machine) -> None:
    class RestartedError(Exception):
        pass

    def restart(agent: SimpleNamespace, passed_ms: int) -> None:
        if passed_ms > 400_000:
            raise RestartedError

    with pytest.raises(RestartedError):
        sleep(600, at=restart, restart_reason="console")


@pytest.mark.parametrize("work", [{"is_ordered": True}, {"message": ("down/command", 1)}])
def test_work_that_is_under_way_has_five_minutes(sleep, work: dict[str, Any]) -> None:
    assert sleep(600, **work)[0] == 300_000


@pytest.mark.parametrize(
    ("fields", "is_worth_it"),
    [({}, False), ({"heard": None}, True), ({"is_ordered": True}, True),
     ({"outbox": [("event", {}, 1)]}, True), ({"outbox": [("telemetry", {}, 0)]}, False),
     ({"state": {"time": NOW}}, True)],
)  # fmt: skip
def test_what_has_a_board_connect_that_need_not(sleep, fields, is_worth_it: bool) -> None:
    """A time that is a day old, an order, an event; or it is connected already."""
    assert (sleep(600, False, **fields)[0] > 0) == is_worth_it


def test_attempts_are_put_off_when_they_fail_again(sleep) -> None:
    _, record, _ = sleep(600)
    took_ms, record, _ = sleep(600, held=record.pack())
    assert (took_ms, record.misses, record.due > NOW) == (30_000, 2, True)
    assert sleep(600, held=record.pack())[0] == 0
    assert sleep(600, held=record.pack(), on_trial=False, outbox=[("event", {}, 1)])[0] == 0


def test_what_was_not_sent_is_kept_for_the_next_start(sleep, machine: Machine) -> None:
    lost = {"result": "rolled-back", "reason": "no tries left"}
    outbox = [("event", lost, 1), ("telemetry", {"reason": "x"}, 0), ("event", {"event": "y"}, 1)]
    sleep(600, outbox=outbox, message=("down/order", 2), data=b"mine")
    head, _, reason = machine.memory.partition(b" ")
    assert reason == b"no tries left; asleep with 2 messages not sent"
    assert head.startswith(b"0,")
    assert head.endswith(b":down/order:2")
    sleep(600, outbox=[("event", {"reason": "x" * 300}, 1)])
    assert len(machine.memory.partition(b" ")[2]) == 200


@pytest.mark.parametrize(
    ("args", "data", "reason"),
    [((0,), b"", "seconds 0"), ((2_073_601,), b"", "seconds 2073601"), (("1",), b"", "seconds '1'"),
     ((600, True, 4), b"", "limit_s 4"), ((600, True, 301), b"", "limit_s 301"),
     ((600,), "text", "expected up to 768"), ((600,), bytes(769), "expected up to 768")],
)  # fmt: skip
def test_what_is_no_sleep_is_said(sleep, args, data, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        sleep(*args, data=data)


MEANWHILE: dict[str, Callable[[Session], None]] = {
    "a message has come": lambda session: session._backlog.append("order"),
    "something is to be said": lambda session: session.agent.outbox.append(("event", {}, 1)),
    "an order has been taken": lambda session: setattr(session.agent, "restart_reason", "update"),
    "the connection is lost": lambda session: setattr(session, "error", OSError()),
}


class Keep:
    """device.keep, with one record on flash, which the broker has after so many turns."""

    def __init__(self, turns: int):
        self.turns = turns
        self.done: list[str] = []

    def _oldest(self) -> bytes | None:
        self.turns -= 1
        return b"{}" if self.turns >= 0 else None

    def start(self) -> None:
        self.done.append("start")

    def flush(self) -> None:
        self.done.append("flush")


@pytest.mark.parametrize(("turns", "takes_ms"), [(0, 0), (3, 300), (999, 30_000)])
def test_telemetry_that_is_to_last_is_waited_for_and_then_put_on_flash(
    sleep, turns: int, takes_ms: int
) -> None:
    keep = Keep(turns)
    sessions: list[Session] = []

    def turn(agent: SimpleNamespace, passed_ms: int) -> None:
        agent.order = 7
        sessions.append(Session(agent, lambda _: None))
        with contextlib.suppress(StopIteration):
            agent.close(sessions[-1]).send(None)

    took_ms, _, _ = sleep(600, at=turn, kept=keep, state={"online": True})
    assert took_ms == takes_ms
    assert keep.done == ["start"] * (takes_ms // 100) + ["flush"]
    assert any(session.published for session in sessions) == (takes_ms < 30_000)


@pytest.mark.parametrize("name", [None, "a message waits", *MEANWHILE])
def test_the_goodbye_is_taken_back(sleep, load: Load, ticks: Ticks, name: str | None) -> None:
    """What the broker has for the board is there before the goodbye is acknowledged."""
    sessions: list[Session] = []
    came: list[int] = []

    def turn(agent: SimpleNamespace, passed_ms: int) -> None:
        if sessions:
            return  # this session ends, and there is no other
        agent.order = 7
        sessions.append(Session(agent, MEANWHILE.get(name or "", lambda _: None)))
        sessions[0]._backlog += ["command"] if name == "a message waits" else []
        try:
            agent.close(sessions[0]).send(None)
        except StopIteration:
            came.append(passed_ms)
            agent.restart_reason = None

    took_ms, record, _ = sleep(600, at=turn, state={"online": True}, held="")
    session = sessions[0]
    if name is None:
        assert (took_ms, record.misses, came) == (0, 0, [])
        (state,) = session.published
        assert state["online"] is False
        assert session.sent
        assert state["until"] == NOW + 600
        assert state["order"] == 7
        return
    assert came
    assert session.sent == b""
    assert len(session.published) == (0 if name == "a message waits" else 1)
    assert session.agent.state["online"] is True
    assert not {"until", "awake_ms"} & set(session.agent.state)
