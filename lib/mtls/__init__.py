"""TLS for asyncio: the server's certificate is always checked; there is no way to switch that off.

Mutual with `client_context`; without a certificate of one's own, `mtls.connect.anonymous_context`.
One of them once, then `open_stream` for each connection.  The server's chain, host
name and dates are checked, so the clock must be right first.  Not handled: revocation
lists, session resumption; name resolution blocks the event loop, as MicroPython's does.

A TLS 1.3 server that does not accept the client's certificate says so only after the
handshake: `open_stream` succeeds then, and the first `readinto` raises.
"""

import asyncio


class TLSError(OSError):
    """Peer or certificate trouble, in words.  What is only TCP's stays a plain OSError."""


def explain(host, heard, error):
    from .errors import cause

    return cause(TLSError, host, heard, error)


def client_context(certificate, key, ca):
    """A tls.SSLContext that shows `certificate` and trusts servers that `ca` signed.

    certificate (followed by its intermediates), key, ca: PEM or DER, bytes.
    Raises ValueError if one cannot be read.  That key and certificate belong
    together is not checked here: provisioning does it.
    """
    from . import connect

    return connect.client_context(certificate, key, ca)


async def open_stream(host, port, context, timeout_s=30):
    """Connect and shake hands within timeout_s; returns (reader, writer), one object.

    host: what the server's certificate must be for, DNS name or IP address.
    Raises TLSError, OSError for what happens below TLS, and MemoryError if there is no memory for
    TLS: that is the C heap's, which on an ESP32 is not MicroPython's.
    """
    from . import connect

    stream = await connect.open_stream(host, port, context, timeout_s)
    return stream, stream


class Stream:
    """One TLS connection, as reader and writer in one.

    Only one task may read and one may write at a time.
    out_buf: what `write` could not hand over and `drain` still has to; empty if nothing.
    secure: MicroPython's TLS object.
    early: the byte that came with the end of the handshake, or None.
    """

    out_buf = b""
    early = None
    _heard = False  # the server has sent data, so it has accepted us

    def __init__(self, raw, secure, host):
        self._raw = raw
        self.secure = secure
        self._host = host

    async def readinto(self, buf):
        """Wait for data and read up to len(buf) bytes of it; returns their number, 0 at the end."""
        if self.early:
            buf[:1] = self.early
            self.early = None
            return 1
        await asyncio.sleep_ms(0)  # a peer that is faster than us must not starve other tasks
        try:
            got = self.secure.readinto(buf)
            while got is None:
                # The unix port sleeps a millisecond for each look at a TLS object; for a socket, it
                # waits.
                await _wait(asyncio.core._io_queue.queue_read, self._raw)
                got = self.secure.readinto(buf)
        except (OSError, ValueError) as error:
            raise explain(self._host, self._heard, error)
        self._heard = self._heard or bool(got)
        return got

    def write(self, buf):
        """Send buf, as one TLS record if it fits; follow with `drain` before the next write.

        A second write before the first is drained may be lost: mbedTLS repeats a record
        that the socket did not take, and counts as sent whatever it was given with it.
        """
        done = 0
        if not self.out_buf:
            done = self._write(buf)
        if done < len(buf):
            self.out_buf += buf[done:]

    async def drain(self):
        """Wait until all that was written is with the network stack."""
        await asyncio.sleep_ms(0)
        rest = memoryview(self.out_buf)
        while rest:
            await _wait(asyncio.core._io_queue.queue_write, self.secure)
            rest = rest[self._write(rest) :]
        self.out_buf = b""

    def _write(self, buf):
        try:
            return self.secure.write(buf) or 0  # None: not now
        except (OSError, ValueError) as error:
            raise explain(self._host, self._heard, error)

    def close(self):
        """As in CPython: `wait_closed` does it."""

    async def wait_closed(self):
        """Close the connection, without a TLS close_notify (MicroPython sends none)."""
        self.secure.close()


def _wait(queue, stream):
    yield queue(stream)
