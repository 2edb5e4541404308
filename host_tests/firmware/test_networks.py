"""Which network a whole board is in, among access points that come and go, and at a cable."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from host_tests.firmware.world import World
from host_tests.tool_helpers import REPO
from signet.board.virtual.board import VirtualBoard
from signet.device import flash_file
from signet.device.networks import Ethernet, Networks, Wifi

pytest_plugins = ["host_tests.tool_fixtures", "host_tests.fleet_fixtures"]

HALL, YARD = Wifi("Hall", "correct horse"), Wifi("Yard", "battery staple")
PLACE = ("192.168.7.5", "255.255.255.0", "192.168.7.1", "192.168.7.2")
APP = """
import network

async def run(device):
    device.commands["drivers"] = drivers
    while True:
        await device.sleep(1)

def drivers(device, args):
    wlan = network.WLAN(network.STA_IF)
    answer = {"wlan": wlan.active() and wlan.ifconfig()}
    if args:
        lan = network.LAN(phy_addr=1, phy_type=1)
        answer["lan"] = lan.active() and lan.ifconfig()
    return answer
"""


class Here:
    """A board, and its world."""

    def __init__(self, world: World, board: VirtualBoard):
        self.world, self.board = world, board
        self.mark = 0

    def power_on(self) -> None:
        self.mark = len(self.world.operator.messages)
        self.board.power_on()

    def change(self, air: dict[str, str], cable: str = "up") -> None:
        """Other networks; connections are the host's, so they are dropped as they would be."""
        self.mark = len(self.world.operator.messages)
        self.board.set_air(air, cable)
        self.world.proxy.drop()

    def wait_until_in(self, wifi: str | None) -> None:
        self.world.wait_for_state(self.mark, online=True, wifi=wifi)

    def drivers(self, **args: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.world.command("drivers", **args)["result"]
        return answer


@pytest.fixture
def provision(world: World, tmp_path) -> Iterator[Callable[..., Here]]:
    """Makes a board of other networks in place of the world's; one at a time, as it has its id."""
    boards = []

    def make(networks: Networks, ethernet: Ethernet | None = None) -> Here:
        world.board.power_off()
        image = tmp_path / "1.0.0.img"
        image.write_bytes(world.image("1.0.0", app=APP))
        target = tmp_path / "board/flash.bin"
        target.parent.mkdir()
        settings = replace(world.settings, ethernet=ethernet)
        flash_file.provision(settings, world.keys, image, REPO, target, networks=networks)
        boards.append(VirtualBoard(target.parent))
        return Here(world, boards[0])

    yield make
    for board in boards:
        board.power_off()


def test_the_first_network_that_takes_it(provision):
    here = provision(Networks((HALL, replace(YARD, addresses=PLACE))))
    here.board.set_air({"Street": "", "Yard": YARD.key})
    here.power_on()
    here.wait_until_in("Yard")
    assert here.drivers() == {"wlan": list(PLACE)}
    here.change({"Hall": HALL.key})
    here.wait_until_in("Hall")
    assert here.drivers()["wlan"][0] == "127.0.0.1"  # by DHCP again
    here.change({"Hall": "another one", "Yard": YARD.key})
    here.wait_until_in("Yard")
    assert not any(YARD.key in line or HALL.key in line for line in here.board.lines)


def test_none_that_takes_it_is_said_and_tried_again(provision):
    here = provision(Networks((HALL, YARD)))
    here.board.set_air({"Hall": "another one"})
    here.power_on()
    here.board.wait_for_line("no Wi-Fi network: 'Hall': status 202, 'Yard': status 20")
    here.change({"Yard": YARD.key})
    here.wait_until_in("Yard")


def test_a_cable_then_wifi_then_the_cable_again(provision):
    wired = Ethernet("LAN8720", 1, 23, 18)
    here = provision(Networks((HALL,), PLACE), wired)
    here.board.set_air({"Hall": HALL.key})
    here.power_on()
    here.wait_until_in(None)
    # Asking for it makes the WLAN driver, which is off.
    assert here.drivers(lan=True) == {"wlan": False, "lan": list(PLACE)}
    here.change({"Hall": HALL.key}, "no link")
    here.wait_until_in("Hall")
    assert here.drivers(lan=True)["lan"] is False
    here.change({}, "up")
    here.wait_until_in(None)
    assert here.drivers(lan=True) == {"wlan": False, "lan": list(PLACE)}


def test_a_phy_that_does_not_answer_is_reported_and_wifi_does(provision):
    here = provision(Networks((HALL,)), Ethernet("LAN8720", 1, 23, 18))
    here.board.set_air({"Hall": HALL.key}, "no PHY")
    here.power_on()
    here.wait_until_in("Hall")
    here.world.wait_for(
        lambda kind, report: (
            kind == "event" and report.get("reason") == "Ethernet: esp_eth_driver_install failed"
        ),
        here.mark,
    )
    here.change({"Hall": HALL.key})  # and is not asked again before a start
    here.wait_until_in("Hall")
    assert [line for line in here.board.lines if "Ethernet" in line] == [
        "signet: error: Ethernet: esp_eth_driver_install failed"
    ]
