"""What an agent does once, before its tasks run: memory, identity, how the last run ended."""

import os

from micropython import const

from firmware.ondemand import control, store, timekeeping, unload

_HEAP_KB = const(16)  # to reserve, unless the provisioning record or the image says otherwise


def prepare(agent):
    """Fill in what an agent (`firmware.agent.Agent`) has to be asked for; `unload` after it."""
    from firmware.ondemand import reserve

    boot = agent.boot
    # While the network is down. It is what keeps the segment.
    boot.heap = reserve.reserve(max(boot.record.get("heap_kb", _HEAP_KB), boot.heap))
    del reserve
    unload()
    agent.clock_floor = timekeeping.start(boot.clock_floor)
    agent.is_ordered = store.exists(store.ORDER_PATH)
    from firmware.ondemand import credentials

    agent.context, agent.client_id = credentials.load(boot.identity)
    del credentials
    state = boot.state
    agent.on_trial = state.on_trial(boot.running)
    agent.order = state.order
    del state
    unload()
    control.load_config(agent.device)
    from firmware.ondemand import report

    agent.recent = report.report_boot(agent)
    agent.state = report.state(agent)
    if _is_kept():
        from firmware.ondemand.extras import keep

        keep.make(agent.device)


def _is_kept():
    """Whether there is telemetry that the broker has not: files beside `next`."""
    try:
        return len(os.listdir("/kept")) > 1
    except OSError:
        return False
