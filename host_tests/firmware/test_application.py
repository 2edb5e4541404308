"""What an application has of `device`, on a board with its servers, in a production image."""

import time

import pytest

from host_tests.firmware.world import DEVICE, WAIT_S, World

pytest_plugins = ["host_tests.tool_fixtures", "host_tests.fleet_fixtures"]

APP = """
async def run(device):
    device.configure({"interval_s": (10, 1, 60), "gain": (0.5, 0, 2)})
    device.commands["show"] = show
    device.commands["blink"] = blink, {"times": (int, 1, 10)}
    device.commands["keep"] = keep, {"first": (int, 1, 99), "last": (int, 1, 99)}
    device.log("info", "started with %s", sorted(device.config))
    while True:
        await device.sleep(0.2)
        while wanted:
            device.keep({"v": wanted[0]})
            await device.sleep(0.05)
            print("app: kept", wanted.pop(0))

def show(device, args):
    with device.files.open("ballast", "rb") as file:
        head = list(file.read(4))
    return {"config": device.config, "files": device.files.names(), "head": head,
            "time": device.time()}

wanted = []

def keep(device, args):
    wanted.extend(range(args["first"], args["last"] + 1))

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


def kept(world: World, mark: int) -> list[int]:
    """What was kept and has come, as a receiver has it: by number, a repeat dropped.

    A command may come twice, too, when its acknowledgement got lost: its values count once.
    """
    reports = [message.json() for message in world.operator.messages[mark:]]
    found = {report["kept"][0]: report["v"] for report in reports if "kept" in report}
    return list(dict.fromkeys(found[number] for number in sorted(found)))


def test_kept_telemetry_comes_in_order_over_outages_and_restarts(served):
    """What was written is not lost, and a repeat has the number that it had."""
    world, mark = served, len(served.operator.messages)
    assert world.command("keep", first=1, last=10)["ok"]
    found = world.wait_for(lambda _, report: report.get("v") == 10, mark)
    assert abs(found["kept"][1] - time.time()) < WAIT_S
    assert found["kept"][2] == 2  # authenticated
    assert kept(world, mark) == list(range(1, 11))
    lines = len(world.board.lines)
    assert world.command("keep", first=11, last=30)["ok"]
    world.proxy.take_down()
    world.board.wait_for_line("app: kept 30", start=lines)
    world.board.power_off()  # without a word
    world.proxy.bring_back()
    world.board.power_on(record_flash=True)
    assert world.command("keep", first=31, last=31)["ok"]
    world.wait_for(lambda _, report: report.get("v") == 31, mark)
    assert kept(world, mark)[:23] == list(range(1, 24))  # up to 7 of 30 were in memory


def test_what_is_in_memory_is_written_before_a_restart(served):
    """An update: the new version sends what the one before has kept, and does not know of it."""
    world, mark = served, len(served.operator.messages)
    lines = len(world.board.lines)
    content = world.image("1.2.0")
    world.serve(content)
    assert world.command("keep", first=41, last=43)["ok"]
    world.proxy.drop()
    world.board.wait_for_line("app: kept 43", start=lines)
    world.wait_for_update("confirmed", world.send(world.order(content, version="1.2.0")))
    world.wait_for(lambda _, report: report.get("v") == 43, mark)
    assert [value for value in kept(world, mark) if value > 40] == [41, 42, 43]


SLEEPER = """
async def run(device):
    count = device.rtc[0] if device.rtc else 0
    device.rtc = bytes((count + 1,))
    device.keep({"v": 100 + count})
    await device.deep_sleep(1, connect=count % 4 == 3)
"""


def test_what_is_kept_outlasts_deep_sleep_and_goes_up_before_one(served):
    """Of four wakes one connects; the others leave on flash what they have measured."""
    world, mark = served, len(served.operator.messages)
    content = world.image("1.3.0", SLEEPER)
    world.serve(content)
    world.wait_for_update("confirmed", world.send(world.order(content, version="1.3.0")))
    world.wait_for(lambda _, report: report.get("v") == 107, mark)
    after = len(world.operator.messages)
    world.wait_for(lambda _, report: "until" in report, after)  # it has said goodbye, and in time
    in_order = [value for value in kept(world, mark) if value >= 100]
    assert in_order == list(range(100, 100 + len(in_order)))
    world.board.power_off()
