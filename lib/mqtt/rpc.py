"""Request and response over MQTT 5, section 4.10: `Caller` asks, `serve` answers.

    caller = rpc.Caller(client, router, "dev-0001/answers")
    await caller.start()
    answer = await caller.call("lamp/power", b"on")

Both need `router.run()` to be running, and `serve` a full.FullClient.  Whoever may send a request
chooses the topic of its answer: let the broker's access list say where the server may publish.
"""

import asyncio
from os import urandom

from micropython import const

from .codec import refusal
from .link import within

_MOST = const(8)  # calls that may wait for their answers at once
_NOBODY = const(0x10)  # the reason code "No matching subscribers"


class Caller:
    """ignored: answers that nobody waited for, or not any more."""

    def __init__(self, client, router, response_topic):
        """response_topic: of this caller alone; correlation data tells its calls apart."""
        self.ignored = 0
        self._client = client
        self._router = router
        self._response_topic = response_topic
        self._calls = {}  # correlation data -> [Event, the answer]
        self._room = asyncio.Event()

    async def start(self):
        """Subscribe to the answers; raises what `Client.subscribe` raises."""
        await self._router.subscribe(self._response_topic, self._take, 1)

    async def call(self, topic, payload, qos=1, timeout_s=10):
        """Send a request; returns the answer, a Message.

        MQTTTimeoutError if there is none within timeout_s (an int), in which the time counts that
        the call waits for its turn: 8 go on at once.  MQTTRefusedError if the broker says that it
        does not take the request, or that nobody would get it.
        """
        return await within(timeout_s, self._call(topic, payload, qos, timeout_s), "no answer")

    async def _call(self, topic, payload, qos, timeout_s):
        while len(self._calls) >= _MOST:
            self._room.clear()
            await self._room.wait()
        key = urandom(8)
        self._calls[key] = call = [asyncio.Event(), None]
        properties = {
            "response_topic": self._response_topic,
            "correlation_data": key,
            "message_expiry_interval": timeout_s,  # later, nobody waits for the answer
        }
        try:
            code = await self._client.publish(topic, payload, qos, False, properties)
            if code == _NOBODY:
                raise refusal("call", code)
            await call[0].wait()
        finally:
            del self._calls[key]
            self._room.set()
        return call[1]

    async def _take(self, message):
        call = self._calls.get((message.properties or {}).get("correlation_data"))
        if call and not call[1]:
            call[1] = message
            call[0].set()
        else:
            self.ignored += 1


async def serve(router, topic_filter, handler, qos=1):
    """Answer requests with what `await handler(message)` gives, bytes or a string.

    Answers are posted, so that one that the client has no room for counts in its `discarded`.
    What comes without a response topic is no request, and counts in `router.unmatched`.
    """

    async def answer(message):
        properties = message.properties or {}
        topic = properties.get("response_topic")
        if topic:
            key = properties.get("correlation_data")
            properties = None if key is None else {"correlation_data": key}
            router.client.post(topic, await handler(message), qos, False, properties)
        else:
            router.unmatched += 1

    await router.subscribe(topic_filter, answer, qos)
