"""A board with too little memory to connect says so and restarts; one without a broker does not."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from host_tests.firmware.world import WAIT_S, World
from host_tests.played import Load
from signet.board.virtual.board import VirtualBoard

pytest_plugins = ["host_tests.tool_fixtures", "host_tests.fleet_fixtures"]

LOW = {4: [(131072, 30000, 17000, 2000)]}  # what an emulated chip had left with 106 KB of live heap
LACK = "out of memory (30000 bytes free, 17000 in one piece): "
ATTEMPT = "signet: error: session: "


class LostError(Exception):
    """As the MQTT client's, which say what ended a connection."""

    def __init__(self, cause: object):
        super().__init__("lost")
        self.cause = cause


def shortage(load: Load, monkeypatch: pytest.MonkeyPatch, free: int, largest: int) -> Any:
    chip = ModuleType("esp32")
    chip.HEAP_DATA = 4  # type: ignore[attr-defined]
    heaps = [(131072, free - 100, largest, 0), (1000, 100, 100, 0)]
    chip.idf_heap_info = lambda _: heaps  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "esp32", chip)
    module = load("ondemand.shortage")
    monkeypatch.setattr(module, "asyncio", asyncio)
    monkeypatch.setattr(module, "esp32", chip)
    return module


@pytest.mark.parametrize(
    ("free", "largest", "enough"),
    [(34816, 20480, True), (34815, 20480, False), (34816, 20479, False)],
)
def test_what_counts_as_a_lack_of_memory(
    load: Load, monkeypatch: pytest.MonkeyPatch, free: int, largest: int, enough: bool
) -> None:
    looked = shortage(load, monkeypatch, free, largest).find
    lack = f"out of memory ({free} bytes free, {largest} in one piece): "
    for error, words in (
        (LostError(None), "lost"),  # nothing came in time
        (LostError(OSError("no TLS connection")), "lost"),
        (LostError(RuntimeError("Wifi Unknown Error 0x0101")), "lost"),
        (OSError("status 201"), "status 201"),
        (TimeoutError(), "timed out"),
    ):
        assert looked(error) == (None if enough else lack + words)
    for cause in (MemoryError("1 KB"), OSError(12, "ENOMEM"), OSError(105, "ENOBUFS")):
        assert looked(LostError(cause)) == "out of memory: lost"
    assert looked(MemoryError("out of memory in TLS: x")) == "out of memory in TLS: x"
    assert looked(ValueError("the broker has refused")) is None


@pytest.mark.parametrize(
    ("restarts", "on_trial", "attempts"),
    [(0, False, 3), (1, False, 3), (2, False, 6), (5, False, 48), (99, False, 96), (3, True, 3)],
)
def test_the_next_restart_comes_later(
    load: Load, monkeypatch: pytest.MonkeyPatch, restarts: int, on_trial: bool, attempts: int
) -> None:
    module = shortage(load, monkeypatch, 1000, 1000)
    reasons: list[str] = []
    monkeypatch.setattr(module, "_restart", lambda _, reason: reasons.append(reason))
    events: list[Any] = []
    device = SimpleNamespace(event=lambda name, **details: events.append(details["reason"]))
    outbox = [("telemetry", 1, 0), ("event", 2, 1)]
    agent = SimpleNamespace(
        tries=None, restarts=restarts, on_trial=on_trial, outbox=outbox, dropped=[0, 0],
        device=device,
    )  # fmt: skip
    for _ in range(attempts):
        assert not reasons
        said = module.check(agent, OSError("away"))
    assert reasons == events == [said]
    assert (agent.outbox, agent.dropped) == ([("event", 2, 1)], [0, 1])


@contextmanager
def without_broker(world: World) -> Iterator[None]:
    route = world.proxy.routes["broker"]
    route.refuse = True
    world.proxy.drop()
    try:
        yield
    finally:
        route.refuse = False


def wait_for_attempts(board: VirtualBoard, count: int) -> list[str]:
    """What was said of so many connections and attempts that failed, since power-on."""

    def attempts(board: VirtualBoard) -> list[str]:
        found = [line.partition(ATTEMPT)[2] for line in board.lines if ATTEMPT in line]
        return found if len(found) >= count else []

    return board.wait_for(attempts, WAIT_S)


def test_an_outage_is_none_of_memory(world):
    with without_broker(world):
        attempts = wait_for_attempts(world.board, 5)
    assert not any("memory" in attempt for attempt in attempts)
    mark = len(world.operator.messages)
    world.wait_for_state(mark, online=True)
    assert len(world.board.boots) == 1


def test_a_board_that_is_short_of_memory_restarts_and_tells_why(world):
    world.board.power_off()
    mark = len(world.operator.messages)
    with VirtualBoard(world.board.folder, idf_heaps=LOW) as board:
        with without_broker(world):
            board.power_on()
            end = board.wait_for_line("signet: error: out of memory", WAIT_S)
            said = [line for line in board.lines[:end] if ATTEMPT in line]
            assert len(said) == 2  # the third is the reason for the restart
            assert all(LACK in line for line in said)
            # It is not forgotten, and the next restart comes later.
            board.wait_for(lambda board: len(board.boots) == 2, WAIT_S)
            again = board.wait_for_line(ATTEMPT + LACK, WAIT_S, end)
            for _ in range(3):
                again = board.wait_for_line(ATTEMPT + LACK, WAIT_S, again)
            assert len(board.boots) == 2
        boot = world.wait_for(lambda _, report: report.get("event") == "boot", mark)
        assert boot["reason"].startswith(LACK)
        error = world.wait_for(lambda _, report: report.get("event") == "error", mark)
        assert error["reason"].startswith(LACK)
        assert world.command("identify")["ok"]
    world.board.power_on(record_flash=True)
    world.wait_for_state(len(world.operator.messages), status="confirmed")


@pytest.mark.parametrize(
    ("code", "name"),
    [(16, "mbedTLS -0x10 MPI_ALLOC_FAILED"), (-0x7F00, "mbedTLS -0x7f00 SSL_ALLOC_FAILED")],
)
def test_a_version_that_leaves_tls_no_memory_is_rolled_back(world, code, name):
    app = (
        "import mtls\n"
        "def fail(*_):\n    raise OSError(%d)\n"
        "async def run(device):\n    mtls.Stream.__init__ = fail\n"
        "    while True:\n        await device.sleep(1)\n"
    )
    content = world.image("1.2.0", app % code)
    world.serve(content)
    mark = world.send(world.order(content, version="1.2.0"))
    report = world.wait_for_update("rolled-back", mark)
    assert report["reason"].endswith("last: MemoryError: out of memory in TLS: " + name)
    assert not any("certificate" in line for line in world.board.lines)
