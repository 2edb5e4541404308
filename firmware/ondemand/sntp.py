"""SNTP client, RFC 4330: one question, one checked answer."""

import asyncio
import os
import socket
import struct
import time

from micropython import const

from firmware.ondemand.timekeeping import EPOCH, set_time

_NTP_EPOCH = const(2208988800)  # 1900 to 1970
_TIMEOUT_MS = const(2000)
_LAST_YEAR = const(2099)


class TimeError(Exception):
    """No usable answer from the time server."""


async def set_clock(floor, host, port):
    """Ask a time server once; whether the clock is set: not without an answer above the floor."""
    try:
        unix_s = await query(host, port)
        if unix_s < floor:
            raise TimeError("%d is before the floor %d" % (unix_s, floor))
    except (OSError, TimeError) as error:
        print("signet: error: time server %s: %s" % (host, error))
        return False
    set_time(unix_s)
    return True


async def query(host, port):
    """Unix seconds; TimeError if there is no usable answer, OSError from the network."""
    nonce = os.urandom(8)  # comes back as the originate time stamp: no off-path forgery
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        # version 4, client
        sock.sendto(b"\x23" + b"\0" * 39 + nonce, socket.getaddrinfo(host, port)[0][-1])
        started = time.ticks_ms()
        while time.ticks_diff(time.ticks_ms(), started) < _TIMEOUT_MS:
            await asyncio.sleep_ms(20)
            try:
                unix_s = parse_reply(sock.recv(48), nonce)
            except OSError:  # nothing there yet
                continue
            if unix_s:
                return unix_s
    finally:
        sock.close()
    raise TimeError("no answer")


def parse_reply(reply, nonce):
    """Unix seconds of an SNTP reply (RFC 4330 section 5), or None if it is not one for us."""
    if len(reply) < 48 or reply[0] & 7 != 4 or reply[0] >> 6 == 3:  # server mode, synchronised
        return None
    if not 0 < reply[1] < 16 or bytes(reply[24:32]) != nonce:
        return None
    seconds = struct.unpack_from(">I", reply, 40)[0]
    if seconds < 0x80000000:  # era 1, from 2036 (section 3)
        seconds += 1 << 32
    unix_s = seconds - _NTP_EPOCH
    return unix_s if time.gmtime(unix_s - EPOCH)[0] <= _LAST_YEAR else None
