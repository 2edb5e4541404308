"""Which network a board joins: the settings, their order, and how long each is waited for.

The drivers are models of MicroPython's (ports/esp32, network_wlan.c and network_lan.c): `status`
goes on telling the last failure until there is a connection.
"""

import sys

GONE, REFUSED = 201, 202


class Nothing:
    """Stands for a module or an object; attributes are what it is made with."""

    def __init__(self, **attributes):
        for name in attributes:
            setattr(self, name, attributes[name])


class Radio:
    """`network.WLAN`. air: {name: (passphrase, ms until it is joined)}; others are not there."""

    now = 0  # ms
    FAILS_MS = 2500

    def __init__(self, air):
        self.air = air
        self.calls = []
        self.reason = 0
        self.wanted = None

    def active(self, is_active=None):
        if is_active is not None:
            self.wanted = None
            self.is_active = is_active
        return self.is_active

    def ifconfig(self, addresses):
        if addresses != "dhcp" and (not isinstance(addresses, list) or len(addresses) != 4):
            raise ValueError("invalid arguments")
        self.calls.append(addresses)

    def connect(self, name, key):
        assert self.is_active
        self.calls.append((name, key, Radio.now))
        self.wanted, self.key, self.since = name, key, Radio.now

    def isconnected(self):
        return self.status() == 1010

    def status(self):
        passed = Radio.now - self.since if self.wanted is not None else 0
        wanted, joins_ms = self.air.get(self.wanted, (None, 0))
        if wanted is not None and wanted == self.key:
            if passed >= joins_ms:
                self.reason = 0
                return 1010
        elif passed >= self.FAILS_MS:
            self.reason = GONE if wanted is None else REFUSED
        return self.reason or (1001 if self.wanted is not None else 1000)


async def _pass(ms):
    Radio.now += ms


def run(coroutine):
    """What a coroutine that never waits returns."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


def load(name, radio=None):
    """The module, with the drivers and a clock in the place of the board's."""
    before = sys.modules.get("network")
    sys.modules["network"] = Nothing()
    try:
        __import__("firmware.ondemand." + name)
    finally:
        sys.modules.pop("network")
        if before:
            sys.modules["network"] = before
    module = sys.modules.pop("firmware.ondemand." + name)
    module.asyncio = Nothing(sleep_ms=_pass, sleep=lambda seconds: _pass(seconds * 1000))
    module.network = Nothing(WLAN=lambda interface: radio, STA_IF=0, STAT_IDLE=1000)
    Radio.now = 0
    return module


def join(radio, setting):
    """Name of the network that is joined, or the text of the OSError."""
    try:
        link = load("link", radio)
        return run(link.connect(link.find(setting)))
    except OSError as error:
        return str(error)


STATIC = ["192.168.7.5", "255.255.255.0", "192.168.7.1", "192.168.7.1"]


def test_what_settings_say():
    link = load("link")
    one = {"ssid": "one", "key": "secret-1"}
    two = {"ssid": "two", "ifconfig": STATIC}
    first, second = ("one", "secret-1", None), ("two", "", STATIC)
    nothing = [("", "", None)]
    for setting, expected in (
        (one, [first]),  # as boards were provisioned at first
        ([one], [first]),
        ([one, two], [first, second]),
        ([two, one], [second, first]),
        (None, nothing),
        ([], nothing),
        ("one", nothing),
        (["one", 7, None], nothing),
        ([None, one], [first]),
        ({}, nothing),
    ):
        assert link.find(setting) == expected, setting


def names(count):
    return [{"ssid": name, "key": "secret-" + name} for name in "abcd"[:count]]


def joined(radio):
    return [call[0] for call in radio.calls if isinstance(call, tuple)]


def test_they_are_tried_in_their_order():
    air = {"b": ("secret-b", 1500), "c": ("secret-c", 100)}
    radio = Radio(air)
    assert join(radio, names(4)) == "b"
    assert joined(radio) == ["a", "b"]


def test_one_that_is_away_or_refuses_us_costs_no_more_than_it_takes_to_know():
    for first in ({}, {"a": ("another", 100)}):  # no such network, another passphrase
        radio = Radio(dict(first, b=("secret-b", 1500)))
        assert join(radio, names(2)) == "b"
        assert Radio.now <= Radio.FAILS_MS + 100 + 1500 + 100, Radio.now
        assert radio.reason == 0


def test_a_failure_of_the_one_before_is_not_taken_for_its_own():
    radio = Radio({"c": ("secret-c", 8000)})  # slow: DHCP
    assert join(radio, names(3)) == "c"
    assert joined(radio) == ["a", "b", "c"]


def test_one_that_says_nothing_is_left_after_10_s():
    radio = Radio({"a": ("secret-a", 60000), "b": ("secret-b", 100)})
    assert join(radio, names(2)) == "b"
    assert Radio.now == 10100


def test_a_single_one_has_30_s_whatever_the_driver_says():
    setting = names(1)
    radio = Radio({"a": ("secret-a", 29000)})
    radio.reason = GONE  # the driver goes on trying
    assert join(radio, setting) == "a"
    radio = Radio({})
    assert join(radio, setting) == "no Wi-Fi network: 'a': status 201"
    assert Radio.now == 30000
    assert join(Radio({}), setting[0]) == "no Wi-Fi network: 'a': status 201"
    assert Radio.now == 30000


