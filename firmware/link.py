"""The network: Wi-Fi, joined again and again, and the time from it."""

import asyncio
import json

import network
from micropython import const

from firmware import sntp, store
from firmware.clock import host_port

_PATH = const("/settings.json")
_LIMIT = const(1024)
_TIMEOUT_S = const(30)


class LinkError(OSError):
    """The network could not be joined."""


def _load_wifi():
    """{"ssid": str, "key": str} of the settings; {} if there are none."""
    try:
        wifi = json.loads(store.load(_PATH, _LIMIT) or b"{}")["wifi"]
    except (ValueError, KeyError, TypeError):
        return {}
    return wifi if isinstance(wifi, dict) else {}


async def setup(agent):
    """Join the network, if need be, and set the clock; LinkError if there is no network."""
    record = agent.boot.record
    await join(record["id"])
    await sntp.set_clock(agent.clock.floor, *host_port(record["ntp"]))


async def join(hostname):
    """Return once the network is up; LinkError after 30 s."""
    wlan = network.WLAN(network.STA_IF)
    if wlan.active() and wlan.isconnected():
        return
    wifi = _load_wifi()
    network.hostname(hostname)
    # Off and on again: after some failures the radio only recovers this way.
    wlan.active(False)
    wlan.active(True)
    wlan.connect(wifi.get("ssid", ""), wifi.get("key", ""))
    for _ in range(_TIMEOUT_S * 10):
        await asyncio.sleep_ms(100)
        if wlan.isconnected():
            return
    raise LinkError(
        "Wi-Fi %r: status %s after %d s" % (wifi.get("ssid"), wlan.status(), _TIMEOUT_S)
    )
