"""Field service: a token, signed by the release key, opens the console until the next reset.

It is an order of its own kind (docs/design.md, "Console"): for one device, short-lived, and
numbered in one sequence with update orders.  The number is in flash and the broker has
acknowledged the report before anything opens: a token is good once at most, and never unseen.
"""

from micropython import const

from firmware.ondemand import orders
from trust import TrustError

_SEALED = const(2)  # in trust.identity.PROFILES

_FIELDS = (("kind", str), ("number", int), ("expires", int), ("device", str))


async def take(wire, agent, now, publish):
    """Accept a token or refuse it, and report which; accepted, the board restarts.

    now: Unix seconds.  publish: coroutine function (kind, message, QoS) that returns when the
    broker has the message.
    """
    try:
        agent.order = accept(wire, agent.boot, now)
    except (TrustError, OSError) as error:
        agent.device.event("security", reason="console refused: %s" % error)
        return
    event = {"event": "security", "reason": "console opens", "order": agent.order}
    await publish("event", event, 1)
    agent.restart_reason = "console"
    agent.wake.set()  # the session sends after us, so the token is acknowledged first


def accept(wire, boot, now):
    """Verify and check a token and keep its number, which it returns.

    now: Unix seconds.  Raises TrustError, and has changed nothing then.
    """
    record = boot.record
    if record["profile"] == _SEALED:
        raise orders.OrderError("a sealed board has no console")
    token = orders.verify(wire, record["release"], _FIELDS)
    if token["kind"] != "console":
        raise orders.OrderError("order: kind %r, expected 'console'" % token["kind"])
    state = boot.state
    orders.check_fresh(token, record, state.order, now)
    state.accept_order(token["number"])
    return token["number"]
