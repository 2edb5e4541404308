"""Mutual TLS for asyncio: both ends show a certificate, and there is no way to switch that off.

`client_context` once, then `open_stream` for each connection.  The server's chain, host
name and dates are checked, so the clock must be right first.  Not handled: revocation
lists, session resumption; name resolution blocks the event loop, as MicroPython's does.

A TLS 1.3 server that does not accept the client's certificate says so only after the
handshake: `open_stream` succeeds then, and the first `readinto` raises.
"""

import asyncio
import errno
import socket
from asyncio import core

import tls

from deadline import within


class TLSError(OSError):
    """Peer or certificate trouble, in words.  What is only TCP's stays a plain OSError."""


def _explain(host, heard, error):
    from mtls_errors import cause

    return cause(TLSError, host, heard, error)


def client_context(certificate, key, ca):
    """A tls.SSLContext that shows `certificate` and trusts servers that `ca` signed.

    certificate (followed by its intermediates), key, ca: PEM or DER, bytes.
    Raises ValueError if one cannot be read.  That key and certificate belong
    together is not checked here: provisioning does it.
    """
    context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    context.verify_mode = tls.CERT_REQUIRED
    context.load_verify_locations(ca)
    context.load_cert_chain(certificate, key)
    return context


async def open_stream(host, port, context, timeout_s=30):
    """Connect and shake hands within timeout_s; returns (reader, writer), one object.

    host: what the server's certificate must be for, DNS name or IP address.
    Raises TLSError, OSError for what happens below TLS, and MemoryError if there is no memory for
    TLS: that is the C heap's, which on an ESP32 is not MicroPython's.
    """
    try:
        stream = await within(timeout_s, _open(host, port, context))
    except asyncio.TimeoutError:
        raise TLSError("no TLS connection to %s:%d within %d s" % (host, port, timeout_s))
    return stream, stream


async def _open(host, port, context):
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)[0]
    raw = secure = socket.socket(family, kind, protocol)
    try:
        await _connect(raw, address)
        secure = context.wrap_socket(raw, server_hostname=host, do_handshake_on_connect=False)
        stream = Stream(raw, secure, host)
        await stream._shake_hands()
        return stream
    except BaseException as error:  # cancellation by the timeout, too
        # A failed handshake takes the socket from its TLS object without closing it.
        secure.close()
        raw.close()
        if isinstance(error, (OSError, ValueError)):
            error = _explain(host, False, error)
        raise error


def _connect(raw, address):
    """Connect, and have small packets sent at once, whether or not the last is acknowledged.

    asyncio's `open_connection` leaves its socket open when it is cancelled.
    """
    raw.setblocking(False)
    try:
        raw.connect(address)
    except OSError as error:
        if error.errno != errno.EINPROGRESS:
            raise
    yield core._io_queue.queue_write(raw)
    try:
        raw.setsockopt(6, 1, 1)  # IPPROTO_TCP, TCP_NODELAY: the same in Linux and lwIP
    except OSError:  # lwIP's EINVAL: the connection has failed (Linux says so at the first read)
        raise OSError(errno.ECONNREFUSED)


class Stream:
    """One TLS connection, as reader and writer in one.

    Only one task may read and one may write at a time.
    """

    def __init__(self, raw, secure, host):
        self._raw = raw
        self._secure = secure
        self._stream = asyncio.StreamReader(secure)
        self._host = host
        self._early = None  # the byte that came with the end of the handshake
        self._heard = False  # the server has sent data, so it has accepted us

    @property
    def out_buf(self):
        """What `write` could not hand over and `drain` still has to; empty if nothing."""
        return self._stream.out_buf

    async def _shake_hands(self):
        # Blocking mode cannot be used: it waits for ever for a silent peer.  Only a read or
        # a write moves a handshake on; a read may come back with the first byte of data.
        byte = bytearray(1)
        got = self._secure.readinto(byte)
        while got is None and self._secure.getpeercert(True) is None:
            got = await self._stream.readinto(byte)
        if got:
            self._early = byte

    async def readinto(self, buf):
        """Wait for data and read up to len(buf) bytes of it; returns their number, 0 at the end."""
        if self._early:
            buf[:1] = self._early
            self._early = None
            return 1
        await asyncio.sleep_ms(0)  # a peer that is faster than us must not starve other tasks
        try:
            got = self._secure.readinto(buf)
            while got is None:
                await self._readable()
                got = self._secure.readinto(buf)
        except (OSError, ValueError) as error:
            raise _explain(self._host, self._heard, error)
        self._heard = self._heard or bool(got)
        return got

    def _readable(self):
        # The unix port sleeps a millisecond for each look at a TLS object; a socket, it waits for.
        yield core._io_queue.queue_read(self._raw)

    def write(self, buf):
        """Send buf, as one TLS record if it fits; follow with `drain` before the next write.

        A second write before the first is drained may be lost: mbedTLS repeats a record
        that the socket did not take, and counts as sent whatever it was given with it.
        """
        try:
            self._stream.write(buf)
        except (OSError, ValueError) as error:
            raise _explain(self._host, self._heard, error)

    async def drain(self):
        """Wait until all that was written is with the network stack."""
        try:
            await self._stream.drain()
        except (OSError, ValueError) as error:
            raise _explain(self._host, self._heard, error)

    def close(self):
        """As in CPython: `wait_closed` does it."""

    async def wait_closed(self):
        """Close the connection, without a TLS close_notify (MicroPython sends none)."""
        await self._stream.wait_closed()
