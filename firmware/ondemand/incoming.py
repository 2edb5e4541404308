"""What has come for the board: an order, a service token, configuration, a command."""

import asyncio

from firmware.ondemand.timekeeping import now
from mqtt.codec import MQTTError


async def handle(session, kind, message):
    """Do what a message of this kind asks for; whoever called us calls `unload`.

    message: not its payload, which the frame of a coroutine that is done would keep in memory.
    """
    if message.retain and kind != "down/config":  # it would come with each connection
        raise ValueError("retained, and so not obeyed")
    agent = session.agent
    if kind in ("down/order", "down/console") and not agent.timed:
        await _reconnect(session, message.link)
        if not agent.timed:
            reason = "the time is not authenticated"
            if kind == "down/order":
                agent.report("refused", reason=reason)
            else:
                agent.device.event("security", reason="console refused: " + reason)
            return
    if kind == "down/order":
        from firmware.ondemand import orders, store

        order = orders.take(message.payload, agent, store, now())
        if order:
            agent.restart_reason = "restart to install %s" % order["version"]
            agent.wake.set()  # the session sends after us, so this message is acknowledged first
    elif kind == "down/console":
        from firmware.ondemand import service

        await service.take(message.payload, agent, now(), session.publish)
    elif kind == "down/config":
        from firmware.ondemand import control

        control.receive(agent.device, message.payload)
    elif kind == "down/command":
        from firmware.ondemand import control

        await control.command(agent.device, message.payload)
    else:
        raise ValueError("expected down/order, console, config or command")
    if agent.restart_reason:
        from firmware.ondemand import ending

        agent.close = ending.close


async def _reconnect(session, link):
    """Give the connection up, and return when there is another; before it, the time is asked for.

    What is worked on meanwhile comes again, and is known to be that.
    """
    session.agent.timed = session.agent.heard = None  # good enough to connect with, not for this
    link.fail(MQTTError("to have the time authenticated"))
    # A link that has ended has a stream until the client knows of it.
    while link.stream or session.client.error or session.fresh:
        await asyncio.sleep_ms(100)
