"""Lack of memory, told from a network that is away: whether that is why a connection failed.

MicroPython's heap grows into the IDF's, which Wi-Fi and TLS live on, and gives little of it back.
What comes of it is seldom a clean error: a packet that does not fit is lost, so a handshake takes
too long; a signature that there is no memory to check makes the certificate a wrong one. So
whatever has failed counts as lack of memory if the IDF's heap has less left than a connection
takes.
"""

import asyncio
import gc

import esp32
import machine
from micropython import const

_WORDS = const("out of memory")  # the next start looks for "memory" in the reason
_LARGEST = const(20480)  # bytes in one piece: TLS takes 16 KB and 4 KB, each in one
_FREE = const(34816)  # in all: TLS takes 25 to 27 KB, and Wi-Fi some for each packet
_TRIES = const(3)  # attempts in a row; twice as many after each restart that did not help
_DOUBLINGS = const(5)
_CODES = const((12, 105))  # ENOMEM, ENOBUFS
_REASON_LEN = const(200)


def check(agent, error):
    """What to say of a connection that failed; restarts the board if that happens again and again.

    error: what ended it, or the MQTTError of the attempt.
    """
    text = find(error)
    if not text:
        return error
    if not agent.tries:
        agent.device.event("error", reason=text)
    agent.tries = (agent.tries or 0) + 1
    for entry in agent.outbox[:]:
        if not entry[2]:
            agent.outbox.remove(entry)
            agent.dropped[1] += 1
    before = 0 if agent.on_trial else agent.restarts - 1  # a trial is three starts at most
    if agent.tries >= _TRIES << min(max(before, 0), _DOUBLINGS):
        _restart(agent, text)
    return text


def find(error):
    """What to say of an error if a lack of memory is behind it; None if there is none."""
    cause = getattr(error, "cause", error)
    if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno in _CODES):
        return str(error) if _WORDS in str(error) else "%s: %s" % (_WORDS, error)
    # RuntimeError is what Wi-Fi raises. All others are about what was heard: so nothing was lost.
    if cause and not isinstance(cause, (OSError, RuntimeError, asyncio.TimeoutError)):
        return None
    gc.collect()
    heaps = esp32.idf_heap_info(esp32.HEAP_DATA)
    free = sum([heap[1] for heap in heaps])
    largest = max([heap[2] for heap in heaps])
    if free >= _FREE and largest >= _LARGEST:
        return None
    words = str(error) or "timed out"  # asyncio's TimeoutError has no text
    return "%s (%d bytes free, %d in one piece): %s" % (_WORDS, free, largest, words)


def _restart(agent, reason):
    """Restart in disorder, there is no connection; the next start counts this one."""
    for _, message, _ in agent.outbox:
        if message.get("result") in ("refused", "failed"):  # nobody has heard of it
            reason += "; update %s: %s" % (message["result"], message["reason"])
    print("signet: error:", reason)
    agent.note(*agent.message)
    rtc = machine.RTC()
    rtc.memory(rtc.memory() + reason[:_REASON_LEN].encode())
    machine.reset()
