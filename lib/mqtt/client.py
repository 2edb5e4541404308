"""An MQTT 3.1.1 client for MicroPython's asyncio: QoS 0 and 1, last will, keep-alive.

    client = Client(open_stream, "dev-0001", on_message=take)
    session_present = await client.connect()
    await client.subscribe("dev-0001/#", 1)
    await client.publish("hello", b"world", qos=1)

The object outlives its connections.  When one is lost, whatever waits raises, `on_lost` is
called, and it is for the caller to `connect` again, after a pause.  Messages published at
QoS 1 and not acknowledged are then sent again.

Every wait has an end, every buffer a bound, and every failure is an MQTTError.  Not handled:
QoS 2, reconnection by itself, a store that survives a restart.
"""

import asyncio
from time import ticks_add, ticks_diff, ticks_ms

from micropython import const

from . import codec
from .codec import MQTTError, MQTTProtocolError
from .link import Link, MQTTConnectionError, MQTTTimeoutError, translate, within

_WINDOW = const(8)  # requests that may wait for their acknowledgement
_LAST_ID = const(65535)
_OVERHEAD = const(64)  # bytes of heap that a waiting message takes besides topic and payload
_REFUSALS = (  # section 3.2.2.3
    "protocol version",
    "client id",
    "server unavailable",
    "user name or password",
    "not authorized",
)


class MQTTUnacknowledgedError(MQTTConnectionError):
    """A message at QoS 1 may or may not have arrived; the client keeps it and sends it again."""


class MQTTRefusedError(MQTTError):
    """The broker said no.  code: its return code."""

    def __init__(self, text, code):
        super().__init__(text)
        self.code = code


