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


def judge(client, link):
    """Look at how the last connection ended; returns the request under suspicion, or None.

    Gives up the request that has had its chances.
    """
    sent = [each for each in client._requests if each.link is link]  # and not answered
    trial = getattr(link, "trial", None)
    if sent and not getattr(link, "is_judged", False):
        request = sent[0]
        if not _hung_up(link.error):
            request.tries = 0
        elif trial:
            request.tries += trial.is_evidence and len(sent) == 1
        elif request.tries < _SUSPECTED:
            request.tries += 1
        if request.tries >= _SUSPECTED + client.patience:
            _give_up(client, request, getattr(link.error, "code", _FAILURE))
    link.is_judged = True  # the attempt to connect may fail yet, and there will be another
    for request in client._requests:
        if request.tries >= _SUSPECTED:
            return request
    return None


def _hung_up(error):
    if isinstance(error, MQTTRefusedError):  # by a DISCONNECT
        return error.code not in _OTHER_REASONS
    cause = getattr(error, "cause", None)
    if isinstance(cause, OSError):
        return cause.args[0] in _ENDS or _TLS_END in str(cause)
    return isinstance(cause, EOFError)


def _give_up(client, request, code):
    name = request.wanted[0] if request.wanted else "publish"
    client.discarded += not request.wanted  # a subscription stands in `refused`
    client._settle(request, code)
    request.error = MQTTRefusedError(
        "%s given up: the broker hung up at it %d times" % (name, request.tries), code
    )


def isolate(client, link, suspect):
    """Have a new connection send one request at a time until the suspect is answered."""
    link.trial = trial = _Trial(client, link, suspect)
    link.decode = trial.decode
    link.write = trial.write
    link._pump = trial.pump


class _Trial:
    """What stands between the client and one link."""

    is_evidence = True  # no message at QoS 0 was written
    _is_sending = False  # a request

    def __init__(self, client, link, suspect):
        self.suspect = suspect
        self._client = client
        self._link = link
        self._write = link.write  # the link's own
        self._answered = asyncio.Event()  # the ping is

    def decode(self, *values):
        packet = self._client.protocol.decode(*values)
        if packet and packet[1] == _PINGRESP:
            self._answered.set()
        return packet

    def write(self, data):
        if not (self._is_sending or self._link.held) and data[0] & 0xF6 == _PUBLISH << 4:
            self.is_evidence = False
        self._write(data)

    async def pump(self, link):
        client = self._client
        link.write(b"\xc0\x00")  # PINGREQ
        await link.flush()
        await self._answered.wait()
        while self.suspect in client._requests:
            for request in client._requests:
                if request.link is not link:
                    break
            await link.get_room()
            link.quota = 1
            self._is_sending = True
            is_sent = client._send(request)
            self._is_sending = False
            if is_sent:
                await link.flush()
                request.deadline = request.deadline or client._due()
                await request.done.wait()
        link.trial = None
        link.write = self._write
        link.decode = client.protocol.decode
        link._pump = client._pump
        link.quota = client.protocol.receive_maximum
        await client._pump(link)
