"""Ethernet: the ESP32's own MAC, and the PHY that the provisioning record describes."""

import asyncio

import network
from micropython import const

_LINK_S = const(5)  # a PHY and a switch take 2 to 4 s to agree
_LIMIT_S = const(10)  # with DHCP
_PAUSE_S = const(30)
_CLOCKS = const((("in", 1), ("out", 3)))  # machine.Pin.IN, Pin.OUT


async def join(agent, address, others):
    """Whether there is a network at the cable.

    address: what `ifconfig` takes, or None for DHCP. others: there are other networks to try, so
    Ethernet goes off if it is no use: the port takes events of one driver for the other's.
    Without others: OSError.
    """
    try:
        lan = _load(agent.boot.record["ethernet"])
        if not lan.active():
            lan.active(True)
            if address:
                lan.ifconfig(address)
    except (AttributeError, OSError, TypeError, ValueError) as error:
        await _give_up(agent, "Ethernet: %s" % error, others)
        return False
    for tenths in range(_LIMIT_S * 10):
        await asyncio.sleep_ms(100)
        if lan.isconnected():
            return True
        if tenths >= _LINK_S * 10 and lan.status() != network.ETH_CONNECTED:
            break
    reason = "Ethernet has no " + ("address" if lan.status() == network.ETH_CONNECTED else "link")
    if not others:
        raise OSError(reason)
    print("signet: error:", reason)
    lan.active(False)
    return False


def _load(wiring):
    """The driver; the one that there is, if this is not the first call."""
    return network.LAN(
        mdc=wiring["mdc"],
        mdio=wiring["mdio"],
        reset=wiring.get("reset"),
        power=wiring.get("power"),
        phy_type=getattr(network, "PHY_" + wiring["phy_type"]),
        phy_addr=wiring["phy_addr"],
        ref_clk=wiring.get("ref_clk"),
        ref_clk_mode=dict(_CLOCKS).get(wiring.get("ref_clk_mode"), -1),
    )


async def _give_up(agent, reason, others):
    """Say why there is no Ethernet, and do without it until the next start.

    A driver that failed does not give back what it took, and the port's second one never gets an
    address. So a board that has nothing else restarts.
    """
    print("signet: error:", reason)
    if others:
        agent.boot.record["ethernet"] = None
        agent.device.event("error", reason=reason)
        return
    await asyncio.sleep(_PAUSE_S)
    agent.restart_reason = reason
    from firmware.ondemand import ending

    ending.restart(agent)
