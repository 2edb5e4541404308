"""An MQTT client for MicroPython's asyncio that keeps itself connected.

    async with Client(open_stream, "dev-0001") as client:
        await client.subscribe("dev-0001/#", 1)
        await client.publish("hello", b"world", qos=1)
        async for message in client:
            print(message.topic, message.payload)

The session outlives its connections.  When one is lost, the client connects again after a pause,
subscribes again if the broker has forgotten, and sends again what was not acknowledged.  Every
wait for the network has an end, every buffer a bound, and every failure is an MQTTError.

Here are MQTT 3.1.1, QoS 0 and 1; `mqtt.v5` and `mqtt.full` add the rest.
"""

import asyncio
from os import urandom
from time import ticks_add, ticks_diff, ticks_ms

from micropython import const

from .codec import V311, MQTTError, MQTTProtocolError, MQTTRefusedError, refusal
from .link import MQTTConnectionError, MQTTTimeoutError

_PUBLISH = const(3)
_PUBACK = const(4)
_PINGRESP = const(13)
_DISCONNECT = const(14)

_FAILURE = const(0x80)  # the first code that means a failure
_DUP = const(0x08)
_LAST_ID = const(65535)
_PLAIN = const(0x30)  # first byte of a PUBLISH at QoS 0, not retained
_LONG = const(0x80)  # in its second: the length takes more bytes
_OVERHEAD = const(64)  # bytes of heap that a waiting message takes besides topic and payload
_BATCH = const(4096)  # of the backlog that one turn may fill …
_SLACK = const(256)  # … without this last piece of it; with no more left, each message waits …
_TURNS = const(8)  # … up to so many turns for those before it to be taken


class Message:
    """topic: string; payload: bytes; properties: None, or in MQTT 5 a dict."""

    rest = b""  # acknowledgements that are to go behind this one's
    qos = packet_id = size = 0  # of most: an attribute of its own takes memory and time
    retain = False
    properties = None

    def __init__(self, topic, payload=b"", qos=0, retain=False, properties=None):
        self.topic = topic
        self.payload = payload
        self.link = None  # where it came from
        if qos:
            self.qos = qos
        if retain:
            self.retain = retain
        if properties:
            self.properties = properties


class Request:
    """A packet on its way, and who waits for its answer."""

    deadline = 0  # ticks; 0 while the network has not taken all of it
    code = 0  # of the answer
    tries = 0  # that made the broker hang up, it seems; mqtt.blame

    def __init__(self, kind, packet_id, packet, wanted=None):
        self.kind = kind  # of the packet that answers it
        self.packet_id = packet_id
        self.packet = packet  # or None: it was withdrawn, and does not go again
        self.wanted = wanted  # of a PUBLISH None, else (topic filter, …)
        self.link = None  # where it was sent last
        self.error = None
        self.done = asyncio.Event()


