"""Carries out the order that was accepted before the restart: download, verify, stage.

Runs before there is a session with the broker, and leaves its report in the outbox, or
restarts into the new version.
"""

import asyncio
import json

from micropython import const

import mtls
from firmware.ondemand import ending, install, link, orders, store, unload
from firmware.ondemand.download import Download
from firmware.ondemand.install import BLOCK_LEN
from firmware.ondemand.timekeeping import now
from trust import TrustError

_DEBUG = const(False)
_STARTS = const(5)  # a board that restarts this often in the middle of it gives the update up
_RETRIES = const(5)  # in a row without a new block
_BACKOFF_S = const(2)  # doubled each time
_TIMEOUT_S = const(20)  # for a TLS handshake


class UpdateError(Exception):
    """The image could not be fetched."""


async def run(agent, restarts):
    """Finish the pending update; comes back if it was refused or has failed, having said so."""
    order = None
    try:
        if restarts > _STARTS:
            _, boot, _ = agent.outbox[0]  # the first report of every start
            words = "%d restarts in the middle of it, last: %s"
            raise UpdateError(words % (restarts, boot["reason"]))
        await _prepare(agent)
        # What may be a forged time must not make it look expired.
        order = orders.resume(agent.boot, store, agent.clock_floor)
        unload()
        if order:
            agent.order = order["number"]
            await _carry_out(order, agent)
            return
    except TrustError as error:
        _give_up("refused", agent, order, error)
    except (UpdateError, OSError) as error:
        _give_up("failed", agent, order, error)


def _give_up(result, agent, order, error):
    install.forget(store)
    print("signet: error: update %s: %s" % (result, error))
    agent.report(result, version=order and order["version"], reason=str(error))


async def _prepare(agent):
    """Network, and a guess at the time.  Without a network it is best to wait for it.

    Without the memory for one, the board restarts, which `run` bounds.
    """
    while True:
        agent.beat()
        try:
            await link.setup(agent)
            break
        except (OSError, RuntimeError, MemoryError) as error:
            from firmware.ondemand import shortage

            print("signet: error: update:", shortage.check(agent, error))
            del shortage
            unload()


async def _carry_out(order, agent):
    task = install.Install(order, agent.boot, store)
    start = task.done
    await _fetch(task, order, agent)
    unload()
    task.finish()
    agent.restart_reason = "restart into %s" % order["version"]
    if start:
        agent.restart_reason += ", resumed at block %d" % start
    ending.restart(agent)


async def _fetch(task, order, agent):
    """Fill the slot, again and again until it is full; UpdateError if that does not help."""
    failures = 0
    while True:
        done = task.done
        try:
            return await _attempt(task, order, agent)
        except (OSError, asyncio.TimeoutError, MemoryError) as error:
            from firmware.ondemand import shortage

            unload()
            task.save()
            failures = 1 if task.done > done else failures + 1
            # A lack of memory often comes as something else; a TimeoutError has no text.
            words = shortage.find(error) or str(error) or "timed out"
            reason = "block %d of %d: %s" % (task.done, task.total, words)
            is_refused = isinstance(error, mtls.TLSError)
            del shortage, error
            print("signet: error: download:", reason)
            if is_refused and not agent.timed:  # the guess may be where no certificate is valid
                from firmware.ondemand import sync

                await sync.query(agent, *link.host_port(agent.boot.record["images"]))
                del sync
                unload()
            if failures > _RETRIES or now() > order["expires"]:
                raise UpdateError(reason)
            pause = _BACKOFF_S << failures - 1
            agent.beat(pause)
            await asyncio.sleep(pause)


async def _attempt(task, order, agent):
    host, port = link.host_port(agent.boot.record["images"])
    stream = await mtls.open_stream(host, port, agent.context, _TIMEOUT_S)
    download = Download(stream, host, order["path"], order["size"])
    try:
        block = bytearray(BLOCK_LEN)
        view = memoryview(block)
        headers = await download.request(order["size"] - BLOCK_LEN, order["size"] - 1)
        _check_time(order, agent, headers, stream)
        await download.readinto(view)
        task.check_signature(block)
        unload()
        if task.done < task.total:
            print("signet: download: block %d of %d" % (task.done, task.total))
            _show_memory(agent.device)
            await download.request(task.done * BLOCK_LEN, order["size"] - 1)
        while task.done < task.total:
            await download.readinto(view)
            task.write(block)
            if task.done == 1:
                unload()
            agent.beat()
            if _DEBUG:
                print("signet: debug: download: block %d is in flash" % task.done)
    finally:
        await download.close()


def _check_time(order, agent, headers, stream):
    """Have the time from the server, and the order checked against it: until now it was a guess."""
    from firmware.ondemand import sync

    sync.set_clock(agent, headers, stream)
    orders.check_time(order, now())
    del sync
    unload()


def _show_memory(device):
    """Nobody can be asked for it while there is no session."""
    from firmware.ondemand import memory

    print("signet: memory:", json.dumps(memory.command(device, None)))
    del memory
    unload()