def test_all_of_them_fit_the_time_that_a_session_has():
    radio = Radio({"b": ("another", 100), "c": ("secret-c", 60000)})
    said = join(radio, names(4))
    assert (
        said
        == "no Wi-Fi network: 'a': status 201, 'b': status 202, 'c': status 202, 'd': status 201"
    )
    assert "secret" not in said
    assert Radio.now <= 40000


def test_addresses_are_static_or_dhcp_again():
    two = [{"ssid": "a", "ifconfig": STATIC}, {"ssid": "b", "ifconfig": "dhcp"}]
    radio = Radio({"b": ("", 100)})
    assert join(radio, two) == "b"
    assert [call for call in radio.calls if not isinstance(call, tuple)] == [STATIC, "dhcp"]


def test_an_address_that_is_none_leaves_the_others():
    for address in ("192.168.7.5", ["192.168.7.5"], 7):
        radio = Radio({"a": ("", 100), "b": ("", 100)})
        assert join(radio, [{"ssid": "a", "ifconfig": address}, {"ssid": "b"}]) == "b"
        assert joined(radio) == ["b"]


class Cable:
    """`network.LAN`. status: by ms since it is active."""

    def __init__(self, steps, fails=None):
        self.steps = steps
        self.fails = fails
        self.made = []
        self.calls = []
        self.is_active = False

    def __call__(self, **wiring):
        self.made.append(wiring)
        if self.fails:
            raise self.fails
        return self

    def active(self, is_active=None):
        if is_active is not None:
            self.is_active = is_active
            self.since = Radio.now
        return self.is_active

    def status(self):
        return [status for ms, status in self.steps if Radio.now - self.since >= ms][-1]

    def isconnected(self):
        return self.is_active and self.status() == 5

    def ifconfig(self, addresses):
        self.calls.append(addresses)


WIRING = {"phy_type": "LAN8720", "phy_addr": 1, "mdc": 23, "mdio": 18, "power": 16}


class Agent:
    def __init__(self, wiring):
        self.boot = Nothing(record={"ethernet": dict(WIRING, **wiring)})
        self.device = self
        self.events = []
        self.restart_reason = None

    def event(self, name, **details):
        self.events.append((name, details["reason"]))


def plug(cable, agent, address=None, others=True):
    ethernet = load("ethernet")
    ethernet.network = Nothing(LAN=cable, ETH_CONNECTED=3, PHY_LAN8720=1)
    try:
        return run(ethernet.join(agent, address, others))
    except OSError as error:
        return str(error)


UP = ((0, 1), (2500, 3), (4000, 5))
NO_LINK = ((0, 1),)
NO_ADDRESS = ((0, 1), (2500, 3))


def test_ethernet_as_the_record_describes_it():
    for wiring, expected in (
        ({}, {"reset": None, "ref_clk": None, "ref_clk_mode": -1}),
        ({"ref_clk": 17, "ref_clk_mode": "out"}, {"ref_clk": 17, "ref_clk_mode": 3}),
        ({"reset": 5, "ref_clk_mode": "in"}, {"reset": 5, "ref_clk_mode": 1}),
    ):
        cable, agent = Cable(UP), Agent(wiring)
        assert plug(cable, agent, STATIC) is True
        made = cable.made[0]
        assert made["phy_type"] == 1
        assert [made[name] for name in ("phy_addr", "mdc", "mdio", "power")] == [1, 23, 18, 16]
        assert {name: made[name] for name in expected} == expected
        assert cable.calls == [STATIC]
        assert Radio.now == 4000
        assert plug(cable, agent, STATIC) is True  # again: the driver is as it was
        assert cable.calls == [STATIC]


def test_a_cable_that_leads_nowhere_is_left_in_time():
    for steps, words, limit_ms in ((NO_LINK, "no link", 5100), (NO_ADDRESS, "no address", 10000)):
        cable = Cable(steps)
        assert plug(cable, Agent({})) is False
        assert Radio.now == limit_ms
        assert not cable.is_active  # or its events would be taken for Wi-Fi's, and the other way
        cable = Cable(steps)
        assert plug(cable, Agent({}), others=None) == "Ethernet has " + words
        assert cable.is_active  # so that it is there when the cable is


def test_a_driver_that_fails_is_asked_once():
    for fails in (OSError("esp_eth_driver_install failed"), ValueError("invalid pin")):
        cable, agent = Cable(UP, fails), Agent({})
        assert plug(cable, agent) is False
        assert agent.boot.record["ethernet"] is None
        assert agent.events == [("error", "Ethernet: " + str(fails))]
        assert agent.restart_reason is None


def test_a_platform_without_ethernet_says_so():
    agent = Agent({"phy_type": "KSZ9999"})  # no such constant
    assert plug(Cable(UP), agent) is False
    assert agent.events[0][1].startswith("Ethernet: ")


def test_a_board_that_has_nothing_else_restarts():
    cable, agent = Cable(UP, OSError("esp_eth_driver_install failed")), Agent({})
    restarted = []
    sys.modules["firmware.ondemand.ending"] = Nothing(restart=restarted.append)
    try:
        assert plug(cable, agent, others=None) is False
    finally:
        del sys.modules["firmware.ondemand.ending"]
    assert restarted == [agent]
    assert agent.restart_reason == "Ethernet: esp_eth_driver_install failed"
    assert Radio.now == 30000
    assert agent.boot.record["ethernet"]
