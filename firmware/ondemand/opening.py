"""What is said and done first over each connection."""

from firmware.ondemand import timekeeping, unload


async def begin(session):
    """Subscribe, say what we are, and have a trial confirmed; whoever called us calls `unload`."""
    agent = session.agent
    await session.client.subscribe(session.prefix + "down/#", 1)
    await publish_state(session)
    print("signet: connected to", agent.boot.record["broker"].rpartition(":")[0])
    if agent.on_trial:
        # Nothing is confirmed before the operator can know of it.
        for _ in range(len(agent.outbox)):
            await session.send()
        from firmware.ondemand import trial

        await trial.confirm(agent)
        del trial
        unload()
        await publish_state(session)
    agent.tries = None
    device = agent.device
    device._session = session
    if device._kept:
        device._kept.start()


async def publish_state(session):
    agent = session.agent
    state = agent.state
    state["order"] = agent.order
    state["time"] = timekeeping.now()
    state["timed"] = bool(agent.timed)
    state["dropped"] = session.dropped()
    await session.publish("state", state, 1, True)