class Client:
    """One session with a broker.

    error: None while connected, else what ended the last connection or attempt.
    on_change: None, or a plain function, called without arguments when `error` has changed.
    pause_s: how long the client waits now before it connects again; 0 if it does not.
    dropped: messages that came and were not kept: at QoS 0 faster than they were taken, or larger
    than max_packet.
    skipped: None, or (topic, bytes of the packet) of the last that was too large.
    patience: how often in a row the broker may hang up at a request that was sent alone, before
    that is given up; 0 for never.  To be set before it connects.
    refused: topic filter -> code, of those that the broker did not let us subscribe to.
    """

    max_qos = 1
    pause_s = dropped = 0
    skipped = None
    patience = 3
    _last_id = 0
    _taken = False  # the first of the backlog is being worked on
    _waiting = 0  # bytes in the backlog

    def __init__(
        self,
        brokers,
        client_id,
        *,
        protocol=None,
        keepalive_s=60,
        will=None,
        clean=False,
        user=None,
        password=None,
        max_packet=2048,
        timeout_s=10,
        queue=16,
        backoff_cap_s=60,
    ):
        """brokers: async function without arguments that gives MicroPython's (reader, writer), or
        a list of them, in order of preference.

        protocol: codec.V311() or v5.V5(); of this client alone.
        keepalive_s: 1 to 65535; a ping after half of it in silence, and after 1.25 times it the
        connection counts as lost.
        will: a Message that the broker publishes when the connection breaks.
        clean: True for a session that ends with the connection.
        max_packet: bytes; a larger message from the broker is skipped, another larger packet an
        error.  Twice as much may wait to be taken.
        timeout_s: for an acknowledgement; for connecting, and for the network to take a packet, as
        long as it is not more than keepalive_s.
        queue: messages at QoS 1 that may be on their way at once; more wait in `publish`.
        """
        from .check import check

        self.error = MQTTConnectionError("not connected")
        self.on_change = None
        self.refused = {}
        self.brokers = brokers if isinstance(brokers, list) else [brokers]
        self.protocol = protocol or V311()
        self.timeout_s = timeout_s
        self.queue = queue
        self.backoff_cap_s = backoff_cap_s
        self.options = (client_id, keepalive_s, clean, will, user, password, max_packet)
        check(self)
        self._buffer = memoryview(bytearray(max_packet))
        self._link = None
        self._task = None  # the supervisor
        self._requests = []  # in order, until they are answered
        self._room = asyncio.Event()  # there may be fewer of them
        self._wanted = {}  # topic filter -> (qos, options, properties)
        self._backlog = []  # messages that wait to be taken
        self._arrived = asyncio.Event()

    async def connect(self):
        """Connect and stay connected; returns whether the broker still had the session.

        Tries each broker once, and raises what the last one raised: MQTTRefusedError,
        MQTTProtocolError, MQTTTimeoutError, or MQTTConnectionError for what came of the stream.
        """
        await self.close()
        from .connect import connect

        return await connect(self)

    def start(self, tries=0):
        """Connect and stay connected, in the background.

        tries: pause first, as if so many attempts had failed.
        """
        if not self._task:
            self._task = asyncio.create_task(self._supervise(tries))

    async def __aenter__(self):
        await self.connect()
        return self

    async def __aexit__(self, *exception):
        await self.disconnect()

    async def disconnect(self, code=0, expiry_s=None):
        """Say goodbye, so that the will is not published, and close.

        In MQTT 5 with a reason code (4: the will is published all the same), and with another
        session expiry than the connection had.  Raises ValueError for what the standard does not
        allow, and nothing else.
        """
        from .check import disconnect

        await disconnect(self, code, expiry_s)

    async def close(self):
        """Close without a goodbye: the broker publishes the will.  Never raises.

        Whoever waits gets an MQTTConnectionError; a message that was not acknowledged is kept,
        and sent with the next `connect`.
        """
        task, self._task = self._task, None
        if task:
            task.cancel()
            while not task.done():  # an attempt closes its own stream
                await asyncio.sleep_ms(0)
        if self._link:
            await self._link.close()
        from .setup import end  # last: what needs no memory is done

        end(self)

    async def _supervise(self, tries):
        """The task that owns reconnection, and receives while there is a connection."""
        while self._task is asyncio.current_task():  # a cancellation may come as a time-out does
            link = self._link
            if not self.error:
                up = ticks_ms()
                await link.serve(self._receive(link))
                if self._task is not asyncio.current_task():
                    return  # by `close`
                self.error = link.error
                await link.close()
                if ticks_diff(ticks_ms(), up) > self.timeout_s * 1000:
                    tries = 0
                tries += 1
            if tries:  # a pause with full jitter, so that a fleet does not come back at once
                ceiling_s = min(self.backoff_cap_s, 1 << min(tries - 1, 16))
                self.pause_s = int.from_bytes(urandom(2), "little") / 65536 * ceiling_s
                self._note()
                await asyncio.sleep(self.pause_s)
                self.pause_s = 0
            try:
                from .connect import attempt  # here: its place in memory is of use to others

                await attempt(self)
            except Exception:  # a MemoryError, too, must not end the supervisor
                tries += 1
            attempt = None  # it would keep the module

    def _repeat(self, request, session):
        packet = request.packet
        if request.link and not request.wanted:
            flags = packet[0] & ~_DUP | (_DUP if session else 0)
            request.packet = bytes((flags,)) + packet[1:]

    def _note(self):
        if self.on_change:
            self.on_change()

    async def publish(self, topic, payload, qos=0, retain=False, properties=None):
        """Publish bytes or a string; returns a reason code, 0 but for MQTT 5.

        At QoS 0 without a connection, raises `error`.  At QoS 1 it waits for room in the queue and
        for the acknowledgement, over as many connections as that takes.  Cancelled, the message is
        withdrawn: it is not sent any more.  MQTTRefusedError if the broker does not take it, or
        hangs up at it again and again; ValueError or TypeError for arguments that MQTT does not
        allow.  A client that was not started raises `error`.
        """
        if not qos:
            if self.error:
                raise self.error
            link = self._link
            await link.get_room()
            packet = self.protocol.encode_publish(topic, payload, qos, retain, 0, properties)
            self.protocol.check(packet)
            link.write(packet)
            return 0
        if len(self._requests) >= self.queue:
            await self.get_room()
        self._check()
        return await self._answer(self._publish(topic, payload, qos, retain, properties))

    def _check(self):
        if not self._task:
            raise self.error

    async def get_room(self):
        while self._task and len(self._requests) >= self.queue:
            self._room.clear()
            await self._room.wait()

    async def subscribe(self, topic_filter, qos=0, options=0, properties=None):
        """Subscribe; returns the QoS that the broker granted.

        topic_filter: a string, or a list of them, in one packet; then returns bytes, one for each.
        options: of mqtt.v5.  Raises MQTTRefusedError if it grants none, or not all; `refused` says
        which.  ValueError for a malformed filter.
        """
        from .setup import subscribe

        self._check()
        return await self._answer(subscribe(self, topic_filter, qos, options, properties))

    async def unsubscribe(self, topic_filter):
        """Unsubscribe, also from several.  Raises ValueError for a malformed filter."""
        from .setup import subscribe

        self._check()
        await self._answer(subscribe(self, topic_filter))

    def _publish(self, topic, payload, qos, retain, properties):
        packet_id = self._new_id(qos)
        packet = self.protocol.encode_publish(topic, payload, qos, retain, packet_id, properties)
        return self._submit(Request(_PUBACK, packet_id, packet))

    def _new_id(self, qos):
        if qos > self.max_qos:
            raise ValueError("QoS %d needs mqtt.full" % qos)
        while True:
            self._last_id = self._last_id % _LAST_ID + 1
            if not self._find(self._last_id):
                return self._last_id

    def _find(self, packet_id):
        for request in self._requests:
            if request.packet_id == packet_id:
                return request
        return None

    def _submit(self, request):
        """Send a request now if nothing is before it, or leave it to `_pump`."""
        is_next = not self._is_waiting()
        self._requests.append(request)
        if not self.error and not (is_next and self._send(request)):
            self._link.wake()
        return request

    def _is_waiting(self):
        """Whether a request is still to be sent on this connection: then so is the last."""
        return self._requests and self._requests[-1].link is not self._link

    def _send(self, request):
        """Send a request if there is room for it; returns whether it is done with for now."""
        link = self._link
        is_publish = not request.wanted
        try:
            if (is_publish and not link.quota) or link.is_full():
                return False
            self.protocol.check(request.packet)
            link.write(request.packet)
        except MQTTRefusedError as error:  # not sent: the broker has said that it would be
            self._settle(request, error.code)
            return True
        except MQTTError:  # lost just now: it goes with the next connection
            return False
        link.quota -= is_publish
        request.link = link
        request.deadline = 0 if link.stream[1].out_buf else self.deadline()
        return True

    def deadline(self):
        """For an answer, from now on; ticks."""
        return ticks_add(ticks_ms(), self.timeout_s * 1000)

    async def _answer(self, request):
        try:
            await request.done.wait()
        except asyncio.CancelledError:
            from .setup import cancel

            cancel(self, request)
            raise
        if request.error:
            raise request.error
        return request.code

    async def _pump(self, link):
        """The task that sends what could not be sent at once, and waits for the network."""
        is_sent = True
        while is_sent:
            await link.flush()
            is_sent = False
            for request in self._requests:
                if request.link is not link:
                    is_sent = self._send(request)
                    break
                if not request.deadline:
                    request.deadline = self.deadline()
        link.running = False

    async def _watch(self, link):
        """The task that pings, and that gives the link up when an answer is overdue."""
        keepalive_ms = (self.protocol.keepalive_s or self.options[1]) * 1000
        while True:
            await asyncio.sleep_ms(min(1000, keepalive_ms // 8))
            now = ticks_ms()
            silence_ms = ticks_diff(now, link.heard)
            if silence_ms > keepalive_ms * 5 // 4 and not link.is_full():
                raise MQTTTimeoutError("nothing heard within %d ms" % silence_ms)
            for request in self._requests:
                due = request.deadline
                if due and request.link is link and ticks_diff(now, due) > 0:
                    raise MQTTTimeoutError("no answer within %d s" % self.timeout_s)
            quiet_ms = max(silence_ms, ticks_diff(now, link.sent))
            if quiet_ms * 2 >= keepalive_ms and not link.is_full():
                link.write(b"\xc0\x00")  # PINGREQ, until something is heard

    async def _receive(self, link):
        """Receive; all that is here in one turn, unless the backlog gets full.

        Messages that come fast are most often one topic's, at QoS 0.  What such a packet has in
        common with the last one, all up to the payload, is compared and not decoded again; and
        calls and small objects are what takes the time, so there are few.
        """
        buffer = self._buffer
        backlog = self._backlog
        most = min(2 * len(buffer), _BATCH) - _SLACK
        topic = head = None  # of the last one: all between its length and its payload
        head_end = 2
        while True:
            start = link._start
            at = start + head_end
            if (
                buffer[start + 2 : at] == head
                and buffer[start] == _PLAIN
                and at <= (stop := start + 2 + buffer[start + 1]) <= link._end
                and buffer[start + 1] < _LONG
                and self._waiting <= most
                and not link.overrun
            ):
                link._start = stop
                if not backlog:
                    self._arrived.set()
                message = Message(topic, bytes(buffer[at:stop]))
                message.size = _OVERHEAD + stop - start
                self._waiting += message.size
                backlog.append(message)
                message = None  # this frame would keep it
                limit = most
            else:
                try:
                    packet = link.next()
                    if not packet:
                        packet = await link.receive()
                        start = 0  # of the buffer: there was a read
                except MQTTProtocolError as error:
                    from .drain import drain

                    await drain(self, link, error)
                    continue
                if buffer[start] == _PLAIN and buffer[start + 1] < _LONG and not link.rest:
                    topic = packet[2]
                    head = bytes(buffer[start + 2 : packet[0] - len(packet[3])])
                    head_end = 2 + len(head)
                    if head[1] != len(topic) or head_end > len(topic) + 5:
                        head = None  # properties, perhaps an alias; or a topic that is not ASCII
                more = self._handle(link, packet)
                if more:
                    await more
                limit = most // 4  # they take more memory than that
            turns = _TURNS
            while self._waiting > limit and turns:  # a burst must not fill the backlog
                turns -= 1
                await asyncio.sleep_ms(0)

    def _handle(self, link, packet):
        """Do what a packet says; returns None, or a coroutine that does the rest."""
        kind = packet[1]
        if kind == _PUBLISH:
            return self._accept(link, packet)
        if kind == _DISCONNECT:
            raise refusal("connection", packet[2])
        if kind != _PINGRESP:  # that one has done its work by arriving
            self._settle(self._expect(link, kind, packet[2]), packet[3])
        return None

    def _expect(self, link, kind, packet_id):
        request = self._find(packet_id)
        if not request or request.link is not link or request.kind != kind:
            raise MQTTProtocolError("packet type %d for unknown id %d" % (kind, packet_id))
        return request

    def _settle(self, request, code):
        """A request is answered."""
        what, worst = "publish", code
        if request.wanted:
            from .setup import settle  # first of all: without memory it waits for the next link

            what, worst = settle(self, request, code)
        elif request.link:
            request.link.quota += 1
        self._requests.remove(request)
        if worst >= _FAILURE:
            request.error = refusal(what, worst)
        request.code = code
        request.done.set()
        self._room.set()
        if self._is_waiting() and not self.error:
            self._link.wake()

    def _accept(self, link, packet):
        """Let a message wait to be taken.

        What does not fit is dropped at QoS 0, and left unacknowledged at QoS 1, with all that
        follow it: the broker sends these again after a reconnect, which `__anext__` brings about.
        """
        _, _, topic, payload, qos, retain, packet_id, properties = packet
        backlog = self._backlog
        if qos:
            link.pending += 1
            if link.pending > self.protocol.window or qos > self.max_qos:
                raise MQTTProtocolError("QoS %d, %d unacknowledged" % (qos, link.pending))
            message = backlog[0] if self._taken else None
            if (
                message
                and message.packet_id == packet_id
                and message.payload in (b"", payload)  # empty: its taker is through with it
                and message.topic == topic
            ):  # sent again, and worked on
                message.link = link
                return None
        size = _OVERHEAD + len(topic) + len(payload)
        if link.overrun or (backlog and self._waiting + size > 2 * len(self._buffer)):
            if qos:
                link.overrun = True
            else:
                self.dropped += 1
            return None
        message = Message(topic, bytes(payload), qos, retain, properties)
        message.link = link
        message.packet_id = packet_id
        message.size = size
        self._waiting += size
        backlog.append(message)
        self._arrived.set()
        return None

    def _acknowledge(self, message):
        return self.protocol.encode_ack(_PUBACK, message.packet_id) + message.rest

    def __aiter__(self):
        return self

    async def __anext__(self):
        """The next message; to ask for it acknowledges the one before.  Ends on `close`."""
        backlog = self._backlog
        if self._taken:
            self._taken = False
            message = backlog.pop(0)
            self._waiting -= message.size
            if message.packet_id or self._link.overrun:
                await self._finish(message)
        while not backlog:
            if not self._task:
                raise StopAsyncIteration
            if self._arrived.waiting.peek():  # type: ignore[attr-defined]
                raise RuntimeError("another task waits for messages")
            self._arrived.clear()
            await self._arrived.wait()
        self._taken = True
        return backlog[0]

    async def _finish(self, message):
        """A message has been taken: acknowledge it."""
        link = message.link or self._link
        try:
            if message.packet_id:
                link.pending -= 1
                await link.send(self._acknowledge(message))
            if link.overrun and not self._backlog:
                link.fail(MQTTConnectionError("backlog full: the broker must send again"))
        except MQTTError as error:
            link.fail(error)  # if it is not lost already; the broker sends it again
