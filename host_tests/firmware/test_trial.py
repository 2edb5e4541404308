"""The end of a trial, under CPython: what has to be well before a version may stay."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from host_tests.played import Load
from trust.state import CONFIRMED, TRYING, BootState


class Agent:
    """A version on trial, in slot b of a board whose boot state is in memory."""

    def __init__(self, state: Any):
        self.boot = SimpleNamespace(running=1, counter=5, version="1.1.0", state=state)
        self.supervisor = self.device = self
        self.on_trial = True
        self.state: dict[str, Any] = {}
        self.done: list[str] = []
        self.fault: Exception | None = None

    async def check(self) -> None:
        self.done.append("tasks")
        if self.fault:
            raise self.fault

    def report(self, result: str, **details: object) -> None:
        self.done.append(result)


def make_state() -> Any:
    from flash_sim import FlashSim

    flash = FlashSim(2)
    state = BootState(flash, fresh=True)
    state.provision(3)
    state.stage(1)
    state.begin_try(1)
    return state


def confirm(load: Load, monkeypatch: pytest.MonkeyPatch, agent: Agent, **app: Any) -> None:
    trial = load("ondemand.trial")
    monkeypatch.setattr(trial, "app", SimpleNamespace(**app))
    asyncio.run(trial.confirm(agent))


async def self_test(agent: Agent) -> None:
    assert agent.boot.state.status[1] == TRYING
    agent.done.append("self-test")


@pytest.mark.parametrize("app", [{}, {"self_test": self_test}])
def test_what_is_well_is_confirmed_and_raises_the_floor(
    load: Load, monkeypatch: pytest.MonkeyPatch, app: dict[str, Any]
) -> None:
    agent = Agent(make_state())
    confirm(load, monkeypatch, agent, **app)
    assert agent.done == ["tasks", *(["self-test"] if app else []), "confirmed"]
    found = BootState(agent.boot.state.device)
    assert (found.active, found.status[1], found.floor) == (1, CONFIRMED, 5)
    assert (agent.on_trial, agent.state) == (False, {"status": "confirmed", "floor": 5})


@pytest.mark.parametrize("place", ["a task", "the self-test"])
def test_what_is_not_well_is_not_confirmed(
    load: Load, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    async def unfit(agent: Agent) -> None:
        raise RuntimeError("unfit")

    agent = Agent(make_state())
    before = dict(agent.boot.state.device.content)
    if place == "a task":
        agent.fault = RuntimeError("unfit")
    with pytest.raises(RuntimeError, match="unfit"):
        confirm(load, monkeypatch, agent, self_test=self_test if agent.fault else unfit)
    assert agent.boot.state.device.content == before
    assert (agent.on_trial, agent.state) == (True, {})
    assert agent.done == ["tasks"]
