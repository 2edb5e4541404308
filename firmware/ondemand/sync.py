"""Authenticated time: the image server's, with whose certificate the board has been convinced.

A server says in each answer what time it has (RFC 9110 section 6.6.1). It is believed within the
dates of the certificate that the handshake has checked, and never below what the board is sure of.
It replaces what SNTP has guessed, in both directions, and alone it raises the floor of the clock.
"""

import asyncio

from micropython import const

import mtls
from deadline import within
from trust import TrustError

_LIMIT_S = const(10)  # for all of it: the broker waits meanwhile
_AGAIN_S = const(86400)
_JUMP_S = const(60)  # from here on an event
_STEP_S = const(300)  # by which a server may have set its own clock back
_LAST = const(4102444799)  # 2099 ends; the clock goes no further
_REFUSED = const("time refused: ")
_SHOWN = const(40)  # bytes of what came from outside

_MONTHS = const(b"JanFebMarAprMayJunJulAugSepOctNovDec")
_DAYS = const(b"ThuFriSatSunMonTueWed")  # 1970 began on the first of these
_LENGTHS = const(b"\x1f\x1d\x1f\x1e\x1f\x1e\x1f\x1f\x1e\x1f\x1e\x1f")  # February in a leap year
_SEQUENCE = const(0x30)
_INTEGER = const(0x02)
_VERSION = const(0xA0)
_UTC_TIME = const(0x17)
_GENERALIZED_TIME = const(0x18)


async def query(agent, host, port):
    """Ask the image server for the time, once a day; without an answer the clock stays as it is.

    The connection is closed when this returns: there is memory for one.
    """
    from firmware.ondemand.timekeeping import now, set_time

    timed = agent.timed or agent.heard
    if timed and 0 <= now() - timed <= _AGAIN_S:
        return
    ahead_s = 0
    while True:
        try:
            return await within(_LIMIT_S, attempt(agent, host, port, ahead_s))
        except (OSError, MemoryError, asyncio.TimeoutError, TrustError) as error:
            print("signet: error: time:", str(error) or "no answer in time")
            is_guess = agent.timed == 0 and not ahead_s and now() > agent.clock_floor
            if not is_guess or not isinstance(error, mtls.TLSError):
                break
        # A forged guess may be where no certificate is valid; what the board is sure of is a guess,
        # too.
        ahead_s = now() - agent.clock_floor
        set_time(agent.clock_floor)
    if ahead_s:
        set_time(now() + ahead_s)


async def attempt(agent, host, port, ahead_s):
    """ahead_s: by which the guess was ahead of the clock, which was set back for this."""
    from firmware.ondemand import headers

    stream = await mtls.open_stream(host, port, agent.context, _LIMIT_S)
    try:
        request = "HEAD / HTTP/1.1\r\nHost: %s\r\n\r\n" % host
        _, found, _ = await headers.query(stream, request.encode())  # whatever its status is
        set_clock(agent, found, stream, ahead_s)
    finally:
        stream[1].close()
        await stream[1].wait_closed()


def set_clock(agent, headers, stream, ahead_s=0):
    """Set the clock by a server's answer; TrustError, and an event, if it is not to be believed.

    headers: of the answer.  stream: (reader, writer) of the connection that it came by.
    """
    from firmware.ondemand import timekeeping

    certificate = stream[0].secure.getpeercert(True)
    try:
        unix_s = read(headers.get(b"date", b""), certificate, agent.clock_floor)
    except TrustError as error:
        if not any(_REFUSED in str(entry[1].get("reason")) for entry in agent.outbox):
            agent.device.event("security", reason=_REFUSED + str(error))
        raise
    ahead_s += timekeeping.now() - unix_s
    is_said = agent.timed or (agent.timed == 0 and not agent.heard)  # a clock in deep sleep drifts
    if is_said and not -_JUMP_S <= ahead_s <= _JUMP_S:
        words = "time of the %s was %d s ahead" if ahead_s > 0 else "time of the %s was %d s behind"
        source = "image server" if agent.timed else "time server"
        agent.device.event("security", reason=words % (source, abs(ahead_s)))
    timekeeping.set_time(unix_s)
    agent.timed = agent.clock_floor = unix_s
    timekeeping.keep(unix_s)


