"""HTTP/1.1 range requests over one connection, checked as strictly as they are used.

Only what an image server has to answer is understood (RFC 9110 sections 14 and
15.3.7): 206 with the very range that was asked for, of a file of the very length
that was ordered.  No redirects, no other encodings, no body of unknown length.
"""

import asyncio

from micropython import const

_HEAD_LIMIT = const(1024)  # bytes of status line and headers
_CHUNK_LEN = const(256)  # of a head; small, as what follows it is copied twice
_STALL_S = const(30)  # for a head, and for each block: a server that trickles is given up


class ServerError(Exception):
    """The server answered, but not what was asked for; asking again is no use."""


class Download:
    """One connection to the image server.  Transport errors come as OSError."""

    def __init__(self, stream, host, path, size):
        """stream: (reader, writer).  size: bytes of the whole file, as ordered."""
        self._reader, self._writer = stream
        self._host = host
        self._path = path
        self._size = size
        self._rest = b""  # of the body, read together with the head

    async def request(self, start, end):
        """Ask for bytes start..end (inclusive); then read exactly these with `readinto`."""
        head = "GET %s HTTP/1.1\r\nHost: %s\r\nRange: bytes=%d-%d\r\n\r\n"
        self._writer.write((head % (self._path, self._host, start, end)).encode())
        await asyncio.wait_for(self._writer.drain(), _STALL_S)
        status, headers = _parse_head(await asyncio.wait_for(self._read_head(), _STALL_S))
        if status >= 500:
            raise OSError("server answered %d" % status)
        if status != 206:
            raise ServerError("server answered %d, expected 206" % status)
        found = headers.get("content-range")
        wanted = "bytes %d-%d/%d" % (start, end, self._size)
        if found != wanted:
            raise ServerError("server sent range %r, expected %r" % (found, wanted))
        found = headers.get("content-length")
        if found != str(end - start + 1) or "transfer-encoding" in headers:
            raise ServerError("server sent %r bytes, expected %d" % (found, end - start + 1))

    async def readinto(self, view):
        """Fill a memoryview."""
        await asyncio.wait_for(self._fill(view), _STALL_S)

    async def _fill(self, view):
        have = min(len(self._rest), len(view))
        view[:have] = self._rest[:have]
        self._rest = self._rest[have:]
        while have < len(view):
            have += await self._receive(view[have:])

    async def _receive(self, view):
        got = await self._reader.readinto(view)
        if got == 0:
            raise OSError("server closed the connection")
        return got or 0  # None: TLS had no whole record yet

    async def _read_head(self):
        head, self._rest = self._rest, b""
        view = memoryview(bytearray(_CHUNK_LEN))
        while True:
            end = head.find(b"\r\n\r\n")
            if 0 <= end <= _HEAD_LIMIT - 4:
                self._rest = head[end + 4 :]
                return head[:end]
            if end >= 0 or len(head) >= _HEAD_LIMIT:
                raise ServerError("server's headers exceed %d bytes" % _HEAD_LIMIT)
            got = await self._receive(view)
            head += bytes(view[:got])

    async def close(self):
        self._writer.close()
        await self._writer.wait_closed()


def _parse_head(head):
    lines = head.split(b"\r\n")
    status = lines[0].split(b" ")
    if len(status) < 2 or status[0] != b"HTTP/1.1" or not status[1].isdigit():
        raise ServerError("no HTTP/1.1 status line: %r" % lines[0][:40])
    headers = {}
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        try:
            name, value = name.decode().lower(), value.strip().decode()
        except UnicodeError:
            colon = b""
        if not colon or (name in headers and name.startswith("content-")):
            raise ServerError("server sent a bad header: %r" % line[:40])
        headers[name] = value
    return int(status[1]), headers
