"""firmware.supervisor under CPython, with played time: which silence ends in a restart."""

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from host_tests.played import Load, Ticks

Task = Callable[[Any], Coroutine[Any, Any, None]]


class Watchdog:
    def __init__(self) -> None:
        self.fed = 0

    def feed(self) -> None:
        self.fed += 1


def supervise(load: Load, **tasks: tuple[Task, float]) -> tuple[str, Watchdog, SimpleNamespace]:
    """Run tasks, each (coroutine function of the supervisor, limit in s), until one fails."""
    module = load("supervisor")
    watchdog = Watchdog()
    supervisor = module.Supervisor(watchdog)

    async def main() -> str:
        for name, (function, limit_s) in tasks.items():
            supervisor.start(name, function(supervisor), limit_s)
        with pytest.raises(module.TaskError) as caught:
            await supervisor.run()
        return str(caught.value)

    return asyncio.run(main()), watchdog, supervisor


async def silent(supervisor: SimpleNamespace) -> None:
    await asyncio.Event().wait()


def beats(count: int, every_ms: int, ticks: Ticks, ahead_s: float = 0) -> Task:
    """A task that beats and then falls silent."""

    async def task(supervisor: SimpleNamespace) -> None:
        for number in range(1, count + 1):
            while ticks.passed_ms < number * every_ms:
                await asyncio.sleep(0)
            supervisor.beat("app", ahead_s)
        await silent(supervisor)

    return task


def test_supervisor_feeds_until_a_task_falls_silent(load: Load, ticks: Ticks) -> None:
    reason, watchdog, supervisor = supervise(load, app=(silent, 10))
    assert reason == "app: no progress"
    assert watchdog.fed == 11  # at 0, 1 … 10 s, and not after
    assert ticks.passed_ms == 11_000
    assert supervisor.uptime_ms == 11_000


def test_supervisor_goes_by_the_last_beat(load: Load, ticks: Ticks) -> None:
    reason, watchdog, _ = supervise(load, app=(beats(5, 2000, ticks), 3))
    assert (reason, watchdog.fed) == ("app: no progress", 14)


def test_supervisor_lets_a_task_announce_silence(load: Load, ticks: Ticks) -> None:
    reason, watchdog, _ = supervise(load, app=(beats(1, 1000, ticks, 60), 3))
    assert (reason, watchdog.fed) == ("app: no progress", 65)


def test_supervisor_wants_every_task_healthy(load: Load, ticks: Ticks) -> None:
    reason, watchdog, _ = supervise(load, app=(beats(1000, 500, ticks), 3), other=(silent, 5))
    assert (reason, watchdog.fed) == ("other: no progress", 6)


def test_supervisor_lets_a_task_wait_that_need_not_beat(load: Load) -> None:
    reason, watchdog, _ = supervise(load, app=(silent, 5), session=(silent, 0))
    assert (reason, watchdog.fed) == ("app: no progress", 6)


def test_supervisor_reports_what_a_task_raised(load: Load) -> None:
    async def broken(supervisor: SimpleNamespace) -> None:
        await asyncio.sleep(0)
        raise ValueError("no sensor")

    async def done(supervisor: SimpleNamespace) -> None:
        await asyncio.sleep(0)

    reason, watchdog, _ = supervise(load, other=(silent, 100), app=(broken, 100))
    assert reason == "app: ValueError: no sensor"
    assert watchdog.fed <= 2
    assert supervise(load, app=(done, 100))[0] == "app: ended"
