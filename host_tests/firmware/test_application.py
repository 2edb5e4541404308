"""What an application has of `device`, on a board with its servers, in a production image."""

import pytest

from host_tests.firmware.world import DEVICE, World

pytest_plugins = ["host_tests.tool_fixtures", "host_tests.fleet_fixtures"]

APP = """
async def run(device):
    device.configure({"interval_s": (10, 1, 60), "gain": (0.5, 0, 2)})
    device.commands["show"] = show
    device.commands["blink"] = blink, {"times": (int, 1, 10)}
    device.commands["keep"] = keep, {"count": (int, 1, 100)}
    device.log("info", "started with %s", sorted(device.config))
    value = 0
    while True:
        await device.sleep(0.2)
        while value < wanted[0]:
            value += 1
            device.keep({"v": value})
            await device.sleep(0.05)
            print("app: kept", value)

def show(device, args):
    with device.files.open("ballast", "rb") as file:
        head = list(file.read(4))
    return {"config": device.config, "files": device.files.names(), "head": head,
            "time": device.time()}

wanted = [0]

def keep(device, args):
    wanted[0] += args["count"]

def blink(device, args):
    device.log("debug", "not kept")
    device.log("warning", "blinked %d times", args["times"])
    return args
"""


@pytest.fixture(scope="module")
def served(world: World) -> World:
    """The board runs the application."""
    content = world.image("1.1.0", APP)
    world.serve(content)
    world.wait_for_update("confirmed", world.send(world.order(content)))
    return world


def configure(world: World, payload: bytes) -> dict[str, object]:
    """The event that answers it."""
    mark = len(world.operator.messages)
    world.operator.publish(f"signet/{DEVICE}/down/config", payload)
    return world.wait_for(lambda _, report: report.get("event") == "config", mark)


def test_it_reads_its_data_and_the_time(served):
    found = served.command("show")["result"]
    ballast = (served.folder / "data/ballast").read_bytes()
    assert (found["files"], found["head"]) == (["ballast"], list(ballast[:4]))
    assert found["time"][1] == 2
    assert found["config"] == {"interval_s": 10, "gain": 0.5}


def test_configuration_is_checked_on_the_board(served):
    assert configure(served, b'{"gain":2}')["ok"]
    assert served.command("show")["result"]["config"] == {"interval_s": 10, "gain": 2.0}
    for payload, reason in {
        b'{"gain":true}': "gain: expected a number from 0 to 2, found true",
        b'{"gain":1e999}': "gain: expected a number from 0 to 2, found a number out of all reason",
        b'{"interval_s":%b}' % (b"9" * 900): "interval_s: expected a whole number from 1 to 60, ",
        b'{"gain":%b1%b}' % (b"[" * 400, b"]" * 400): "gain: expected a number from 0 to 2, found ",
        b'{"volume":1}': "unknown: 'volume'; expected of: gain, interval_s",
    }.items():
        event = configure(served, payload)
        assert event["ok"] is False
        assert str(event["reason"]).startswith(reason)
    assert served.command("show")["result"]["config"] == {"interval_s": 10, "gain": 2.0}


def test_arguments_are_checked_on_the_board_and_the_log_goes_up(served):
    assert served.command("blink", times=3)["result"] == {"times": 3}
    for times in (0, 11, True, "3", None, 3.0, [3]):
        answer = served.command("blink", times=times)
        assert answer["ok"] is False
        assert "times: expected a whole number from 1 to 10, found " in answer["reason"]
    found = served.command("log")["result"]
    assert [line[0] for line in found["lines"]] == [0, 1]
    assert [line[2:] for line in found["lines"]] == [
        ["info", "started with ['gain', 'interval_s']"],
        ["warning", "blinked 3 times"],
    ]
    assert served.command("log", **{"from": found["next"]})["result"]["lines"] == []
    assert served.command("log", level="warning")["result"]["lines"] == found["lines"][1:]


def kept(world: World, mark: int) -> list[tuple[int, int]]:
    """(number, value) of what was kept and has come."""
    reports = [message.json() for message in world.operator.messages[mark:]]
    assert all(report["kept"][2] == 2 for report in reports if "kept" in report)
    return [(report["kept"][0], report["v"]) for report in reports if "kept" in report]


def test_kept_telemetry_comes_in_order_over_outages_and_restarts(served):
    """What was written is not lost, and a repeat has the number that it had."""
    world, mark = served, len(served.operator.messages)
    assert world.command("keep", count=10)["ok"]
    world.wait_for(lambda _, report: report.get("v") == 10, mark)
    assert [value for _, value in kept(world, mark)] == list(range(1, 11))
    first = kept(world, mark)[0][0]
    assert [number for number, _ in kept(world, mark)] == list(range(first, first + 10))
    lines = len(world.board.lines)
    assert world.command("keep", count=20)["ok"]
    world.proxy.take_down()
    world.board.wait_for_line("app: kept 30", start=lines)
    world.board.power_off()  # without a word
    world.proxy.bring_back()
    world.board.power_on(record_flash=True)
    again = len(world.operator.messages)
    assert world.command("keep", count=1)["ok"]
    world.wait_for(lambda kind, report: kind == "telemetry" and report.get("v") == 1, again)
    found = dict(kept(world, mark))
    in_order = [found[number] for number in sorted(found)]
    assert in_order[-1] == 1
    assert in_order[:-1] == list(range(1, len(in_order)))  # nothing is missing but the last
    assert 30 - 8 <= len(in_order) - 1 <= 30


def test_what_is_in_memory_is_written_before_a_restart(served):
    """An update: the new version sends what the one before has kept, and does not know of."""
    world, mark = served, len(served.operator.messages)
    lines = len(world.board.lines)
    content = world.image("1.2.0", counter=1)
    world.serve(content)
    assert world.command("keep", count=3)["ok"]
    world.proxy.drop()
    world.board.wait_for_line("app: kept 4", start=lines)
    world.wait_for_update("confirmed", world.send(world.order(content, version="1.2.0")))
    world.wait_for(lambda _, report: report.get("v") == 4, mark)
    found = dict(kept(world, mark))
    in_order = [found[number] for number in sorted(found)]
    # A command whose acknowledgement got lost comes twice, as does a record.
    assert in_order == list(range(in_order[0], in_order[0] + len(in_order)))
    assert set(in_order) >= {2, 3, 4}
