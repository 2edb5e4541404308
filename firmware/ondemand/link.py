"""The network, joined again and again, and the time from it, guessed and then checked."""

import asyncio
import json

import network
from micropython import const

from firmware.ondemand import store, unload

_PATH = const("/settings.json")
_LIMIT = const(1024)
_ALONE_S = const(30)
# With another one to try. Four of them, and Ethernet before them, fit the session's 60 s.
_EACH_S = const(10)


async def setup(agent):
    """Join the network, if need be, and guess the time; OSError if there is no network."""
    record = agent.boot.record
    await join(agent)
    if not (agent.timed or agent.heard):
        from firmware.ondemand import sntp

        if await sntp.set_clock(agent.clock_floor, *host_port(record["ntp"])):
            agent.timed = 0
        del sntp
        unload()


async def broker(agent):
    """Do what comes before a connection to the broker; ("host", port) of it."""
    await setup(agent)
    record = agent.boot.record
    # At the first connection after a sleep this is known, and the module takes 0.1 s to load.
    if agent.timed or not agent.heard or "time" in agent.state:
        from firmware.ondemand import sync

        await sync.query(agent, *host_port(record["images"]))
    return host_port(record["broker"])


async def join(agent):
    """Return once there is a network: Ethernet if the board has it, or else Wi-Fi; or OSError.

    `wifi` in the state is the name of the network, None over Ethernet; it is not there before.
    """
    record = agent.boot.record
    state = agent.state
    has_ethernet = record.get("ethernet")
    # Ethernet does not need what Wi-Fi's driver, once it is there, takes of the IDF's heap.
    if state.get("wifi", None if has_ethernet else "") is not None:
        wlan = network.WLAN(network.STA_IF)
        if wlan.active() and wlan.isconnected():
            state["wifi"] = wlan.config("ssid")
            return
        wlan.active(False)
    network.hostname(record["id"])
    try:
        settings = json.loads(store.load(_PATH, _LIMIT) or b"{}")
    except ValueError:  # vfs is not trusted
        settings = None
    if not isinstance(settings, dict):
        settings = {}
    if has_ethernet:
        from firmware.ondemand import ethernet

        if await ethernet.join(agent, settings.get("ethernet"), settings.get("wifi")):
            state["wifi"] = None
            return
    state["wifi"] = ""  # its driver is there from here on
    state["wifi"] = await connect(find(settings.get("wifi")))


def find(setting):
    """[(name, passphrase, what `ifconfig` is to be given, or None)], from a board's settings.

    A single network, without a list around it, is how boards were provisioned at first.
    """
    if not isinstance(setting, list):
        setting = [setting]
    # vfs is not trusted: what is not one of ours is no network, and none has no name.
    found = [item for item in setting if isinstance(item, dict)] or [{}]
    return [(item.get("ssid", ""), item.get("key", ""), item.get("ifconfig")) for item in found]


async def connect(networks):
    """The name of the first network that takes us and has an address for us; or OSError."""
    wlan = network.WLAN(network.STA_IF)
    limit_s = _EACH_S if networks[1:] else _ALONE_S
    failed = []
    for name, key, address in networks:
        # Off and on again: after some failures the radio only recovers this way.
        wlan.active(False)
        wlan.active(True)
        try:
            if address:
                wlan.ifconfig(address)
        except (TypeError, ValueError) as error:
            failed.append("%r: address: %s" % (name, error))
            continue
        # The driver keeps the reason of its last failure, which may be another network's.
        before = wlan.status()
        wlan.connect(name, key)
        for _ in range(limit_s * 10):
            await asyncio.sleep_ms(100)
            if wlan.isconnected():
                return name
            # It goes on trying whatever it says. So we do, if there is nothing else to try.
            status = wlan.status()
            if status != before and status < network.STAT_IDLE and networks[len(failed) + 1 :]:
                break
        failed.append("%r: status %s" % (name, status))
    raise OSError("no Wi-Fi network: " + ", ".join(failed))


def host_port(text):
    """("host", port) of "host:port"."""
    host, _, port = text.rpartition(":")
    return host, int(port)
