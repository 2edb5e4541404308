"""`network` of the ESP32 port: a station that joins in 200 ms, while the host leaves the radio on.

The host can say which access points there are (chip.refusal); if it does not, all take us. Sockets
are the host's own and do not follow the link: only what the driver says of it changes.
"""

import time as _time

import chip as _chip
from micropython import const

STA_IF = 0
STAT_IDLE = 1000
STAT_CONNECTING = 1001
STAT_GOT_IP = 1010
STAT_NO_AP_FOUND = 201

_HOSTNAME_MAX_LEN = const(32)
_JOIN_MS = const(200)
del const  # the chip's module has none
_hostname = "mpy-esp32"
_lan = None


def __getattr__(name):
    """What is about Ethernet takes heap only if it is used."""
    global _lan
    if name[:3] not in ("LAN", "PHY", "ETH"):
        raise AttributeError(name)
    if not _lan:
        _lan = _chip.import_rom("lan")
        _lan._chip = _chip
    return getattr(_lan, name)


def hostname(name=None):
    global _hostname
    if name is None:
        return _hostname
    if len(name) > _HOSTNAME_MAX_LEN:
        raise ValueError
    _hostname = name


class WLAN:
    """network_wlan.c. Every object is the one station."""

    IF_STA = 0

    _active = False
    _joins = None  # ticks_ms at which it is there
    _wanted = False  # `connect` was called: the driver then reconnects by itself
    _ssid = ""
    _key = ""
    _reason = 0  # of the last failure; it lasts until there is a connection
    _static = None  # the addresses, if they are not of DHCP
    _addresses = ("127.0.0.1", "255.0.0.0", "127.0.0.1", "127.0.0.1")

    def __init__(self, interface_id=0):
        if interface_id != STA_IF:
            raise ValueError("invalid WLAN interface identifier")

    def active(self, is_active=None):
        if is_active is not None:
            WLAN._active = bool(is_active)
            if not is_active:
                WLAN._wanted = False
        return WLAN._active

    def connect(self, ssid=None, key=None, *, bssid=None):
        if not WLAN._active:
            raise OSError("Wifi Not Started")
        if ssid is not None:
            WLAN._ssid = ssid
            WLAN._key = key
        WLAN._wanted = True
        WLAN._joins = _time.ticks_add(_time.ticks_ms(), _JOIN_MS)

    def disconnect(self):
        if not WLAN._active:
            raise OSError("Wifi Not Started")
        WLAN._wanted = False

    def isconnected(self):
        return self.status() == STAT_GOT_IP

    def status(self, param=None):
        if param is None:
            if not WLAN._wanted:
                return WLAN._reason or STAT_IDLE
            if WLAN._joins is not None:
                if _time.ticks_diff(WLAN._joins, _time.ticks_ms()) > 0:
                    return WLAN._reason or STAT_CONNECTING
                WLAN._joins = None  # or it would lie ahead again when the ticks have wrapped
            WLAN._reason = _chip.refusal(WLAN._ssid, WLAN._key)
            return WLAN._reason or STAT_GOT_IP
        if param != "rssi":
            raise ValueError("unknown status param")
        if not self.isconnected():
            raise OSError("Wifi Not Connected")
        return -50

    def config(self, param=None, **kwargs):
        for name in kwargs:
            if name not in ("pm", "txpower", "reconnects"):
                raise ValueError("unknown config param")
        if param is None:
            return None
        if param == "mac":
            return _chip.mac
        if param == "ssid":
            return WLAN._ssid
        raise ValueError("unknown config param")

    def ifconfig(self, ip_mask_gateway_dns=None):
        if ip_mask_gateway_dns == "dhcp":
            WLAN._static = None
        elif ip_mask_gateway_dns is not None:
            WLAN._static = _chip.import_rom("addresses").parse(ip_mask_gateway_dns)
        else:
            return WLAN._static or WLAN._addresses if self.isconnected() else ("0.0.0.0",) * 4
