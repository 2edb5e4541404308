"""The end of a trial: the version that runs may stay."""

from firmware import app
from firmware.ondemand import unload


async def confirm(agent):
    """To be called on trial, when the broker has our state and what was reported."""
    await agent.supervisor.check()  # the application, too, must be up
    self_test = getattr(app, "self_test", None)
    if self_test:
        await self_test(agent.device)
    boot = agent.boot
    state = boot.state
    state.confirm(boot.running, boot.counter)
    floor = state.floor
    del state
    unload()  # before anything is made that stays: it would hold on to more of the heap
    agent.on_trial = False
    agent.state["status"] = "confirmed"
    agent.state["floor"] = floor
    print("signet: %s confirmed" % boot.version)
    agent.report("confirmed", version=boot.version)
