"""What the board says of itself: its state, and after a start why it restarted."""

import machine

from firmware.ondemand import lock
from trust import TrustError


def state(agent):
    """The retained message on up/state, but for what the session adds."""
    boot = agent.boot
    found = {
        "online": True,
        "id": boot.record["id"],
        "model": boot.record["model"],
        "version": boot.version,
        "slot": "ab"[boot.running],
        "status": "trying" if agent.on_trial else "confirmed",
        "counter": boot.counter,
        "floor": boot.state.floor,
        "open": lock.read(),
        "cause": machine.reset_cause(),
        "dropped": [],
    }
    if found["cause"] == machine.DEEPSLEEP_RESET:
        from firmware.ondemand import rtc

        found["wake"] = rtc.wake()
    return found


def report_boot(agent):
    """Queue the events of this start; returns how many restarts in a row did not last."""
    # How many restarts in a row did not last, what was worked on, why the last run ended (rtc.py).
    count, _, words = machine.RTC().memory().partition(b" ")
    count, _, at = count.partition(b":")
    count, _, kept = count.partition(b",")
    cause = machine.reset_cause()
    is_wake = cause == machine.DEEPSLEEP_RESET  # and no crash
    if kept or is_wake:
        from firmware.ondemand import rtc

        rtc.load(agent, kept, is_wake)
    restarts = int(count) if count.isdigit() and not is_wake else 0
    agent.restarts = min(restarts + 1, 99)  # this start is one more
    reason = words.decode()
    if cause == machine.WDT_RESET:
        reason = "watchdog"
    kind, _, times = at.decode().partition(":")
    if kind:
        reason = "%s, at work on %s" % (reason, kind)
    if "memory" in reason:
        agent.tries = 0
    agent.note(kind, int(times) if times.isdigit() else 0)
    boot = agent.boot
    if not is_wake:
        agent.device.event("boot", cause=cause, reason=reason)
    elif reason:  # else there is nothing to say but what is in the state, and so often
        agent.device.event("boot", cause=cause, reason=reason, wake=rtc.wake())
    else:
        reason = "deep sleep"
    found = [] if is_wake else lock.read()
    if boot.record["profile"] and found != []:
        # Whoever holds the board in his hands can read and change it.
        agent.device.event("security", reason="not locked: " + ", ".join(found or ["unknown chip"]))
    if agent.on_trial:
        agent.report("trying", version=boot.version)
    for slot, on_trial, why in boot.refused:
        if on_trial:
            why = "%s; last: %s" % (why, reason)
            agent.report("rolled-back", version=_version(boot.slots[slot]), reason=why)
        else:
            agent.device.event("security", reason="slot %s: %s" % ("ab"[slot], why))
    return restarts


def _version(slot):
    """What the descriptor of a slot that was refused says; not to be believed."""
    from trust.image import DESCRIPTOR_LEN, Descriptor

    start = bytearray(DESCRIPTOR_LEN)
    try:
        slot.readblocks(0, start, 0)
        return Descriptor(start).version
    except (TrustError, OSError):
        return None
