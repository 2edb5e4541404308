"""The networks of a device: Ethernet, then access points in their order; and a file of them.

    [ethernet]                   # if there is a PHY at the chip's own MAC (RMII)
    phy_type = "LAN8720"         # one of PHYS
    phy_addr = 1
    mdc = 23                     # GPIO numbers, as of all pins
    mdio = 18
    power = 16                   # optional, as is all that follows
    reset = 5
    ref_clk = 17
    ref_clk_mode = "out"         # "in": the PHY has the clock; "out": the chip has it
    address = "192.168.7.5/24"   # without it: DHCP
    gateway = "192.168.7.1"      # needed with an address
    dns = "192.168.7.1"          # without it: the gateway

    [[wifi]]                     # up to MOST_WIFI, the best first
    ssid = "Hall 1"
    key = "correct horse"        # without it: an open network. address, gateway, dns as above

What describes the board, the wiring, goes into its record; the rest are settings on `vfs`.
"""

import ipaddress
import json
import re
import reprlib
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from signet import files
from signet.errors import SignetError

PHYS = ("LAN8710", "LAN8720", "IP101", "RTL8201", "DP83848", "KSZ8041", "KSZ8081")
MOST_WIFI = 4  # the firmware tries each for 10 s, within the 60 s that a connection may take
_MOST_SETTINGS = 1024  # bytes, which firmware/ondemand/link.py reads
# Of an ESP32: outputs that are neither the flash's nor wired to the MAC (19, 21, 22, 25, 26, 27).
_PINS = (0, 1, 2, 3, 4, 5, 12, 13, 14, 15, 16, 17, 18, 23, 32, 33)
_CLOCK_PINS = {"in": (0,), "out": (0, 16, 17)}
_OUTPUTS = ("mdc", "mdio", "power", "reset")
_WIRING = ("phy_type", "phy_addr", *_OUTPUTS, "ref_clk", "ref_clk_mode")
_PLACE = ("address", "gateway", "dns")
_INTERFACE = re.compile(r"(?P<ip>[0-9.]+)/(?P<mask>[0-9.]+)")
_OTHERS_MAY_READ = 0o077

# Address, netmask, gateway and name server, as `ifconfig` takes them.
Addresses = tuple[str, str, str, str]


