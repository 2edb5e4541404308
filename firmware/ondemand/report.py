"""What the board says of itself: its state, and after a start why it restarted."""

import machine
from micropython import const

from firmware.ondemand import lock
from trust import TrustError

_WAKES = const("0 1 pin pin timer touch ulp pin uart")  # one text: its words would stay as names


def state(agent):
    """The retained message on up/state, but for what the session adds."""
    boot = agent.boot
    cause = machine.reset_cause()
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
        "cause": cause,
        "dropped": [],
    }
    if cause == machine.DEEPSLEEP_RESET:
        found["wake"] = _wake()
    return found


def report_boot(agent):
    """Queue the events of this start; returns how many restarts in a row did not last."""
    # How many restarts in a row did not last, what was worked on, why the last run ended (rtc.py).
    count, _, words = machine.RTC().memory().partition(b" ")
    count, _, at = count.partition(b":")
    count, _, kept = count.partition(b",")
    cause = machine.reset_cause()
    is_wake = cause == machine.DEEPSLEEP_RESET  # and no crash
    if kept:
        _resume(agent, kept, is_wake)
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
        agent.device.event("boot", cause=cause, reason=reason, wake=_wake())
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


def _resume(agent, kept, is_wake):
    """Take what was kept; after a deep sleep the clock is as good as it was, for a while."""
    from firmware.ondemand import rtc, timekeeping

    record = rtc.Record(kept)
    agent.kept = record.pack()
    if is_wake and record.is_fresh(timekeeping.now()):
        agent.timed = 0
        agent.slept = record.timed


def _wake():
    """What has ended the deep sleep: esp_sleep_source_t of the IDF."""
    names = _WAKES.split()
    number = machine.wake_reason()
    return names[number] if number < len(names) else str(number)


def _version(slot):
    """What the descriptor of a slot that was refused says; not to be believed."""
    from trust.image import DESCRIPTOR_LEN, Descriptor

    start = bytearray(DESCRIPTOR_LEN)
    try:
        slot.readblocks(0, start, 0)
        return Descriptor(start).version
    except (TrustError, OSError):
        return None
