"""Range requests over one connection, checked as strictly as they are used.

Only what an image server has to answer is understood (RFC 9110 sections 14 and
15.3.7): 206 with the very range that was asked for, of a file of the very length
that was ordered.  No redirects, no other encodings, no body of unknown length.
"""

from micropython import const

from deadline import within
from firmware.ondemand.headers import SHOWN, query, receive
from trust import TrustError

_STALL_S = const(30)  # for a head, and for each block: a server that trickles is given up


class Download:
    """One connection to the image server.  Transport errors come as OSError.

    TrustError: the server answered, but not what was asked for; asking again is no use.
    """

    def __init__(self, stream, host, path, size):
        """stream: (reader, writer).  size: bytes of the whole file, as ordered."""
        self._stream = stream
        self._host = host
        self._path = path
        self._size = size
        self._rest = b""  # of the body, read together with the head

    async def request(self, start, end):
        """Ask for bytes start..end (inclusive); then read exactly these with `readinto`.

        Returns the headers of the answer.
        """
        words = "GET %s HTTP/1.1\r\nHost: %s\r\nRange: bytes=%d-%d\r\n\r\n"
        head = (words % (self._path, self._host, start, end)).encode()
        answer = await within(_STALL_S, query(self._stream, head, self._rest))
        status, headers, self._rest = answer
        if status >= 500:
            raise OSError("server answered %d" % status)
        if status != 206:
            raise TrustError("server answered %d, expected 206" % status)
        found = headers.get(b"content-range", b"")
        wanted = b"bytes %d-%d/%d" % (start, end, self._size)
        if found != wanted:
            raise TrustError("server sent range %r, expected %r" % (found[:SHOWN], wanted))
        found = headers.get(b"content-length", b"")
        if found != b"%d" % (end - start + 1) or b"transfer-encoding" in headers:
            words = "server sent %r bytes, expected %d"
            raise TrustError(words % (found[:SHOWN], end - start + 1))
        return headers

    async def readinto(self, view):
        """Fill a memoryview."""
        await within(_STALL_S, self._fill(view))

    async def _fill(self, view):
        have = min(len(self._rest), len(view))
        view[:have] = self._rest[:have]
        self._rest = self._rest[have:]
        while have < len(view):
            have += await receive(self._stream, view[have:])

    async def close(self):
        self._stream[1].close()
        await self._stream[1].wait_closed()
