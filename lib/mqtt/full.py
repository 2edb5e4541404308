"""The complete MQTT client: QoS 2, posting without waiting, a store, messages of any size.

`FullClient` is used like `client.Client`, which does the rest.  A message at QoS 2 is handed over
once, over lost connections and, with a store, over restarts: it comes again only if the power was
cut before the next one was asked for.
"""

import struct

from micropython import const

from .client import Client, Request
from .codec import MQTTProtocolError
from .link import MQTTConnectionError

_PUBACK = const(4)
_PUBREC = const(5)
_PUBREL = const(6)
_PUBCOMP = const(7)
_FAILURE = const(0x80)
_PLAIN = (bytes, bytearray)  # as many bytes as they are long
_MAX_TAKEN = const(256)  # messages at QoS 2 that the broker may leave unreleased


class Publish(Request):
    """A message at QoS 1 or 2, or a large one, on its way."""

    quota = 0  # for what the store gives back, which is its own link

    def __init__(self, kind, packet_id, packet):
        super().__init__(kind, packet_id, packet)
        self.key = None  # in the store
        self.chunks = None  # of a large one: (length, function that gives an iterator)


class FullClient(Client):
    """discarded: messages of ours that were dropped: by `post`, given up, or in the store no more
    what they were when they were written.
    """

    max_qos = 2

    def __init__(
        self, brokers, client_id, *, max_message=0, drop_oldest=True, store=None, **options
    ):
        """options: those of Client.

        max_message: bytes of a packet; messages larger than max_packet come as LargeMessage.
        drop_oldest: what `post` drops when the queue is full: the oldest message that was never
        sent, or the new one.
        store: mqtt.store.FileStore, for what is to survive a restart; what it cannot keep raises
        MQTTStoreError.
        """
        super().__init__(brokers, client_id, **options)
        if store and self.options[2]:
            raise ValueError("store and clean: expected one of them")
        if max_message > self.options[6]:
            self.options = self.options[:6] + (max_message,)
        self.discarded = 0
        self._drop_oldest = drop_oldest
        self._session = set()  # packet ids that the broker has not released yet
        self._steady = None  # the message posted last at QoS 0: (topic, length, retain)
        self._packet = None  # its packet, to be filled anew
        self._format = None  # of its payload
        self._payload_at = 0
        self._store = store
        if store:
            self.discarded = store.restore(self.protocol, self._requests, self._session)

    def post(self, topic, payload, qos=0, retain=False, properties=None):
        """Publish without waiting: at QoS 0 now or not at all, else by way of the queue.

        Returns False if the message was dropped.  If an older one was, whoever waits for that in
        `publish` gets an MQTTConnectionError.  At QoS 0, a message with the topic and the length
        of the one before takes no memory.
        """
        if qos:
            if len(self._requests) < self.queue or self._drop():
                self._publish(topic, payload, qos, retain, properties)
                return True
        else:
            try:
                if not self.error and not self._link.is_full():
                    self._link.write(self._fill(topic, payload, retain, properties))
                    return True
            except MQTTConnectionError:
                pass  # lost just now
        self.discarded += 1
        return False

    def _fill(self, topic, payload, retain, properties):
        steady = self._steady
        if (
            steady
            and topic == steady[0]
            and len(payload) == steady[1]
            and retain == steady[2]
            and not properties
            and isinstance(payload, _PLAIN)
        ):
            struct.pack_into(self._format, self._packet, self._payload_at, payload)
            return self._packet
        packet = self.protocol.encode_publish(topic, payload, 0, retain, 0, properties)
        self.protocol.check(packet)
        if not properties and isinstance(payload, _PLAIN):
            self._steady = (topic, len(payload), retain)
            self._format = "%ds" % len(payload)
            self._packet = bytearray(packet)
            self._payload_at = len(packet) - len(payload)
        return packet

    def _drop(self):
        """Drop the oldest message that was never sent; returns whether there was one."""
        if self._drop_oldest:
            for request in self._requests:
                # One at QoS 2 that was perhaps sent holds its id.
                is_sent = request.link and (request.link is not request or request.kind != _PUBACK)
                if not (is_sent or request.wanted):
                    self.discarded += 1
                    request.error = MQTTConnectionError("dropped: the queue is full")
                    self._settle(request, 0)
                    return True
        return False

    def _publish(self, topic, payload, qos, retain, properties):
        packet_id = self._new_id(qos)
        packet = self.protocol.encode_publish(topic, payload, qos, retain, packet_id, properties)
        request = self._new_request(qos, packet_id, packet)
        self._keep(request)
        return self._submit(request)

    def _new_request(self, qos, packet_id, packet):
        return Publish((None, _PUBACK, _PUBREC)[qos], packet_id, packet)

    async def _answer(self, request):
        try:
            return await super()._answer(request)
        finally:  # taken back, it must not be sent after a restart
            if not request.packet and request.key:
                self._store.remove(request.key)

    def _keep(self, request):
        if self._store and not request.chunks:
            self._store.keep(request, self.protocol.level)

    def _begin(self, session):
        self._steady = None  # a topic alias in it would be another connection's
        if not session:
            for packet_id in list(self._session):
                self._release(packet_id)
        for message in self._backlog[:]:
            if message.payload is None:  # its rest is lost, and it comes again
                message.packet_id = 0
                if not (self._taken and message is self._backlog[0]):
                    self._backlog.remove(message)
                    self._waiting -= message.size

    def _repeat(self, request, session):
        if request.kind == _PUBCOMP:
            if not session:  # the broker has the message
                self._settle(request, request.code)
        elif request.kind:  # not a large one at QoS 0
            super()._repeat(request, session)

    def _send(self, request):
        if request.wanted or not request.chunks:
            return super()._send(request)
        from .large import send

        return send(self, request, super()._send)

    def _settle(self, request, code):
        if not request.wanted and request.key:
            self._store.remove(request.key)
        super()._settle(request, code)

    def _handle(self, link, packet):
        kind = packet[1]
        if kind == _PUBREC:
            return self._received(link, packet[2], packet[3])
        if kind == _PUBREL:
            packet_id = packet[2]
            for message in self._backlog:
                if message.packet_id == packet_id and message.link is link:
                    raise MQTTProtocolError("PUBREL before PUBREC for id %d" % packet_id)
            self._release(packet_id)
            return link.send(self.protocol.encode_ack(_PUBCOMP, packet_id))
        if kind == _PUBCOMP:
            # Its code says at most that the id was forgotten (MQTT 5, section 3.7.2.1): the broker
            # has the message since its PUBREC.  An id unknown here is of a session before ours.
            if self._find(packet[2]):
                request = self._expect(link, kind, packet[2])
                self._settle(request, request.code)
            return None
        return super()._handle(link, packet)

    def _received(self, link, packet_id, code):
        """Section 4.3.3: the broker has the message; what is left is to release its id."""
        request = self._find(packet_id)
        if request and request.kind != _PUBCOMP:
            self._expect(link, _PUBREC, packet_id)
            if code >= _FAILURE:
                self._settle(request, code)
                return None
            request.packet = self.protocol.encode_ack(_PUBREL, packet_id)
            request.kind = _PUBCOMP
            request.code = code
            request.chunks = None
            request.tries = 0
            self._keep(request)
            return self._send_release(link, request)
        return link.send(self.protocol.encode_ack(_PUBREL, packet_id))

    async def _send_release(self, link, request):
        request.deadline = 0
        await link.send(request.packet)
        request.deadline = self.deadline()

    def _release(self, packet_id):
        if packet_id in self._session:
            self._session.remove(packet_id)
            if self._store:
                self._store.remove_id(packet_id)

    def _accept(self, link, packet):
        waiting = len(self._backlog)
        if packet[4] > 1 and packet[6] in self._session:
            more = link.send(self.protocol.encode_ack(_PUBREC, packet[6]))
        else:
            more = super()._accept(link, packet)
        if link.rest:
            from .large import receive

            return receive(self._backlog, len(self._backlog) > waiting, link, more)
        return more

    async def __anext__(self):
        if self._taken and self._backlog[0].payload is None:
            await self._backlog[0].skip()
        return await super().__anext__()

    def _acknowledge(self, message):
        if message.qos < 2:
            return super()._acknowledge(message)
        if len(self._session) >= _MAX_TAKEN:
            raise MQTTProtocolError("%d messages not released" % _MAX_TAKEN)
        self._session.add(message.packet_id)
        if self._store:
            self._store.keep_id(message.packet_id)
        return self.protocol.encode_ack(_PUBREC, message.packet_id) + message.rest
