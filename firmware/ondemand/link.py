"""The network: Wi-Fi, joined again and again, and the time from it, guessed and then checked."""

import asyncio
import json

import network
from micropython import const

from firmware.ondemand import store, unload

_PATH = const("/settings.json")
_LIMIT = const(1024)
_TIMEOUT_S = const(30)


async def setup(agent):
    """Join the network, if need be, and guess the time; OSError if there is no network."""
    record = agent.boot.record
    await join(record["id"])
    if not (agent.timed or agent.slept):
        from firmware.ondemand import sntp

        if await sntp.set_clock(agent.clock_floor, *host_port(record["ntp"])):
            agent.timed = 0
        del sntp
        unload()


async def broker(agent):
    """Do what comes before a connection to the broker; ("host", port) of it."""
    await setup(agent)
    from firmware.ondemand import sync

    record = agent.boot.record
    await sync.query(agent, *host_port(record["images"]))
    return host_port(record["broker"])


async def join(hostname):
    """Return once the network is up; OSError after 30 s."""
    wlan = network.WLAN(network.STA_IF)
    if wlan.active() and wlan.isconnected():
        return
    try:
        wifi = json.loads(store.load(_PATH, _LIMIT) or b"{}")["wifi"]
        ssid, key = wifi.get("ssid", ""), wifi.get("key", "")
    except (ValueError, KeyError, TypeError, AttributeError):  # none, or not one of ours
        ssid = key = ""
    network.hostname(hostname)
    # Off and on again: after some failures the radio only recovers this way.
    wlan.active(False)
    wlan.active(True)
    wlan.connect(ssid, key)
    for _ in range(_TIMEOUT_S * 10):
        await asyncio.sleep_ms(100)
        if wlan.isconnected():
            return
    raise OSError("Wi-Fi %r: status %s after %d s" % (ssid, wlan.status(), _TIMEOUT_S))


def host_port(text):
    """("host", port) of "host:port"."""
    host, _, port = text.rpartition(":")
    return host, int(port)
