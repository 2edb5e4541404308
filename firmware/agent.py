"""The agent: what every slot runs.  Connects, reports, confirms, updates, runs the app.

Tasks under a supervisor that feeds the watchdog while all are healthy: the application;
`_online`, which first finishes an update that was ordered and then keeps the session with
the broker; and `_watch`, which gives up a trial that takes too long.

A new version confirms itself once the broker has acknowledged its state report and the
application is fit (`app.self_test`); one that does not within five minutes restarts,
which costs it a try.
"""

import asyncio
import gc

import machine
from micropython import const

from firmware import app
from firmware.device import APP_LIMIT_S, Device
from firmware.ondemand import unload
from firmware.supervisor import Supervisor, TaskError

_DEBUG = const(False)
_WEEK_MS = const(604800000)
_TRIAL_S = const(300)
_SETTLED_S = const(60)  # uptime after which a restart is no crash loop any more
_COLLECT_AFTER = const(2048)  # bytes allocated, from the first connection on
_OUTBOX = const(24)  # messages that wait while there is no session
_LATEST = const(4)  # of them at QoS 0: old telemetry must not take the memory to connect with
_ONLINE_LIMIT_S = const(180)  # how long the task may be silent: several timeouts in a row


def run(boot, watchdog):
    """Run a verified slot; comes back by an exception, and with True if the REPL is to follow.

    That is what Ctrl-C does in a dev image; others have no code for it.
    """
    if _DEBUG:
        import sys

        from micropython import kbd_intr

        kbd_intr(3)
        try:
            asyncio.run(Agent(boot, watchdog).run())
        except KeyboardInterrupt:
            machine.WDT(timeout=_WEEK_MS)  # it cannot be stopped, and nobody feeds it in the REPL
            return True
        except Exception as error:
            sys.print_exception(error)
            raise
    # For exceptions that no task waits for; by itself asyncio prints a trace.
    asyncio.get_event_loop().set_exception_handler(
        lambda _, context: print("signet: error:", repr(context["exception"]))
    )
    asyncio.run(Agent(boot, watchdog).run())


class Agent:
    """boot: what stage 1 handed over.  context: for TLS, with the device's certificate.

    client_id: of the MQTT session; stable, and nobody else's.
    outbox: [(kind, message, QoS)] for up/<kind>, the first perhaps on its way; wake: set when there
    is something to do.
    dropped: how many messages found no room there: [events, telemetry].
    recent: restarts in a row before this start that did not last; restarts: with it, and 0 once it
    has.
    message: (kind, how often) of the message that is worked on, or at which the run before ended.
    tries: attempts to connect in a row that failed for lack of memory; None: there is no lack.
    restart_reason: set when the board is to restart as soon as all is reported.
    on_trial: whether this version has not been confirmed yet.
    order: number of the order that was accepted last; is_ordered: it waits to be carried out.
    clock_floor: Unix seconds before which it cannot be.
    timed: Unix seconds at which the time was authenticated last; 0: it is SNTP's; None: nobody's.
    heard: the same, before the deep sleep that has just ended; None: there was none, or too long.
    held: what outlasts deep sleep and restarts in RTC memory, packed (firmware/ondemand/rtc.py).
    close: async function (session), which ends it when there is nothing left to say, or None.
    state: what goes out on up/state, but for its last fields; made before there is a session, as
    what makes it is not to take memory beside a connection.
    """

    tries = timed = heard = close = None
    held = ""

    def __init__(self, boot, watchdog):
        from firmware.ondemand import start

        self.boot = boot
        self.outbox = []
        self.dropped = [0, 0]
        self.wake = asyncio.Event()
        self.restart_reason = None
        # Not of the class: `start` sets them in any case, and a larger class takes more memory.
        self.recent = self.restarts = self.order = 0
        self.on_trial = self.is_ordered = False
        self.supervisor = Supervisor(watchdog)
        self.device = Device(self)
        # Not in `run`, which does not return: a frame goes on showing the collector what was called
        # from it.
        start.prepare(self)
        del start
        unload()

    async def run(self):
        self.supervisor.start("app", app.run(self.device), APP_LIMIT_S)
        self.supervisor.start("online", self._online(), _ONLINE_LIMIT_S)
        self.supervisor.start("watch", self._watch(), _TRIAL_S)
        await self.supervisor.run()

    async def _online(self):
        if self.is_ordered:
            # Before there is a session: an ESP32 has room for one TLS connection, and what
            # the update needs is here, in a fresh heap, however long the board has been up.
            from firmware.ondemand import updater

            await updater.run(self, self.recent)
            del updater
            unload()
        # Garbage must not lie between what stays now: once its first 56 KB of heap do not suffice,
        # MicroPython takes as much again of the memory in which TLS and the network have theirs.
        gc.threshold(_COLLECT_AFTER)
        from firmware.session import Session

        await Session(self, self.recent).run()

    async def _watch(self):
        """Forget crash loops once settled; give up a trial that never confirms.

        A lack of memory is not settled before there is a session.
        """
        uptime_s = 0
        while True:
            await asyncio.sleep(_SETTLED_S)
            uptime_s += _SETTLED_S
            if self.restarts and self.tries is None:
                self.restarts = 0
                self.note(*self.message)
            if uptime_s == _TRIAL_S and self.on_trial:
                raise TaskError("not confirmed within %d s" % _TRIAL_S)
            self.supervisor.beat("watch")
            self.wake.set()  # so that the session says that it is alive

    def post(self, kind, message, qos):
        """Queue a message for up/<kind>; telemetry gives way first, then the oldest event but one.

        The first entry may be on its way already; after a start it says why there was one.
        """
        outbox = self.outbox
        full = len(outbox) >= _OUTBOX
        old = [entry for entry in outbox if not entry[2]]
        if old and (full or (not qos and len(old) >= _LATEST)):
            outbox.remove(old[0])
            self.dropped[1] += 1
        elif full:
            self.dropped[0 if qos else 1] += 1
            if not qos:
                return
            outbox.pop(1)
        outbox.append((kind, message, qos))
        self.wake.set()

    def note(self, kind="", number=0):
        """Keep in RTC memory what the next start has to know if this run ends without a word."""
        self.message = kind, number
        memory = "%d%s:%s:%d " % (self.restarts, self.held, kind, number)
        machine.RTC().memory(memory.encode())

    def report(self, result, **details):
        """Queue an event about the update that was ordered last."""
        self.device.event("update", result=result, order=self.order, **details)

    def beat(self, ahead_s=0):
        self.supervisor.beat("online", ahead_s)
