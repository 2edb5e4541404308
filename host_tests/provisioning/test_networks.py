"""The networks of a device: the file of them, what is refused, and where they are on a board."""

import json
import shutil
from pathlib import Path

import pytest

from host_tests.provisioning.bench import Bench
from host_tests.tool_helpers import RELEASE, snapshot
from signet.device import networks
from signet.device.networks import Ethernet, Networks, Wifi
from signet.errors import SignetError
from signet.formats import flash
from signet.image import slot_image
from trust.identity import Identity

pytest_plugins = ["host_tests.tool_fixtures"]

WIRED = '[ethernet]\nphy_type = "LAN8720"\nphy_addr = 1\nmdc = 23\nmdio = 18\n'
PLACE = 'address = "192.168.7.5/24"\ngateway = "192.168.7.1"\n'
HALL = '[[wifi]]\nssid = "Hall"\nkey = "correct horse"\n'
YARD = '[[wifi]]\nssid = "Yard"\n'
ADDRESSES = ("192.168.7.5", "255.255.255.0", "192.168.7.1", "192.168.7.1")


def write(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "networks.toml"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_all_of_it(tmp_path):
    wiring = 'power = 16\nreset = 5\nref_clk = 17\nref_clk_mode = "out"\ndns = "9.9.9.9"\n'
    path = write(tmp_path, WIRED + wiring + PLACE + HALL + YARD + PLACE)
    assert networks.read_networks(path) == (
        Ethernet("LAN8720", 1, 23, 18, 16, 5, 17, "out"),
        Networks(
            (Wifi("Hall", "correct horse"), Wifi("Yard", "", ADDRESSES)),
            (*ADDRESSES[:3], "9.9.9.9"),
        ),
    )


def test_the_least(tmp_path):
    assert networks.read_networks(write(tmp_path, YARD, 0o644)) == (None, Networks((Wifi("Yard"),)))
    wired = Ethernet("LAN8720", 1, 23, 18)
    assert networks.read_networks(write(tmp_path, WIRED)) == (wired, Networks())
    assert wired.record() == {"phy_type": "LAN8720", "phy_addr": 1, "mdc": 23, "mdio": 18}


def place(address: str, gateway: str = "192.168.7.1", dns: str = "192.168.7.1") -> str:
    return f'{YARD}address = "{address}"\ngateway = "{gateway}"\ndns = "{dns}"\n'


def wired(old: str, new: str = "") -> str:
    assert old in WIRED
    return WIRED.replace(old, new)


BAD = {
    "empty": ("", "no network, expected [ethernet] or [[wifi]]"),
    "not TOML": ("[[wifi]\n", "not TOML: "),
    "unknown table": ("[lan]\n", "lan is not known, expected ethernet, wifi"),
    "one table": ('[wifi]\nssid = "Yard"\n', "wifi is one table, expected [[wifi]] for each"),
    "no table": ("wifi = [1]\n", "wifi is no table"),
    "unknown field": (YARD + "pass = 1\n", "wifi.pass is not known, expected ssid, key, address"),
    "no name": ('[[wifi]]\nkey = "correct horse"\n', "Wi-Fi name '', expected 1 to 32 bytes"),
    "name is a number": ("[[wifi]]\nssid = 1\n", "ssid is no text"),
    "key is a number": (YARD + "key = 12345678\n", "key is no text"),
    "short key": (YARD + 'key = "hunter2"\n', "passphrase of 7 characters, expected 8 to 63"),
    "one name twice": (HALL + YARD + HALL, "two Wi-Fi networks 'Hall', expected each name once"),
    "five": (
        "".join(f'[[wifi]]\nssid = "{n}"\n' for n in range(5)),
        "5 Wi-Fi networks, expected up to 4",
    ),
    "more than a board reads": (
        "".join(f'[[wifi]]\nssid = "{n}{"ü" * 15}"\nkey = "{"k" * 63}"\n{PLACE}' for n in range(4)),
        "bytes as JSON, expected at most 1024",
    ),
    "address alone": (YARD + 'address = "10.0.0.1/8"\n', "'Yard': address '10.0.0.1/8' without"),
    "gateway alone": (YARD + 'gateway = "192.168.7.1"\n', "gateway without address"),
    "dns alone": (YARD + 'dns = "192.168.7.1"\n', "dns without address"),
    "no netmask": (place("192.168.7.5"), "address '192.168.7.5', expected the form 192.168.7.5/24"),
    "no address": (place("192.168.7.256/24"), "address '192.168.7.256', expected an IPv4 address"),
    "IPv6": (place("fe80::1/64"), "address 'fe80::1/64', expected the form"),
    "group": (place("224.0.0.5/24"), "address '224.0.0.5', expected the address of one host"),
    "loopback": (place("127.0.0.1/8"), "address '127.0.0.1', expected the address of one host"),
    "netmask with a hole": (
        place("192.168.7.5/255.0.255.0"),
        "netmask '255.0.255.0' of '192.168.7.5/255.0.255.0', expected 8 to 30, or ones and then",
    ),
    "mask of hosts": (place("192.168.7.5/0.0.0.255"), "netmask '0.0.0.255'"),
    "netmask for two": (place("192.168.7.5/31"), "netmask '31'"),
    "netmask of all": (place("192.168.7.5/0"), "netmask '0'"),
    "the subnet's own": (place("192.168.7.0/24"), "is 192.168.7.0/24's own or its broadcast"),
    "broadcast": (place("192.168.7.255/24"), "is 192.168.7.0/24's own or its broadcast"),
    "gateway elsewhere": (
        place("192.168.7.5/24", "192.168.8.1"),
        "gateway '192.168.8.1', expected another address in 192.168.7.0/24",
    ),
    "gateway is the board": (place("192.168.7.5/24", "192.168.7.5"), "gateway '192.168.7.5'"),
    "dns is a name": (place("192.168.7.5/24", dns="dns.example"), "dns 'dns.example', expected an"),
    "no PHY": (wired('phy_type = "LAN8720"\n'), "ethernet without phy_type"),
    "no pin": (wired("mdio = 18\n"), "ethernet without mdio"),
    "unknown PHY": (wired("LAN8720", "W5500"), "phy_type 'W5500', expected one of LAN8710, LAN87"),
    "PHY is a number": (wired('"LAN8720"', "1"), "phy_type 1, expected one of"),
    "PHY's address": (wired("phy_addr = 1", "phy_addr = 32"), "phy_addr 32, expected 0 to 31"),
    "pin is true": (wired("mdc = 23", "mdc = true"), "mdc True, expected a pin of 0, 1, 2"),
    "pin is huge": (wired("mdc = 23", f"mdc = {'9' * 99}"), "mdc 999"),
    "pin of the flash": (wired("mdc = 23", "mdc = 6"), "mdc 6, expected a pin of"),
    "input only": (WIRED + "power = 34\n", "power 34, expected a pin of"),
    "pin of the MAC": (WIRED + "power = 21\n", "power 21, expected a pin of"),
    "one pin twice": (WIRED + "power = 18\n", "power 18, which is mdio's"),
    "pin of the clock": (WIRED + "power = 0\n", "power 0, which is ref_clk's"),
    "clock's pin": (WIRED + 'ref_clk = 17\n', "ref_clk 17, expected 0 with 'in'"),
    "clock's mode": (WIRED + 'ref_clk_mode = "both"\n', "ref_clk_mode 'both', expected 'in' or"),
    "mode is a list": (WIRED + 'ref_clk_mode = ["in"]\n', "ref_clk_mode ['in'], expected 'in' or"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "reason"), BAD.values(), ids=BAD)
def test_what_cannot_be_is_refused(tmp_path, text, reason):
    with pytest.raises(SignetError) as failure:
        networks.read_networks(write(tmp_path, text))
    assert str(failure.value).startswith(f"{tmp_path / 'networks.toml'}: ")
    assert reason in str(failure.value)
    assert failure.value.exit_code == 2
    for secret in ("hunter2", "12345678", "correct horse"):
        assert secret not in str(failure.value)


def test_passphrases_are_for_their_owner(tmp_path):
    with pytest.raises(SignetError, match="can be read by others"):
        networks.read_networks(write(tmp_path, HALL, 0o640))


# What firmware/ondemand/link.py reads; the first form is what it read before there were several.
SETTINGS = {
    "none": (Networks(), None),
    "one": (Networks((Wifi("a", "secret"),)), {"wifi": {"ssid": "a", "key": "secret"}}),
    "one with an address": (
        Networks((Wifi("a", "", ADDRESSES),)),
        {"wifi": [{"ssid": "a", "key": "", "ifconfig": list(ADDRESSES)}]},
    ),
    "two": (
        Networks((Wifi("a", "secret"), Wifi("b"))),
        {
            "wifi": [
                {"ssid": "a", "key": "secret", "ifconfig": "dhcp"},
                {"ssid": "b", "key": "", "ifconfig": "dhcp"},
            ]
        },
    ),
    "Ethernet's address": (Networks((), ADDRESSES), {"ethernet": list(ADDRESSES)}),
}


@pytest.mark.parametrize(("chosen", "expected"), SETTINGS.values(), ids=SETTINGS)
def test_settings_of_a_board(chosen, expected):
    content = chosen.settings()
    assert (json.loads(content) if content else None) == expected


# --- signet device provision


@pytest.fixture
def wide(keys, project, tmp_path) -> Bench:
    """A bench whose image knows more than one network."""
    source = tmp_path / "project"
    shutil.copytree(project, source)
    (source / "firmware/ondemand").mkdir()
    (source / "firmware/ondemand/ethernet.py").write_text("KNOWN = True\n")
    image = tmp_path / "wide.img"
    unsigned = slot_image.build_image(RELEASE, source)
    image.write_bytes(slot_image.sign_image(unsigned, keys / "release.key"))
    return Bench(tmp_path, keys, source, image)


def board(path: Path):
    """Its record, and what `vfs` holds."""
    chip = flash.Flash.load(path)
    return Identity(chip.device("esp_secure_cert")).record(), chip.read("vfs")


def test_a_board_with_all_of_it(wide):
    path = write(wide.folder, WIRED + PLACE + HALL + YARD)
    done = wide.run("--id", "dev-1", "--networks", path, "-o", wide.folder / "f.bin", many=False)
    assert (done.returncode, done.stderr) == (0, "")
    record, content = board(wide.folder / "f.bin")
    assert record["ethernet"] == Ethernet("LAN8720", 1, 23, 18).record()
    settings = networks.read_networks(path)[1].settings()
    assert settings in content
    assert b"correct horse" not in done.stdout.encode() + wide.database.read_bytes()


def test_addresses_of_a_list_are_of_what_is_tried_first(wide):
    rows = ["id,mac,address,gateway"]
    rows += [f"dev-{n},,10.0.0.{n}/8,10.0.0.99" for n in (1, 2)] + ["dev-3,,,"]
    wide.csv.write_text("\n".join(rows))
    for text, key in ((HALL + YARD, "wifi"), (WIRED + HALL, "ethernet")):
        done = wide.run("--networks", write(wide.folder, text))
        assert (done.returncode, done.stderr) == (0, "")
        for number in (1, 2):
            _, content = board(wide.boards / f"dev-{number}/flash.bin")
            start = content.index(b'{"wifi"')
            settings = json.loads(content[start : content.index(b"}\xff", start) + 1])
            first = settings["wifi"][0]["ifconfig"] if key == "wifi" else settings[key]
            assert first == [f"10.0.0.{number}", "255.0.0.0", "10.0.0.99", "10.0.0.99"]
            assert settings["wifi"][-1]["ifconfig"] == "dhcp"
        assert b"10.0.0" not in board(wide.boards / "dev-3/flash.bin")[1]
        shutil.rmtree(wide.boards)
        wide.database.unlink()


REFUSED = {
    "one address for many": (
        HALL + PLACE, "id\na\nb\n", "b: Wi-Fi 'Hall': 192.168.7.5 is a's already",
    ),
    "one address twice": (
        WIRED, "id,address,gateway\na,10.0.0.1/8,10.0.0.9\nb,10.0.0.1/8,10.0.0.9\n",
        "b: Ethernet: 10.0.0.1 is a's already",
    ),
    "two sources": (HALL, "id,wifi_ssid\na,Yard\n", "a: wifi_ssid in"),
    "address in nothing": (
        None, "id,address,gateway\na,10.0.0.1/8,10.0.0.9\n", "a: an address, and no network",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "rows", "reason"), REFUSED.values(), ids=REFUSED)
def test_lists_that_do_not_go_together_stop_the_run(wide, text, rows, reason):
    wide.csv.write_text(rows)
    more = ["--networks", write(wide.folder, text)] if text else []
    before = snapshot(wide.folder)
    done = wide.run(*more)
    assert done.returncode == 2
    assert reason in done.stderr
    assert snapshot(wide.folder) == before
    assert not wide.boards.exists()


@pytest.mark.parametrize("text", [WIRED, HALL + YARD, HALL + PLACE])
def test_an_image_that_knows_one_network_is_not_given_more(bench, text):
    path = write(bench.folder, text)
    target = bench.folder / "f.bin"
    done = bench.run("--id", "dev-1", "--networks", path, "-o", target, many=False)
    assert done.returncode == 1
    assert "its firmware knows one Wi-Fi network, by DHCP" in done.stderr
    assert not target.exists()
    path = write(bench.folder, HALL)
    done = bench.run("--id", "dev-1", "--networks", path, "-o", target, many=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert b'{"wifi": {"ssid": "Hall", "key": "correct horse"}}' in board(target)[1]


def test_two_options_for_one_thing(wide):
    path = write(wide.folder, HALL)
    done = wide.run("--networks", path, "--wifi-ssid", "Hall")
    assert done.returncode == 2
    assert "--networks and --wifi-ssid exclude each other" in done.stderr
