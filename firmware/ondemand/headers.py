"""HTTP/1.1: a request, and the head of its answer; whoever asks bounds the time that it takes."""

from micropython import const

from trust import TrustError

SHOWN = 40  # bytes of what came from outside
_HEAD_LIMIT = const(1024)  # bytes of status line and headers
_CHUNK_LEN = const(256)  # of a head; small, as what follows it is copied twice


async def query(stream, request, rest=b""):
    """Send a request, bytes; (status, headers, what followed them) of the answer.

    stream: (reader, writer).  rest: what was read already.  headers: bytes, names in lower case.
    TrustError if it is no answer, OSError if there is none.
    """
    stream[1].write(request)
    await stream[1].drain()
    head, rest = await _head(stream, rest)
    lines = head.split(b"\r\n")
    status = lines[0].split(b" ")
    if len(status) < 2 or status[0] != b"HTTP/1.1" or not status[1].isdigit():
        raise TrustError("no HTTP/1.1 status line: %r" % lines[0][:SHOWN])
    headers = {}
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        name = name.lower()
        is_twice = name in headers and (name == b"date" or name.startswith(b"content-"))
        if not colon or is_twice or any(not 32 < char < 127 for char in name):
            raise TrustError("server sent a bad header: %r" % line[:SHOWN])
        headers[name] = value.strip()
    return int(status[1]), headers, rest


async def _head(stream, rest):
    view = memoryview(bytearray(_CHUNK_LEN))
    while True:
        end = rest.find(b"\r\n\r\n")
        if 0 <= end <= _HEAD_LIMIT - 4:
            return rest[:end], rest[end + 4 :]
        if end >= 0 or len(rest) >= _HEAD_LIMIT:
            raise TrustError("server's headers exceed %d bytes" % _HEAD_LIMIT)
        rest += bytes(view[: await receive(stream, view)])


async def receive(stream, buf):
    """Read what there is into a memoryview; the number of bytes."""
    got = await stream[0].readinto(buf)
    if got == 0:
        raise OSError("server closed the connection")
    return got or 0  # None: TLS had no whole record yet
