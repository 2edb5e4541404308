"""The fleet's time server (SNTP).

It answers clients (RFC 4330) from this machine's clock: boards need the time before they can check
a certificate.
"""

import asyncio
import struct
from collections.abc import Callable

_NTP_EPOCH = 2_208_988_800  # Unix seconds of 1900-01-01, negated
_NTP_LEN = 48
_NTP_CLIENT, _NTP_SERVER = 3, 4  # RFC 4330 section 4, Mode
_NTP_VERSIONS = range(1, 5)


class TimeServer(asyncio.DatagramProtocol):
    """SNTP in unicast mode; everything that is not a client's request is ignored."""

    def __init__(self, clock_ns: Callable[[], int]):
        """clock_ns: Unix time in nanoseconds."""
        self._clock_ns = clock_ns
        self._transport: asyncio.DatagramTransport | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, chosen by the system if 0 was given. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: self, local_addr=(host, port)
        )
        return int(self._transport.get_extra_info("sockname")[1])

    def stop(self) -> None:
        """Close the port."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def datagram_received(self, data: bytes, addr: tuple[str | int, ...]) -> None:
        """Answer at once; a reply is never longer than its request."""
        now_ns = self._clock_ns()
        reply = answer_sntp(data, now_ns)
        if reply is not None and self._transport is not None:
            self._transport.sendto(reply, addr)


def answer_sntp(request: bytes, now_ns: int) -> bytes | None:
    """The server's reply to an SNTP request (RFC 4330 section 5, table), or None.

    now_ns: Unix time in nanoseconds at which the request came in and the reply goes out.
    """
    if len(request) < _NTP_LEN:
        return None
    version, mode, poll = request[0] >> 3 & 7, request[0] & 7, request[2]
    if mode != _NTP_CLIENT or version not in _NTP_VERSIONS:
        return None
    now = _ntp_timestamp(now_ns)
    return struct.pack(
        "!BBBbII4sQ8sQQ",
        version << 3 | _NTP_SERVER,  # leap indicator 0: no warning
        1,  # stratum: primary, of the kind that the reference identifier says
        poll,  # copied
        -20,  # precision: 2^-20 s, about a microsecond
        0,  # root delay
        1 << 6,  # root dispersion, 16.16 s: about 1 ms
        b"LOCL",  # uncalibrated local clock
        now,  # reference: this clock is read, never set
        request[40:48],  # originate: the client's transmit time stamp, unchanged
        now,  # receive
        now,  # transmit
    )


def _ntp_timestamp(unix_ns: int) -> int:
    """32.32 bits since 1900; wraps in 2036, as RFC 4330 section 3 expects."""
    seconds, ns = divmod(unix_ns, 1_000_000_000)
    return (seconds + _NTP_EPOCH) % (1 << 32) << 32 | (ns << 32) // 1_000_000_000
