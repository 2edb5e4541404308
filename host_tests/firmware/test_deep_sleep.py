"""Deep sleep, with a real broker: what is said before it, what comes through it, what ends it.

One board for the file. Its sleeps end when a test says so; its clock then says that they were as
long as they were to be.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from host_tests.board_helpers import power_cuts
from host_tests.firmware.test_service import make_token, read_rtc_memory
from host_tests.firmware.test_shortage import without_broker
from host_tests.firmware.world import DEVICE, WAIT_S, World
from host_tests.vectors import sign_order
from signet.board.virtual.board import VirtualBoard
from signet.board.virtual.cycle import Exit, Wake
from signet.formats import flash
from trust.state import BootState

pytest_plugins = ["host_tests.tool_fixtures", "host_tests.fleet_fixtures"]


def wait_until_asleep(world: World, boots: int = 0) -> None:
    """Wait until it sleeps, after so many boots."""
    world.board.wait_for(lambda board: board.asleep and len(board.boots) > boots, WAIT_S)


@pytest.fixture
def asleep(sleeper: World) -> World:
    """The board sleeps, and has nothing else to say or to do."""
    if not sleeper.board.running:
        sleeper.board.power_on(record_flash=True)
    wait_until_asleep(sleeper)
    return sleeper


def wake(world: World, reason: Wake = Wake.TIMER) -> int:
    """Wake the board, and wait until it sleeps again; where the reports between start."""
    mark, boots = len(world.operator.messages), len(world.board.boots)
    world.board.wake(reason)
    wait_until_asleep(world, boots)
    return mark


def said(world: World, mark: int, until: str = "until") -> list[tuple[str, dict[str, Any]]]:
    """(kind, report) from a mark to the one that has this field."""
    world.wait_for(lambda _, report: until in report, mark)
    return [(m.topic.rpartition("/")[2], m.json()) for m in world.operator.messages[mark:]]


def send(world: World, kind: str, payload: Any) -> None:
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    world.operator.publish(f"signet/{DEVICE}/down/{kind}", data)


def configure(world: World, **settings: Any) -> None:
    """Have what the application passes to `deep_sleep`."""
    send(world, "config", settings)
    assert ("event", {"event": "config", "ok": True}) in said(world, wake(world))
    wake(world)  # it was asleep again when the application had looked


def test_a_wake_reports_and_sleeps_again(asleep: World) -> None:
    before = said(asleep, wake(asleep))[-1][1]["until"]
    reports = said(asleep, wake(asleep))
    assert [kind for kind, _ in reports] == ["state", "telemetry", "event", "state"]
    first, telemetry, event, last = [report for _, report in reports]
    assert (first["online"], first["cause"], first["wake"]) == (True, 4, "timer")
    assert telemetry["count"] == event["count"] > 0
    # All that is known of a board stays known while it sleeps.
    assert last.items() >= {"version": "1.0.0", "status": "confirmed", "online": False}.items()
    assert before + 600 <= last["until"] <= before + 600 + WAIT_S
    assert last["awake_ms"] >= 0
    assert asleep.board.boots[-1].exit == Exit.DEEP_SLEEP


def test_a_pin_is_told_from_the_timer(asleep: World) -> None:
    assert said(asleep, wake(asleep, Wake.PIN))[-1][1]["wake"] == "pin"
    assert said(asleep, wake(asleep))[-1][1]["wake"] == "timer"


def test_what_came_in_a_sleep_is_answered_at_the_next_wake(asleep: World) -> None:
    """More than the broker sends at once, and each answer before the goodbye."""
    numbers = list(range(7))
    for number in numbers:
        send(asleep, "command", {"id": number, "command": "echo", "args": {"number": number}})
    reports = said(asleep, wake(asleep))
    answers = [report for _, report in reports if report.get("event") == "command"]
    assert [answer["id"] for answer in answers] == numbers
    assert all(answer["result"] == {"number": answer["id"]} for answer in answers)
    assert "until" in reports[-1][1]
    assert not any(r.get("event") == "command" for _, r in said(asleep, wake(asleep)))


def test_a_wake_asks_for_the_time_once_a_day(asleep: World) -> None:
    """It was authenticated, and the clock goes on in a sleep."""
    configure(asleep, seconds=43_000)
    images = asleep.proxy.routes["images"]
    before = images.connections
    states = [said(asleep, wake(asleep))[-1][1] for _ in range(6)]
    assert sum(state["timed"] for state in states) == images.connections - before == 2
    configure(asleep)
    before = images.connections
    for _ in range(3):
        wake(asleep)
    assert images.connections <= before + 1


def test_a_wake_that_need_not_connect_does_so_once_a_day(asleep: World) -> None:
    configure(asleep, seconds=43_000, connect=False)
    route = asleep.proxy.routes["broker"]
    connected = []
    for _ in range(6):
        before = route.connections
        wake(asleep)
        connected.append(route.connections > before)
    assert connected in [[number % 3 == first for number in range(6)] for first in range(3)]
    send(asleep, "config", {})
    for _ in range(3):
        mark = wake(asleep)
    wake(asleep)
    assert said(asleep, mark)[-1][1]["online"] is False


def test_a_broker_that_is_away_does_not_keep_the_board_awake(asleep: World) -> None:
    configure(asleep, limit_s=5)
    route = asleep.proxy.routes["broker"]
    tried = []
    with without_broker(asleep):
        for _ in range(5):
            before = route.connections
            wake(asleep)
            tried.append(route.connections > before)
            assert asleep.board.boots[-1].duration_s < (20 if tried[-1] else 5)
    # The second miss in a row costs one sleep without an attempt, the third one three.
    assert tried == [True, True, False, True, False]
    send(asleep, "config", {})
    mark = len(asleep.operator.messages)
    for _ in range(3):
        wake(asleep)
    reports = said(asleep, mark)
    boots = [report for _, report in reports if report.get("event") == "boot"]
    assert [(boot["cause"], boot["wake"]) for boot in boots] == [(4, "timer")]
    assert boots[0]["reason"].startswith("asleep with 1 messages not sent; asleep with 2")
    wake(asleep)
    assert said(asleep, mark)[-1][1]["until"]


def test_the_applications_memory_outlasts_all_but_the_power(asleep: World) -> None:
    def count(mark: int) -> int:
        return int([r["count"] for _, r in said(asleep, mark) if r.get("event") == "measured"][-1])

    first = count(wake(asleep))
    assert count(wake(asleep)) == first + 1
    asleep.board.power_off()
    mark = len(asleep.operator.messages)
    asleep.board.power_on(record_flash=True)
    assert count(mark) == 0


def test_sleeps_are_no_crashes_and_crashes_are_told(asleep: World) -> None:
    for _ in range(4):
        wake(asleep)
    assert read_rtc_memory(asleep.board).startswith(b"0,")
    send(asleep, "command", {"id": 1, "command": "crash"})
    mark, boots = len(asleep.operator.messages), len(asleep.board.boots)
    asleep.board.wake()
    wait_until_asleep(asleep, boots + 1)
    reports = said(asleep, mark)
    reasons = [report for _, report in reports if report.get("event") == "boot"]
    assert [(report["cause"], report["reason"]) for report in reasons] == [
        (3, "watchdog, at work on down/command")
    ]
    assert [boot.cause for boot in asleep.board.boots[boots:]] == [4, 3]
    wake(asleep)
    assert read_rtc_memory(asleep.board).startswith(b"0,")


def test_a_token_that_came_in_a_sleep_opens_the_console(asleep: World) -> None:
    token = make_token(asleep)
    mark = len(asleep.operator.messages)
    send(asleep, "console", sign_order(asleep.release_key, json.dumps(token).encode()))
    asleep.board.wake()
    assert asleep.board.wait_until_stopped(WAIT_S) == Exit.REPL.value
    reports = [m.json() for m in asleep.operator.messages[mark:]]
    assert [r["order"] for r in reports if "console opens" in str(r)] == [token["number"]]
    assert reports[-1]["why"] == "console"


# Releases: a version on trial, and sleeps.


def update(world: World, version: str, app: str | None = None) -> tuple[int, int]:
    """Order a version, and wake the board to it; where its reports and its boots start."""
    content = world.image(version, app)
    world.serve(content)
    boots = len(world.board.boots)
    mark = world.send(world.order(content, version=version))
    world.board.wake()
    return mark, boots


def test_an_order_that_came_in_a_sleep_is_carried_out_and_confirmed(asleep: World) -> None:
    mark, boots = update(asleep, "1.1.0")
    asleep.wait_for_update("confirmed", mark)
    wait_until_asleep(asleep, boots + 2)
    # From the wake on to the sleep of the new version there was no other.
    assert [boot.exit for boot in asleep.board.boots[boots:]] == [
        Exit.RESET, Exit.RESET, Exit.DEEP_SLEEP,
    ]  # fmt: skip
    last = said(asleep, mark)[-1][1]
    assert (last["version"], last["status"]) == ("1.1.0", "confirmed")
    results = [r["result"] for _, r in said(asleep, mark) if r.get("event") == "update"]
    assert results == ["accepted", "trying", "confirmed"]


BEHIND_OUR_BACK = "import machine\nasync def run(device):\n    machine.deepsleep(60_000)\n"


def test_a_release_that_sleeps_before_it_is_confirmed_is_rolled_back(asleep: World) -> None:
    """Each wake is a start, and costs a try: a sleep does not give one back."""
    before = asleep.facts()
    mark, boots = update(asleep, "1.2.0", BEHIND_OUR_BACK)
    for wakes in range(1, 4):
        wait_until_asleep(asleep, boots + 1 + wakes)
        asleep.board.wake()
    report = asleep.wait_for_update("rolled-back", mark)
    assert (report["version"], report["reason"]) == ("1.2.0", "no tries left; last: deep sleep")
    assert asleep.facts() == before
    wait_until_asleep(asleep)
    assert said(asleep, mark)[-1][1]["status"] == "confirmed"


def test_the_power_goes_while_a_release_is_confirmed_and_the_board_falls_asleep(
    sleeper: World, tmp_path: Path
) -> None:
    sleeper.board.power_off()
    chip = flash.Flash.load(sleeper.folder / "provisioned.bin")
    content = sleeper.image("1.3.0")
    chip.write("slot_b", content)
    BootState(chip.device("bootstate")).stage(1)
    (tmp_path / "staged").mkdir()
    chip.save_new(tmp_path / "staged/flash.bin")
    cuts = 0
    source = VirtualBoard(tmp_path / "staged")
    for cut in power_cuts(source, tmp_path, lambda board: board.asleep, (7,), WAIT_S):
        cuts += 1
        with cut.board as board:
            mark = len(sleeper.operator.messages)
            board.power_on()
            board.wait_for(lambda board: board.asleep, WAIT_S)
            last = said(sleeper, mark)[-1][1]
            assert (last["version"], last["status"], last["slot"]) == ("1.3.0", "confirmed", "b")
    assert cuts >= 6  # a try, the confirmation in both sectors
