"""`network.LAN` of the ESP32 port, network_lan.c: a PHY beside the chip's own MAC.

What the cable leads to is the first line of chip.air: "up", "no address" (a link without DHCP),
"no link", or "no PHY". Without it: "up".
"""

import time as _time

import network as _network

PHY_LAN8710 = 0
PHY_LAN8720 = 1
PHY_IP101 = 2
PHY_RTL8201 = 3
PHY_DP83848 = 4
PHY_KSZ8041 = 5
PHY_KSZ8081 = 6
ETH_INITIALIZED = 0
ETH_STARTED = 1
ETH_STOPPED = 2
ETH_CONNECTED = 3
ETH_DISCONNECTED = 4
ETH_GOT_IP = 5

_chip = None  # network.py puts it here: firmware, and what is loaded beside it, cannot import it
_PINS = 40
_LINK_MS = 100
_DHCP_MS = 100


def _cable():
    if not _chip.air:
        return b"up"
    _chip.air.seek(0)
    return _chip.air.readline().strip()


class LAN:
    """Every object is the one driver: whoever is second gets what the first one made."""

    _ready = False
    _failed = False
    _active = False
    _static = None
    _started = 0
    _status = ETH_INITIALIZED

    def __init__(self, id=None, *, mdc=None, mdio=None, reset=None, power=None, phy_addr, phy_type,
                 ref_clk_mode=-1, ref_clk=None):  # fmt: skip
        if LAN._ready:
            return
        if id not in (None, 0):
            raise ValueError("invalid LAN interface identifier")
        for pin in (mdc, mdio, reset, power, ref_clk):
            if pin is not None and not 0 <= pin < _PINS:
                raise ValueError("invalid pin")
        if not 0 <= phy_addr <= 31:
            raise ValueError("invalid phy address")
        if not PHY_LAN8710 <= phy_type <= PHY_KSZ8081:
            raise ValueError("invalid phy type")
        if mdc is None or mdio is None:
            raise ValueError("mdc and mdio must be specified")
        if LAN._failed:  # what the first attempt left behind is in the way
            LAN._ready = True
            raise OSError("esp_netif_attach failed")
        if _cable() == b"no PHY":
            LAN._failed = True
            raise OSError("esp_eth_driver_install failed")
        LAN._ready = True

    def active(self, is_active=None):
        if is_active is not None and bool(is_active) != LAN._active:
            LAN._active = bool(is_active)
            LAN._started = _time.ticks_ms()
            LAN._status = ETH_STARTED if is_active else ETH_STOPPED
        return LAN._active

    def status(self):
        if not LAN._active or LAN._failed:
            return LAN._status
        # Its handler takes all interfaces' events: Wi-Fi's address is ETH_STARTED to it.
        if _network.WLAN(0).isconnected():
            LAN._status = ETH_STARTED
            return ETH_STARTED
        cable = _cable()
        up_ms = _time.ticks_diff(_time.ticks_ms(), LAN._started)
        if cable == b"no link" or up_ms < _LINK_MS:
            if LAN._status not in (ETH_STARTED, ETH_DISCONNECTED):
                LAN._status = ETH_DISCONNECTED
        elif LAN._static or (cable == b"up" and up_ms >= _LINK_MS + _DHCP_MS):
            LAN._status = ETH_GOT_IP
        else:
            LAN._status = ETH_CONNECTED
        return LAN._status

    def isconnected(self):
        return LAN._active and self.status() == ETH_GOT_IP

    def config(self, config_parameters):
        if config_parameters != "mac":
            raise ValueError("unknown config param")
        return _chip.mac[:5] + bytes((_chip.mac[5] + 3 & 255,))  # esp_read_mac: the fourth of four

    def ifconfig(self, configtuple=None):
        if configtuple == "dhcp":
            LAN._static = None
        elif configtuple is not None:
            LAN._static = _chip.import_rom("addresses").parse(configtuple)
        else:
            addresses = LAN._static or _network.WLAN._addresses
            return addresses if self.isconnected() else ("0.0.0.0",) * 4
