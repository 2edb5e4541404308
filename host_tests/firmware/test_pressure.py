"""More commands and events than a board can answer at once: none is lost without a word."""

import json

import pytest

from host_tests.firmware.world import DEVICE, World

pytest_plugins = ["host_tests.tool_fixtures", "host_tests.fleet_fixtures"]

COUNT = 1000
TOPIC = f"signet/{DEVICE}/down/command"


def send_commands(world: World, count: int) -> int:
    """Publish commands of 1 KB, as fast as the broker takes them; where their answers start."""
    mark = len(world.operator.messages)
    for number in range(count):
        command = json.dumps({"id": number, "command": "identify", "args": {"fill": "…"}})
        filled = command.replace("\\u2026", "x" * (1024 - len(command)))
        world.operator.publish(TOPIC, filled.encode())
    return mark


def answers(world: World, mark: int) -> list[int]:
    reports = [message.json() for message in world.operator.messages[mark:]]
    return [report["id"] for report in reports if report.get("event") == "command"]


def test_a_thousand_commands_are_answered_in_order(world):
    mark = send_commands(world, COUNT)
    world.wait_for(lambda _, report: report.get("id") == COUNT - 1, mark)
    assert answers(world, mark) == list(range(COUNT))
    state = [m.json() for m in world.operator.messages if m.topic.endswith("/up/state")][-1]
    assert state["dropped"] == [0, 0, 0]
    assert world.board.boots[-1].exit is None


def test_commands_that_a_broken_connection_interrupts_are_answered(world):
    """Some perhaps twice: when the answer was with the broker, and the acknowledgement not."""
    mark = send_commands(world, 60)
    for number in (10, 30):
        world.wait_for(lambda _, report, number=number: report.get("id") == number, mark)
        world.proxy.drop()
    world.wait_for(lambda _, report: report.get("id") == 59, mark)
    assert sorted(set(answers(world, mark))) == list(range(60))
    assert world.board.boots[-1].exit is None


APP = """
async def run(device):
    device.commands["burst"] = burst
    device.commands["poison"] = poison
    device.commands["flood"] = flood
    while True:
        await device.sleep(1)

def burst(device, args):
    for number in range(60):
        device.event("burst", number=number)
    for number in range(9):
        device.telemetry({"number": number})

def flood(device, args):
    device.event("large", text="x" * 9000)
    device.telemetry({"text": "x" * 9000})
    return "x" * 9000

def poison(device, args):
    device.event = fail  # the answer to this command does not fit

def fail(name, **details):
    raise MemoryError("no room")
"""


@pytest.fixture(scope="module")
def burdened(world: World) -> World:
    """The board runs an application that is a burden to it."""
    content = world.image("1.1.0", APP)
    world.serve(content)
    world.wait_for_update("confirmed", world.send(world.order(content)))
    return world


def test_events_that_found_no_room_are_counted(burdened):
    mark = len(burdened.operator.messages)
    assert burdened.command("burst")["ok"]
    state = burdened.wait_for(lambda kind, _: kind == "state", mark)
    reports = [message.json() for message in burdened.operator.messages[mark:]]
    numbers = [report["number"] for report in reports if report.get("event") == "burst"]
    events, commands, telemetry = state["dropped"]
    assert len(numbers) + events == 60
    assert (events > 30, commands, telemetry) == (True, 0, 9)  # telemetry gives way first
    assert numbers[0] == 0  # it may have been on its way
    assert numbers[1:] == list(range(60 - len(numbers) + 1, 60))


def hostile_commands() -> dict[str, bytes]:
    """Commands whose answers would hold far more than they do, by what it is."""
    deep = b"[" * 1000 + b"]" * 1000
    return {
        "control characters": b'{"id":1,"command":"%b"}' % (b"\x01" * 2150),
        "an id of control characters": b'{"id":"%b","command":"burst"}' % (b"\x01" * 2150),
        "a number of 2000 digits": b'{"id":%b,"command":"burst"}' % (b"9" * 2000),
        "a deep id": b'{"id":%b,"command":"burst"}' % deep,
        "a deep command": b'{"id":1,"command":%b}' % deep,
        "deep arguments": b'{"id":1,"command":"none","args":%b}' % deep,
        "one that was cut off": b'{"id":1,"command":"burst"',  # whole, to MicroPython's parser
        "half a pair of surrogates": b'{"id":1,"command":"\\ud83d"}',
        "a text that is too large": b'{"id":1,"command":"flood"}',
    }


@pytest.mark.parametrize("name", hostile_commands())
def test_a_hostile_command_is_answered_and_what_is_behind_it_obeyed(burdened, name):
    mark, boots = len(burdened.operator.messages), len(burdened.board.boots)
    burdened.operator.publish(TOPIC, hostile_commands()[name])
    answer = burdened.wait_for(lambda _, report: report.get("event") == "command", mark)
    assert answer["ok"] is False
    assert burdened.command("burst")["ok"]
    assert len(burdened.board.boots) == boots
    if "large" in name:
        reports = [message.json() for message in burdened.operator.messages[mark:]]
        reasons = [each["reason"] for each in reports if each.get("event") == "error"]
        assert [reason.partition(":")[0] for reason in reasons] == ["up/event", "up/telemetry"]


def test_a_message_that_never_fits_is_given_up_and_reported(burdened):
    mark, boots = len(burdened.operator.messages), len(burdened.board.boots)
    poison = json.dumps({"id": 1, "command": "poison"})
    burdened.operator.publish(TOPIC, poison.encode())
    given_up = burdened.wait_for(lambda _, report: report.get("event") == "error", mark)
    assert given_up["reason"] == "down/command: given up after 3 restarts"
    reports = [message.json() for message in burdened.operator.messages[mark:]]
    reasons = [report["reason"] for report in reports if report.get("event") == "boot"]
    why = "TaskError: session: MemoryError: no room, at work on down/command"
    assert reasons == [why] * 3
    mark = len(burdened.operator.messages)
    assert burdened.command("burst")["ok"]  # what came behind it
    assert len(burdened.board.boots) == boots + 3
    burdened.board.power_off()  # and it does not come again
    mark = len(burdened.operator.messages)
    burdened.board.power_on(record_flash=True)
    burdened.wait_for_state(mark, status="confirmed")
    assert burdened.command("burst")["ok"]
    assert len(burdened.board.boots) == 1
