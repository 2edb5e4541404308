"""What has come for the board: an order, a service token, configuration, a command."""

from firmware.ondemand.timekeeping import now


async def handle(agent, kind, message, publish):
    """Do what a message of this kind asks for; whoever called us calls `unload`.

    message: not its payload, which the frame of a coroutine that is done would keep in memory.
    publish: coroutine function (kind, message, QoS) that returns when the broker has the message.
    """
    if message.retain and kind != "down/config":  # it would come with each connection
        raise ValueError("retained, and so not obeyed")
    if kind == "down/order":
        from firmware.ondemand import orders, store

        order = orders.take(message.payload, agent, store, now())
        if order:
            agent.restart_reason = "restart to install %s" % order["version"]
            agent.wake.set()  # the session sends after us, so this message is acknowledged first
    elif kind == "down/console":
        from firmware.ondemand import service

        await service.take(message.payload, agent, now(), publish)
    elif kind == "down/config":
        from firmware.ondemand import control

        control.configure(agent.device, message.payload)
    elif kind == "down/command":
        from firmware.ondemand import control

        await control.command(agent.device, message.payload)
    else:
        raise ValueError("expected down/order, console, config or command")