def read(text, certificate, floor):
    """Unix seconds, at least `floor`; TrustError if they are not to be believed.

    text: bytes of the header.  certificate: the server's, DER.  A little below the floor counts as
    the floor.
    """
    unix_s = decode(text)
    first, last = find_validity(certificate)
    if not first <= unix_s <= min(last, _LAST):
        words = "server's time %d is not within its certificate's, %d to %d"
        raise TrustError(words % (unix_s, first, last))
    if unix_s < floor - _STEP_S:
        raise TrustError("server's time %d is below the floor %d" % (unix_s, floor))
    return max(unix_s, floor)


def decode(text):
    """Unix seconds of an IMF-fixdate (RFC 9110 section 5.6.7); no other form will do."""
    month = _MONTHS.find(text[8:11])
    separators = text[3:5] + text[7:8] + text[11:12] + text[16:17] + text[19:20] + text[22:23]
    if not month % 3 and separators + text[25:] == b",    :: GMT":
        digits = text[12:16] + b"%02d" % (month // 3 + 1) + text[5:7]
        unix_s = seconds(digits + text[17:19] + text[20:22] + text[23:25])
        if unix_s is not None:
            at = unix_s // 86400 % 7 * 3
            if text[:3] == _DAYS[at : at + 3]:
                return unix_s
    raise TrustError("server sent date %r" % text[:_SHOWN])


def seconds(text):
    """Unix seconds of YYYYMMDDhhmmss, bytes; None if there is no such time."""
    if len(text) != 14 or not text.isdigit():
        return None
    year, month, day = int(text[:4]), int(text[4:6]), int(text[6:8])
    hour, minute, second = int(text[8:10]), int(text[10:12]), int(text[12:])
    if not 1 <= month <= 12 or hour > 23 or minute > 59 or second > 59:
        return None
    is_leap = not year % 4 and (year % 100 or not year % 400)
    if not 1 <= day <= _LENGTHS[month - 1] - (month == 2 and not is_leap):
        return None
    year -= month < 3  # from March on, so that the odd day is the last
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * ((month + 9) % 12) + 2) // 5
    return (((days + day - 719469) * 24 + hour) * 60 + minute) * 60 + second


def find_validity(certificate):
    """(first, last) Unix seconds of a certificate, as in RFC 5280 section 4.1; or TrustError."""
    at, end = enter(certificate, 0, len(certificate), _SEQUENCE)
    at, end = enter(certificate, at, end, _SEQUENCE)
    if at < end and certificate[at] == _VERSION:
        _, at = enter(certificate, at, end, _VERSION)
    for kind in (_INTEGER, _SEQUENCE, _SEQUENCE):  # serial number, algorithm, issuer
        _, at = enter(certificate, at, end, kind)
    at, end = enter(certificate, at, end, _SEQUENCE)
    first, at = _read_time(certificate, at, end)
    last, at = _read_time(certificate, at, end)
    if at != end:
        raise TrustError("server's certificate is malformed")
    return first, last


def _read_time(certificate, at, end):
    is_long = at < end and certificate[at] == _GENERALIZED_TIME
    start, end = enter(certificate, at, end, _GENERALIZED_TIME if is_long else _UTC_TIME)
    text = bytes(certificate[start:end])
    if not is_long:
        text = (b"19" if text[:1] >= b"5" else b"20") + text
    unix_s = seconds(text[:-1])
    if unix_s is None or text[-1:] != b"Z":
        raise TrustError("server's certificate: time %r" % text[:_SHOWN])
    return unix_s, end


def enter(certificate, at, end, kind):
    """(start, end) of the content of the DER element at `at`, which has to be of this kind."""
    if at + 2 <= end and certificate[at] == kind:
        length = certificate[at + 1]
        at += 2
        if length > 0x80:
            count = length - 0x80
            length = 0
            for byte in certificate[at : at + count]:
                length = length << 8 | byte
            at += count
        elif length == 0x80:
            length = len(certificate)  # of no end: not DER
        if at + length <= end:
            return at, at + length
    raise TrustError("server's certificate is malformed")