@dataclass(frozen=True)
class Ethernet:
    """The wiring of a PHY: `network.LAN`'s arguments. Pins are GPIO numbers."""

    phy_type: str
    phy_addr: int
    mdc: int
    mdio: int
    power: int | None = None
    reset: int | None = None
    ref_clk: int | None = None
    ref_clk_mode: str | None = None

    def record(self) -> dict[str, Any]:
        """As the provisioning record has it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Wifi:
    """A network to join: name, 1 to 32 bytes, and passphrase, 8 to 63 characters or none.

    addresses: None for DHCP.
    """

    ssid: str
    key: str = ""
    addresses: Addresses | None = None


@dataclass(frozen=True)
class Networks:
    """What a device is to join. addresses: of Ethernet; None for DHCP, or without Ethernet."""

    wifi: tuple[Wifi, ...] = ()
    addresses: Addresses | None = None

    @property
    def is_plain(self) -> bool:
        """Whether firmware can use it that knows one network of Wi-Fi, by DHCP, and no more."""
        return not self.addresses and not self.wifi[1:] and not any(w.addresses for w in self.wifi)

    def settings(self) -> bytes | None:
        """The file /settings.json of a board; None if it needs none."""
        content: dict[str, Any] = {}
        if self.is_plain:  # in the form that all firmware knows
            for wifi in self.wifi:
                content["wifi"] = {"ssid": wifi.ssid, "key": wifi.key}
        else:
            if self.wifi:
                content["wifi"] = [
                    {"ssid": wifi.ssid, "key": wifi.key, "ifconfig": wifi.addresses or "dhcp"}
                    for wifi in self.wifi
                ]
            if self.addresses:
                content["ethernet"] = self.addresses
        return json.dumps(content).encode() if content else None


def check_wifi(wifi: Wifi) -> None:
    """Raise SignetError for what no access point can have; never shows the passphrase."""
    if not 1 <= len(wifi.ssid.encode()) <= 32:
        raise SignetError(f"Wi-Fi name {wifi.ssid!r}, expected 1 to 32 bytes")
    if wifi.key and not (8 <= len(wifi.key) <= 63 and wifi.key.isascii()):
        raise SignetError(
            f"Wi-Fi passphrase of {len(wifi.key)} characters, expected 8 to 63 in ASCII, or none"
        )


def check_networks(networks: Networks) -> None:
    """Raise SignetError for networks that a device could not use together."""
    for wifi in networks.wifi:
        check_wifi(wifi)
    names = [wifi.ssid for wifi in networks.wifi]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise SignetError(f"two Wi-Fi networks {twice[0]!r}, expected each name once")
    if len(names) > MOST_WIFI:
        raise SignetError(f"{len(names)} Wi-Fi networks, expected up to {MOST_WIFI}")
    size = len(networks.settings() or b"")
    if size > _MOST_SETTINGS:
        raise SignetError(f"networks: {size} bytes as JSON, expected at most {_MOST_SETTINGS}")


def check_ethernet(ethernet: Ethernet) -> None:
    """Raise SignetError for a wiring that an ESP32 cannot have."""
    if ethernet.phy_type not in PHYS:
        raise SignetError(f"phy_type {ethernet.phy_type!r}, expected one of {', '.join(PHYS)}")
    _check_number("phy_addr", ethernet.phy_addr, range(32), "0 to 31")
    mode = ethernet.ref_clk_mode
    if mode not in (None, *_CLOCK_PINS):
        raise SignetError(f"ref_clk_mode {mode!r}, expected 'in' or 'out'")
    clock_pins = _CLOCK_PINS[mode or "in"]
    clock = 0 if ethernet.ref_clk is None else ethernet.ref_clk
    _check_number("ref_clk", clock, clock_pins, f"{_numbers(clock_pins)} with {mode or 'in'!r}")
    used = {clock: "ref_clk"}
    for name in _OUTPUTS:
        pin = getattr(ethernet, name)
        if pin is None and name in ("power", "reset"):
            continue
        _check_number(name, pin, _PINS, f"a pin of {_numbers(_PINS)}")
        if pin in used:
            raise SignetError(f"{name} {pin}, which is {used[pin]}'s")
        used[pin] = name


def _check_number(name: str, value: Any, allowed: Any, expected: str) -> None:
    if type(value) is not int or value not in allowed:  # true is a number in Python
        raise SignetError(f"{name} {reprlib.repr(value)}, expected {expected}")


def _numbers(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


def parse_addresses(address: str, gateway: str = "", dns: str = "") -> Addresses | None:
    """Of an address with its netmask (/24 or /255.255.255.0), gateway and name server.

    None without any of them. Raises SignetError for what does not go together.
    """
    if not address:
        if gateway or dns:
            raise SignetError(f"{'gateway' if gateway else 'dns'} without address")
        return None
    interface = _parse_interface(address)
    subnet = interface.network
    if interface.ip in (subnet.network_address, subnet.broadcast_address):
        raise SignetError(f"address {address!r} is {subnet}'s own or its broadcast address")
    if not gateway:
        raise SignetError(f"address {address!r} without gateway")
    way = _parse_ip("gateway", gateway)
    if way not in subnet or way in (subnet.network_address, subnet.broadcast_address, interface.ip):
        raise SignetError(f"gateway {gateway!r}, expected another address in {subnet}")
    server = _parse_ip("dns", dns or gateway)
    return str(interface.ip), str(interface.netmask), str(way), str(server)


def _parse_interface(text: str) -> ipaddress.IPv4Interface:
    expected = "expected the form 192.168.7.5/24"
    match = _INTERFACE.fullmatch(text)
    if not match:
        raise SignetError(f"address {text!r}, {expected}")
    _parse_ip("address", match["ip"])
    try:
        interface = ipaddress.IPv4Interface(text)
    except ValueError as error:
        raise SignetError(
            f"netmask {match['mask']!r} of {text!r}, expected 8 to 30, or ones and then zeros"
        ) from error
    if not 8 <= interface.network.prefixlen <= 30 or (
        "." in match["mask"] and match["mask"] != str(interface.netmask)  # one of hosts
    ):
        raise SignetError(
            f"netmask {match['mask']!r} of {text!r}, expected 8 to 30, or ones and then zeros"
        )
    return interface


def _parse_ip(name: str, text: str) -> ipaddress.IPv4Address:
    try:
        found = ipaddress.IPv4Address(text)
    except ValueError as error:
        raise SignetError(f"{name} {text!r}, expected an IPv4 address") from error
    if found.is_multicast or found.is_unspecified or found.is_reserved or found.is_loopback:
        raise SignetError(f"{name} {text!r}, expected the address of one host")
    return found


def read_networks(path: Path) -> tuple[Ethernet | None, Networks]:
    """Read and check a file of networks, as above. Raises SignetError; shows no passphrase."""
    try:
        found = tomllib.loads(files.read_file(path, "networks").decode())
    except (ValueError, RecursionError) as error:
        raise SignetError(f"{path}: not TOML: {error}") from error
    try:
        _check_keys("", found, ("ethernet", "wifi"))
        tables = found.get("wifi", [])
        if not isinstance(tables, list):
            raise SignetError("wifi is one table, expected [[wifi]] for each")
        ethernet, addresses = _read_ethernet(found.get("ethernet"))
        networks = Networks(tuple(map(_read_wifi, tables)), addresses)
        if ethernet is None and not networks.wifi:
            raise SignetError("no network, expected [ethernet] or [[wifi]]")
        check_networks(networks)
    except SignetError as error:
        raise SignetError(f"{path}: {error}") from error
    if any(wifi.key for wifi in networks.wifi):
        check_private(path)
    return ethernet, networks


def _read_ethernet(table: Any) -> tuple[Ethernet | None, Addresses | None]:
    if table is None:
        return None, None
    _check_keys("ethernet.", table, _WIRING + _PLACE)
    missing = [name for name in ("phy_type", "phy_addr", "mdc", "mdio") if name not in table]
    if missing:
        raise SignetError(f"ethernet without {missing[0]}")
    try:
        ethernet = Ethernet(**{name: table[name] for name in _WIRING if name in table})
        check_ethernet(ethernet)
        return ethernet, _read_addresses(table)
    except SignetError as error:
        raise SignetError(f"ethernet: {error}") from error


def _read_wifi(table: Any) -> Wifi:
    _check_keys("wifi.", table, ("ssid", "key", *_PLACE))
    ssid, key = _text(table, "ssid"), _text(table, "key")
    try:
        return Wifi(ssid, key, _read_addresses(table))
    except SignetError as error:
        raise SignetError(f"wifi {ssid!r}: {error}") from error


def _read_addresses(table: dict[str, Any]) -> Addresses | None:
    return parse_addresses(*(_text(table, name) for name in _PLACE))


def _text(table: dict[str, Any], name: str) -> str:
    value = table.get(name, "")
    if not isinstance(value, str):
        raise SignetError(f"{name} is no text")  # which it is, is perhaps a passphrase
    return value


def _check_keys(name: str, table: Any, known: tuple[str, ...]) -> None:
    if not isinstance(table, dict):
        raise SignetError(f"{name.rstrip('.')} is no table")
    unknown = [key for key in table if key not in known]
    if unknown:
        raise SignetError(f"{name}{unknown[0]} is not known, expected {', '.join(known)}")


def check_private(path: Path) -> None:
    """Raise SignetError if others than its owner may read a file with passphrases."""
    if path.stat().st_mode & _OTHERS_MAY_READ:
        raise SignetError(
            f"{path}: holds Wi-Fi passphrases and can be read by others", f"chmod 600 {path}"
        )
