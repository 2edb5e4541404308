"""What an application has of `device`, on a board with its servers, in a production image."""

import pytest

from host_tests.firmware.world import DEVICE, World

pytest_plugins = ["host_tests.tool_fixtures", "host_tests.fleet_fixtures"]

APP = """
async def run(device):
    device.configure({"interval_s": (10, 1, 60), "gain": (0.5, 0, 2)})
    device.commands["show"] = show
    device.commands["blink"] = blink, {"times": (int, 1, 10)}
    device.log("info", "started with %s", sorted(device.config))
    while True:
        await device.sleep(1)

def show(device, args):
    with device.files.open("ballast", "rb") as file:
        head = list(file.read(4))
    return {"config": device.config, "files": device.files.names(), "head": head,
            "time": device.time()}

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
