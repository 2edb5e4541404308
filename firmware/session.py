"""The board's session with its broker: brought up, and kept up.

Joins the network, sets the clock, connects, reports, and serves the outbox until the
link breaks: then again, after a pause with full jitter.  When an update order was
accepted it closes the session in good order and restarts into the update.
"""

import asyncio
import json
import os

from micropython import const

import mtls
from firmware import store
from firmware.clock import host_port, now
from firmware.ondemand import unload
from mqtt.client import Client
from mqtt.codec import MQTTError

_KEEPALIVE_S = const(60)
_TIMEOUT_S = const(20)  # for a TLS handshake, an acknowledgement, a packet to be taken
_MAX_PACKET = const(2304)  # an update order is the largest message
_BACKOFF_CAP_S = const(60)
_PATIENCE = const(2)  # restarts in a row that are still taken for an accident


class Session:
    def __init__(self, agent, restarts):
        """restarts: those in a row that did not last; the first connect waits accordingly."""
        record = agent.boot.record
        self._agent = agent
        self._attempt = max(0, restarts - _PATIENCE)
        self._broker = host_port(record["broker"])
        self._prefix = "signet/%s/" % record["id"]
        self._client = Client(
            self._open,
            agent.client_id,
            keepalive_s=_KEEPALIVE_S,
            will=(self._prefix + "up/state", b'{"online":false}', 1, True),
            max_packet=_MAX_PACKET,
            timeout_s=_TIMEOUT_S,
            on_message=self._on_message,
        )
        self._client.on_lost = agent.wake.set

    async def run(self):
        """Keep the session up; never returns."""
        while True:
            if self._attempt:
                pause = _backoff_s(self._attempt)
                self._agent.beat(pause)
                await asyncio.sleep(pause)
            try:
                await self._connect()
                await self._serve()
                await self._client.disconnect()
            except (MQTTError, OSError) as error:
                print("signet: session:", error)
                self._attempt += 1
                await self._client.close()
            if self._agent.restart_reason:
                self._agent.restart()

    async def _connect(self):
        from firmware import link

        agent = self._agent
        agent.beat()
        await link.join(agent.boot.record["id"])
        await agent.clock.sync(*host_port(agent.boot.record["ntp"]))
        unload()
        agent.beat()
        await self._client.connect()
        agent.clock.keep()
        await self._client.subscribe(self._prefix + "down/#", 1)
        await self._publish_state()
        print("signet: connected to", self._broker[0])
        self._attempt = 0
        if await agent.confirm():
            await self._publish_state()
        unload()

    async def _serve(self):
        """Publish what is queued until the board is to restart."""
        agent = self._agent
        while True:
            agent.beat()
            while agent.outbox:
                self._client.check()
                # From here on the client keeps it, and sends it again after a reconnect.
                await self._publish(*agent.outbox.pop(0))
            if agent.restart_reason:
                state = {"online": False, "why": agent.restart_reason}
                await self._publish("state", state, 1, True)
                return
            agent.wake.clear()
            try:
                await asyncio.wait_for(agent.wake.wait(), _KEEPALIVE_S // 2)
            except asyncio.TimeoutError:
                pass  # only to beat
            self._client.check()

    async def _publish_state(self):
        from firmware import report

        await self._publish("state", report.state(self._agent.boot), 1, True)

    async def _publish(self, kind, message, qos, retain=False):
        payload = json.dumps(message).encode()
        await self._client.publish(self._prefix + "up/" + kind, payload, qos, retain)

    async def _on_message(self, topic, payload, retained):
        agent = self._agent
        kind = topic[len(self._prefix) :]
        if kind == "down/order":
            from firmware import orders

            order = orders.take(payload, agent, store, now())
            if order:
                agent.restart_reason = "restart to install %s" % order["version"]
        elif kind == "down/config":
            from firmware import control

            control.configure(agent.device, payload)
        elif kind == "down/command":
            from firmware import control

            await control.command(agent.device, payload)
        unload()

    async def _open(self):
        host, port = self._broker
        return await mtls.open_stream(host, port, self._agent.context, _TIMEOUT_S)


def _backoff_s(attempt):
    """Full jitter: anything from 0 to 2, 4, 8 … seconds, so that a fleet does not stampede."""
    ceiling_ms = min(_BACKOFF_CAP_S, 1 << min(attempt, 8)) * 1000
    return int.from_bytes(os.urandom(3), "little") % ceiling_ms / 1000
