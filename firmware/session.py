"""The board's session with its broker: reported over, and served.

The MQTT client keeps the connection up; here is what it is to open, a network and a clock
first, and what is said over it.  When an update order was accepted, the session is closed in
good order and the board restarts into the update.
"""

import asyncio
import json

from micropython import const

import mtls
from firmware.ondemand import unload
from mqtt.client import Client, Message
from mqtt.codec import MQTTError, MQTTRefusedError

_DEBUG = const(False)
_KEEPALIVE_S = const(60)
_HANDSHAKE_S = const(20)
_TIMEOUT_S = const(60)  # for network, time and handshake; for an acknowledgement
_MAX_PACKET = const(2304)  # an update order is the largest message
_QUEUE = const(4)
_PATIENCE = const(2)  # restarts in a row that are still taken for an accident
_KIND_LEN = const(16)  # characters of a topic that we look at, keep and report
_LONGEST = const(4096)  # bytes of a message to the broker, which may take no more than 8192
_BLAMED = const(3)  # restarts in a row at one message, which is given up then


class Session:
    def __init__(self, agent, restarts):
        """restarts: those in a row that did not last; the first connect waits accordingly."""
        record = agent.boot.record
        self.agent = agent
        self._room = asyncio.Event()  # an entry of the outbox is with the broker
        self.prefix = "signet/%s/" % record["id"]
        self.fresh = False  # the connection is, and not all is said that comes first
        self.client = Client(
            self._open,
            agent.client_id,
            keepalive_s=_KEEPALIVE_S,
            will=Message(self.prefix + "up/state", b'{"online":false}', 1, True),
            max_packet=_MAX_PACKET,
            timeout_s=_TIMEOUT_S,
            queue=_QUEUE,
        )
        self.client.on_change = self.on_change
        self.client.start(max(0, restarts - _PATIENCE))

    async def _open(self):
        from firmware.ondemand import link

        agent = self.agent
        host, port = await link.broker(agent)
        del link
        unload()
        return await mtls.open_stream(host, port, agent.context, _HANDSHAKE_S)

    def on_change(self):
        client = self.client
        self.fresh = not client.error
        if _DEBUG:
            print("signet: debug: mqtt:", client.error or "connection is up")
        agent = self.agent
        agent.wake.set()
        if client.error:
            try:
                from firmware.ondemand import shortage

                print("signet: error: session:", shortage.check(agent, client.error))
            except MemoryError:  # not even for that: then we are not healthy, and do not beat
                print("signet: error: session:", MemoryError)
                return
            finally:
                shortage = None
                unload()
        agent.beat(client.pause_s)

    async def run(self):
        """Report what is to be reported; never returns."""
        agent = self.agent
        agent.supervisor.start("session", self._receive(), 0)
        while True:
            agent.wake.clear()
            try:
                if self.fresh:
                    await self._begin()
                # A publish may outlast its connection: then the next one begins with the state.
                while agent.outbox and not self.client.error and not self.fresh:
                    await self.send()
                if not self.client.error and self.dropped()[:2] > agent.state["dropped"]:
                    from firmware.ondemand import opening

                    await opening.publish_state(self)
                    opening = None
                    unload()
                if agent.close:
                    await agent.close(self)
            except MQTTError as error:
                print("signet: error: session:", error)
            await agent.wake.wait()
            if not self.client.error:
                agent.beat()

    async def _begin(self):
        try:
            unload()  # what only connecting needs: memory is scarcest now
            from firmware.ondemand import opening

            await opening.begin(self)
        finally:
            opening = None
            unload()
            self.fresh = False

    def dropped(self):
        """Messages that found no room: [events, those to us at QoS 0, telemetry]."""
        events, telemetry = self.agent.dropped
        return [events, self.client.dropped, telemetry]

    async def send(self):
        """Publish the first entry of the outbox; it stays there until the broker has it.

        One that the broker will not take, or hangs up at, is dropped: others wait behind it.
        """
        agent = self.agent
        entry = agent.outbox[0]
        try:
            await self.publish(*entry)
        except MQTTRefusedError as error:
            print("signet: error: session:", entry[0], error)
            agent.dropped[0 if entry[2] else 1] += 1
        if agent.outbox and agent.outbox[0] is entry:  # nobody has dropped it meanwhile
            agent.outbox.pop(0)
        self._room.set()
        agent.beat()

    async def get_room(self):
        """Wait until what is in the outbox now is with the broker."""
        agent = self.agent
        last = agent.outbox[-1:]
        while not agent.restart_reason and any(entry is last[0] for entry in agent.outbox):
            self._room.clear()
            await self._room.wait()

    async def publish(self, kind, message, qos, retain=False):
        payload = json.dumps(message).encode()
        if len(payload) > _LONGEST:  # the broker would hang up, and again when it is sent again
            reason = "up/%s: %d bytes, expected up to %d" % (kind, len(payload), _LONGEST)
            payload = json.dumps({"event": "error", "reason": reason}).encode()
            kind = "event"
        await self.client.publish(self.prefix + "up/" + kind, payload, qos, retain)

    async def _receive(self):
        """The task that takes messages; each is acknowledged when its answer is with the broker.

        So no more are taken than are answered, and what a restart interrupts comes again.
        """
        agent = self.agent
        async for message in self.client:
            while self.fresh:  # there is no memory for both at once
                await asyncio.sleep_ms(10)
            await self.get_room()
            kind = message.topic[len(self.prefix) :][:_KIND_LEN]
            if _DEBUG:
                print("signet: debug: %s, %d bytes" % (kind, len(message.payload)))
            at, times = agent.message
            times = times + 1 if at == kind else 1
            try:
                if times > _BLAMED:
                    raise ValueError("given up after %d restarts" % _BLAMED)
                agent.note(kind, times)
                from firmware.ondemand import incoming

                await incoming.handle(self, kind, message)
            except MemoryError:
                raise  # after a restart there may be room for it, and it comes again
            except Exception as error:  # the operator's to mend; it must not come again and again
                agent.device.event("error", reason="%s: %s" % (kind, error))
            # It may be large, the next one may not come for long, and frames keep references.
            incoming = None
            message.payload = b""
            unload()
            await self.get_room()
            agent.note()
        await asyncio.sleep(_TIMEOUT_S)  # closed, to restart
