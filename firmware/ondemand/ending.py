"""The restart that was asked for, in good order."""

import machine


async def close(session):
    """Say why, if there is a connection, end it, and restart."""
    agent = session.agent
    if not session.client.error:
        state = {"online": False, "why": agent.restart_reason}
        await session.publish("state", state, 1, True)
    await session.client.disconnect()
    restart(agent)


def restart(agent):
    """Restart, with the reason kept for the next start."""
    print("signet:", agent.restart_reason)
    if agent.device._kept:
        agent.device._kept.flush()
    # Alone, "console" tells stage 1 to open it: every other text follows a number.
    number = "" if agent.restart_reason == "console" else "0%s " % agent.held
    machine.RTC().memory((number + agent.restart_reason).encode())
    machine.reset()