class Client:
    """One session with a broker.

    dropped: messages at QoS 0 that came faster than `on_message` took them.
    on_lost: None, or a plain function, called without arguments when a connection is lost.
    """

    def __init__(
        self,
        open_stream,
        client_id,
        *,
        keepalive_s=60,
        will=None,
        clean=False,
        max_packet=2048,
        timeout_s=10,
        on_message=None,
    ):
        """open_stream: async function without arguments; gives MicroPython's (reader, writer).

        keepalive_s: 1 to 65535; a ping after half of it in silence, and after 1.25 times it the
        connection counts as lost.
        will: (topic, payload, qos, retain), which the broker publishes when the connection breaks.
        clean: True for a session that ends with the connection.
        max_packet: bytes; a larger packet from the broker is an error.  Twice as much may wait
        for on_message.
        timeout_s: for connecting, for an acknowledgement, for the network to take a packet.
        on_message: async function (topic, payload, retained).  A message at QoS 1 is acknowledged
        when it returns, so that one which was not finished comes again; one call at a time.
        If it raises, the connection is given up.  Without it, messages are taken and forgotten.
        """
        if not 1 <= keepalive_s <= 65535:
            raise ValueError("keepalive_s %d, expected 1 to 65535" % keepalive_s)
        self.on_message = on_message
        self.on_lost = None
        self.dropped = 0
        self._open_stream = open_stream
        self._connect_packet = codec.encode_connect(client_id, keepalive_s, clean, will)
        self._clean = clean
        self._keepalive_ms = keepalive_s * 1000
        self._timeout_s = timeout_s
        self._buffer = memoryview(bytearray(max_packet))
        self._link = None
        self._requests = []  # sent and not acknowledged, in the order of sending
        self._room = asyncio.Event()  # there may be fewer of them
        self._last_id = 0
        self._backlog = []  # (link, topic, payload, retained, packet id) for on_message
        self._backlog_bytes = 0
        self._delivery = None  # the task that is busy with the backlog

    async def connect(self):
        """Connect; returns whether the broker still had the session, with its subscriptions.

        A connection that is still there is closed first.  Raises MQTTRefusedError,
        MQTTProtocolError, MQTTTimeoutError, and MQTTConnectionError for what open_stream raises.
        """
        await self.close()
        link = None
        try:
            stream = await within(self._timeout_s, self._open_stream(), "no connection")
            link = Link(stream, self._buffer, min(self._timeout_s, self._keepalive_ms // 1000))
            await link.send(self._connect_packet)
            answer = await within(self._timeout_s, link.receive(), "no CONNACK")
            session_present = self._check_connack(answer)
            self._link = link
            link.on_lost = self._lost
            link.run(self._receive(link))
            link.run(self._watch(link))
            await self._resend(link, session_present)
        except Exception as error:
            raise link.fail(error) if link else translate(error)
        except BaseException:  # cancelled
            if link:
                link.fail(MQTTConnectionError("cancelled"))
            raise
        return session_present

    async def disconnect(self):
        """Say goodbye, so that the will is not published, and close.  Never raises."""
        link = self._link
        if link and not link.error:
            try:
                await link.send(codec.DISCONNECT_PACKET)
            except MQTTError:
                pass  # lost just now: closed all the same
        await self.close()

    async def close(self):
        """Close without a goodbye: the broker publishes the will.  Never raises."""
        link, self._link = self._link, None
        if link:
            link.on_lost = None  # nothing is lost that was given up
            self._release()
            await link.close()

    def check(self):
        """Raise what ended the connection, or MQTTConnectionError if there never was one."""
        if not self._link:
            raise MQTTConnectionError("not connected")
        if self._link.error:
            raise self._link.error

    async def publish(self, topic, payload, qos=0, retain=False):
        """Publish bytes; at QoS 1, return when the broker has acknowledged them.

        Up to 8 may be on their way at once; more wait here.  MQTTUnacknowledgedError means that
        the next `connect` sends the message again: publishing it anew would make two of it.
        After any other MQTTError it is forgotten.  Raises ValueError for a topic that MQTT does
        not allow.
        """
        packet_id = await self._new_id() if qos else 0
        packet = codec.encode_publish(topic, payload, qos, retain, packet_id)
        if qos:
            await self._request(codec.PUBACK, packet_id, packet)
        else:
            self.check()
            await self._link.send(packet)

    async def subscribe(self, topic_filter, qos=0):
        """Subscribe; returns the QoS that the broker granted.

        Raises MQTTRefusedError if it grants none; ValueError for a malformed filter.
        """
        packet_id = await self._new_id()
        packet = codec.encode_subscribe(packet_id, topic_filter, qos)
        granted = await self._request(codec.SUBACK, packet_id, packet)
        if granted == codec.REFUSED:
            raise MQTTRefusedError("subscription to %r refused" % topic_filter, granted)
        return granted

    async def unsubscribe(self, topic_filter):
        """Unsubscribe.  Raises ValueError for a malformed filter."""
        packet_id = await self._new_id()
        packet = codec.encode_unsubscribe(packet_id, topic_filter)
        await self._request(codec.UNSUBACK, packet_id, packet)

    def _check_connack(self, packet):
        if packet[1] != codec.CONNACK:
            raise MQTTProtocolError("packet type %d, expected CONNACK" % packet[1])
        session_present, code = packet[2:]
        if code:
            raise MQTTRefusedError("connection refused: " + _REFUSALS[code - 1], code)
        if session_present and self._clean:
            raise MQTTProtocolError("CONNACK: session present, expected a clean one")
        return session_present

    async def _resend(self, link, session_present):
        """Publish again what was not acknowledged, in the same order; sections 4.4 and 4.6."""
        for request in self._requests[:]:
            # To a broker that lost the session these are new.
            flag = codec.DUP if session_present else 0
            request.packet[0] = request.packet[0] & ~codec.DUP | flag
            request.deadline = self._deadline()
            await link.send(request.packet)

    async def _new_id(self):
        """A packet id that is not in use, once there is room for one more request."""
        self.check()
        while len(self._requests) >= _WINDOW:
            self._room.clear()
            await self._room.wait()
            self.check()
        while True:
            self._last_id = self._last_id % _LAST_ID + 1
            if not self._find(self._last_id):
                return self._last_id

    def _find(self, packet_id):
        for request in self._requests:
            if request.packet_id == packet_id:
                return request
        return None

    def _deadline(self):
        return ticks_add(ticks_ms(), self._timeout_s * 1000)

    async def _request(self, answer, packet_id, packet):
        """Send a packet and wait for its answer; `_watch` ends the link when it is overdue."""
        link = self._link
        request = _Request(answer, packet_id, packet, self._deadline())
        self._requests.append(request)
        try:
            await link.send(packet)
        except MQTTError:
            pass  # kept in link.error, and `_release` has been here
        except asyncio.CancelledError:
            if not link.error:  # nothing was sent
                self._requests.remove(request)
            raise
        await request.done.wait()
        if request.result is not None:
            return request.result
        if answer == codec.PUBACK:
            raise MQTTUnacknowledgedError(str(link.error))
        raise link.error

    async def _receive(self, link):
        """The task that reads."""
        while True:
            self._handle(link, await link.receive())
            if self._backlog:  # on_message first: a burst must not fill the backlog
                await asyncio.sleep_ms(0)

    def _handle(self, link, packet):
        kind = packet[1]
        if kind == codec.PUBLISH:
            self._accept(link, *packet[2:])
        elif kind == codec.CONNACK:
            raise MQTTProtocolError("a second CONNACK")
        elif kind != codec.PINGRESP:  # that one has done its work by arriving
            request = self._find(packet[2])
            if not request or request.answer != kind:
                raise MQTTProtocolError("packet type %d for unknown id %d" % (kind, packet[2]))
            self._requests.remove(request)
            request.result = packet[3] if kind == codec.SUBACK else 0
            request.done.set()
            self._room.set()

    def _accept(self, link, topic, payload, qos, retained, packet_id):
        """Put a message in the backlog, and see that somebody works on it.

        on_message may itself wait for an acknowledgement, so reading must go on.  What does
        not fit is dropped at QoS 0, and left unacknowledged at QoS 1, with all that follow it:
        the broker sends these again after a reconnect, which `_deliver` brings about.
        """
        size = _OVERHEAD + len(topic) + len(payload)
        if link.overrun or (self._backlog and self._backlog_bytes + size > 2 * len(self._buffer)):
            if qos:
                link.overrun = True
            else:
                self.dropped += 1
            return
        self._backlog.append((link, topic, bytes(payload), retained, packet_id))
        self._backlog_bytes += size
        if not self._delivery:
            self._delivery = asyncio.create_task(self._deliver())

    async def _deliver(self):
        """The task that hands over messages; ends when there are none."""
        while self._backlog:
            link, topic, payload, retained, packet_id = self._backlog.pop(0)
            self._backlog_bytes -= _OVERHEAD + len(topic) + len(payload)
            try:
                if self.on_message:
                    await self.on_message(topic, payload, retained)
                if packet_id:
                    await link.send(codec.encode_puback(packet_id))
            except Exception as error:
                # The application's, for it to get from its next call.  If the link is lost already
                # (that may be the error), the message will come again.
                link.fail(error)
            if link.overrun and not self._backlog:
                link.fail(MQTTConnectionError("backlog full: the broker must send again"))
        self._delivery = None

    async def _watch(self, link):
        """The task that pings, and that gives the link up when an answer is overdue."""
        limit = self._keepalive_ms * 5 // 4
        while True:
            await asyncio.sleep_ms(min(1000, self._keepalive_ms // 8))
            now = ticks_ms()
            if ticks_diff(now, link.heard) > limit:
                raise MQTTTimeoutError("nothing heard within %d s" % (limit // 1000))
            for request in self._requests:
                if ticks_diff(now, request.deadline) > 0:
                    raise MQTTTimeoutError("no answer within %d s" % self._timeout_s)
            await link.ping(now, self._keepalive_ms // 2)

    def _lost(self):
        self._release()
        if self.on_lost:
            self.on_lost()

    def _release(self):
        """Wake all who wait; keep what is to be sent again."""
        self._backlog.clear()
        self._backlog_bytes = 0
        requests = self._requests
        self._requests = [each for each in requests if each.answer == codec.PUBACK]
        for each in requests:
            each.done.set()
        self._room.set()


class _Request:
    """A packet on its way, and who waits for its answer."""

    def __init__(self, answer, packet_id, packet, deadline):
        self.answer = answer  # packet type
        self.packet_id = packet_id
        self.packet = packet
        self.deadline = deadline  # ticks
        self.done = asyncio.Event()
        self.result = None  # until answered
