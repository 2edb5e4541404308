"""What becomes of a request at which the broker hangs up; imported at a reconnect that has any.

A broker that does not like a packet closes the connection, and in MQTT 3.1.1 it cannot say why.
Sent again and again, such a packet would block all that is behind it.  But a network that breaks
looks much the same, so a request is given up only on this evidence, and in this order:

1.  The broker hung up: end of the stream or a reset, or in MQTT 5 a DISCONNECT that may be about
    a packet.  No time-out of ours, no error of the broker's, nothing of the network or the memory.
2.  The request had begun to be written and was the first that was not answered.  Twice in a row,
    and it is suspected.
3.  Then requests go one at a time, until the suspect is answered: on each connection a ping first,
    and only when the broker has answered that, the first of them; and the next when that is
    answered.  If a message at QoS 0 goes in between, the connection is no evidence.
4.  If the broker hangs up at the same request so for `patience` times in a row, it is given up.
    An answer ends all suspicion, and a loss of another kind at that request begins the count anew.
"""

import asyncio

from micropython import const

from .codec import MQTTRefusedError

_PUBLISH = const(3)
_PINGRESP = const(13)

_SUSPECTED = const(2)  # times that the broker hung up at it, others beside it
_FAILURE = const(0x80)  # "Unspecified error"
# Codes of a DISCONNECT that is about no packet: normal, will, busy, shutting down, time-outs, taken
# over, quotas and rates, moved, by hand.
_OTHER_REASONS = const(b"\x00\x04\x88\x89\x8b\x8d\x8e\x93\x96\x97\x98\x9c\x9d\x9f\xa0")
_ENDS = const((32, 104))  # EPIPE, ECONNRESET
_TLS_END = const("-0x7280")  # mbedTLS: the connection has ended, without a goodbye


def check(client, old, link):
    """Look at how the last connection ended, and give up the request that has had its chances.

    If there is a suspect still, `link`, the new connection, sends one request at a time.
    """
    sent = [each for each in client._requests if each.link is old]  # and not answered
    trial = getattr(old, "trial", None)  # False: this end was looked at before
    if sent and trial is not False:
        request = sent[0]
        if not _hung_up(old.error):
            request.tries = 0
        elif trial:
            request.tries += trial.fresh and len(sent) == 1
        elif request.tries < _SUSPECTED:
            request.tries += 1
        if request.tries >= _SUSPECTED + client.patience:
            _give_up(client, request, getattr(old.error, "code", _FAILURE))
    old.trial = False  # this attempt to connect may fail yet
    for request in client._requests:
        if request.tries >= _SUSPECTED:
            link.trial = trial = _Trial(client, link, request)
            link.decode = trial.decode
            link.write = trial.write
            link._pump = trial.pump
            link.run(trial.carry_out(link))
            return


def _hung_up(error):
    if isinstance(error, MQTTRefusedError):  # by a DISCONNECT
        return error.code not in _OTHER_REASONS
    cause = getattr(error, "cause", None)
    if isinstance(cause, OSError):
        return cause.args[0] in _ENDS or _TLS_END in str(cause)
    return isinstance(cause, EOFError)


def _give_up(client, request, code):
    name = " ".join(request.wanted[0])[:40] if request.wanted else "publish"
    if client.max_qos > 1 and not request.wanted:  # mqtt.full; a subscription is in `refused`
        client.discarded += 1
    client._settle(request, code)
    request.error = MQTTRefusedError(
        "%s given up: the broker hung up at it %d times" % (name, request.tries), code
    )


class _Trial:
    """What stands between the client and a link until `request`, the suspect, is answered.

    fresh: no message at QoS 0 was written on it.
    """

    fresh = True
    running = False  # a request is being written

    def __init__(self, client, link, request):
        self.request = request
        self._client = client
        self._link = link
        self._write = link.write  # the link's own
        self._arrived = asyncio.Event()  # the answer to the ping

    def decode(self, *values):
        packet = self._client.protocol.decode(*values)
        if packet and packet[1] == _PINGRESP:
            self._arrived.set()
        return packet

    def write(self, data):
        if not (self.running or self._link.held) and data[0] & 0xF6 == _PUBLISH << 4:
            self.fresh = False
        self._write(data)

    async def pump(self, link):
        """The link's, meanwhile: waits for the network, and sends nothing by itself."""
        client = self._client
        await link.flush()
        for request in client._requests:
            if request.link is link and not request.deadline:
                request.deadline = client.deadline()
        if link.trial:
            link.running = False
        else:  # it ended just now
            await client._pump(link)

    async def carry_out(self, link):
        client = self._client
        requests = client._requests
        await link.send(b"\xc0\x00")  # PINGREQ
        await self._arrived.wait()
        while self.request in requests:
            request = self.request
            for each in requests:
                if each.link is not link:
                    request = each
                    break
            await link.get_room()
            link.quota = 1
            self.running = True
            if request.link is not link and request in requests:
                client._send(request)
            self.running = False
            while request.link is link and request in requests:
                client._room.clear()
                await client._room.wait()  # an answer
            await asyncio.sleep_ms(0)
        link.trial = None
        link.write = self._write
        link.decode = client.protocol.decode
        link._pump = client._pump
        link.quota = client.protocol.receive_maximum
        link.wake()
