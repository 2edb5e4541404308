"""How a connection is made; apart from it, so that whoever is short of memory can drop it."""

import asyncio
import errno
import socket

import tls

from deadline import within

from . import Stream, TLSError, explain


def client_context(certificate, key, ca):
    context = anonymous_context(ca)
    context.load_cert_chain(certificate, key)
    return context


def anonymous_context(ca):
    """A tls.SSLContext for servers that `ca` signed, and that want no certificate of ours.

    Chain, host name and dates are checked as ever.  ca: PEM or DER, bytes.  ValueError if it
    cannot be read.  A board of Signet never uses it.
    """
    context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    context.verify_mode = tls.CERT_REQUIRED
    context.load_verify_locations(ca)
    return context


async def open_stream(host, port, context, timeout_s):
    try:
        return await within(timeout_s, _open(host, port, context))
    except asyncio.TimeoutError:
        raise TLSError("no TLS connection to %s:%d within %d s" % (host, port, timeout_s))


async def _open(host, port, context):
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)[0]
    raw = secure = socket.socket(family, kind, protocol)
    try:
        await connect_socket(raw, address)
        secure = context.wrap_socket(raw, server_hostname=host, do_handshake_on_connect=False)
        stream = Stream(raw, secure, host)
        await _shake_hands(stream, secure)
        return stream
    except BaseException as error:  # cancellation by the timeout, too
        # A failed handshake takes the socket from its TLS object without closing it.
        secure.close()
        raw.close()
        if isinstance(error, (OSError, ValueError)):
            error = explain(host, False, error)
        raise error


def connect_socket(raw, address):
    """Connect, and have small packets sent at once, whether or not the last is acknowledged.

    A generator, to be awaited. asyncio's `open_connection` leaves its socket open when it is
    cancelled.
    """
    raw.setblocking(False)
    try:
        raw.connect(address)
    except OSError as error:
        if error.errno != errno.EINPROGRESS:
            raise
    yield asyncio.core._io_queue.queue_write(raw)
    try:
        raw.setsockopt(6, 1, 1)  # IPPROTO_TCP, TCP_NODELAY: the same in Linux and lwIP
    except OSError:  # lwIP's EINVAL: the connection has failed (Linux says so at the first read)
        raise OSError(errno.ECONNREFUSED)


def _shake_hands(stream, secure):
    # Blocking mode cannot be used: it waits for ever for a silent peer.  Only a read or
    # a write moves a handshake on; a read may come back with the first byte of data.
    byte = bytearray(1)
    got = secure.readinto(byte)
    while got is None and secure.getpeercert(True) is None:
        yield asyncio.core._io_queue.queue_read(secure)
        got = secure.readinto(byte)
    if got:
        stream.early = byte
