"""The fleet's image server (HTTPS).

It gives files below one folder to devices, whole or one range at a time (RFC 9110 section 14), and
writes a line of JSON for every request. A device is who has a certificate from the fleet's device
CA whose common name is a device id: others get no TLS session, or 403. It lists nothing, follows no
link out of its folder and takes no uploads. Each answer tells the time.
"""

import asyncio
import json
import os
import re
import ssl
import time
from pathlib import Path
from typing import Any, BinaryIO

from aiohttp import web

from signet.fleet import logs
from signet.fleet.folder import SEGMENT
from signet.pki import authority, names

_CHUNK_LEN = 64 * 1024
_STALL_S = 60  # a client that takes nothing for this long is dropped
_KEEP_ALIVE_S = 30
_STOP_S = 1  # open transfers are cut after this
_RANGE = re.compile(r"bytes=[ \t]*([0-9]{0,15})-([0-9]{0,15})[ \t]*", re.IGNORECASE)


class RangeError(Exception):
    """No byte of the range asked for exists: 416."""


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """The one range asked for, as (first, end) with `end` exclusive; None to send the whole file.

    size: bytes of the file. What is not one well-formed byte range is ignored, as RFC 9110 section
    14.2 has it; a request for several ranges may be, too. Raises RangeError.
    """
    match = _RANGE.fullmatch(header)
    if match is None or match.group(1, 2) == ("", ""):
        return None
    first, last = (int(digits) if digits else None for digits in match.groups())
    if first is None:
        first, last = max(0, size - (last or 0)), size - 1
    elif last is not None and last < first:
        return None
    if first >= size:
        raise RangeError
    return first, min(size if last is None else last + 1, size)


class ImageServer:
    """HTTPS on one address, for files `folder/<model>/<version>.img` at `/images/…`."""

    def __init__(self, folder: Path, log: Path, context: ssl.SSLContext):
        """context: a server context that requires client certificates; see `server_context`."""
        self._folder = folder
        self._log = log
        self._context = context
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, chosen by the system if 0 was given. Raises OSError."""
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)  # aiohttp adds HEAD
        self._runner = web.AppRunner(
            app, access_log=None, keepalive_timeout=_KEEP_ALIVE_S, shutdown_timeout=_STOP_S
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port, ssl_context=self._context).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the port and, after a second, every connection."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        entry: dict[str, Any] = {
            "time": round(time.time(), 3),
            "identity": _identity(request),
            "method": request.method,
            "path": request.raw_path,
            "range": request.headers.get("Range"),
            "status": 404,
            "sent": 0,  # bytes of the body that were handed to the connection
        }
        try:
            if not names.DEVICE_ID.fullmatch(entry["identity"] or ""):
                entry["status"] = 403
                return web.Response(status=403, text="not a device's certificate\n")
            if request.path == "/":  # by which a board asks for the time: each answer has a Date
                entry["status"] = 204
                return web.Response(status=204)
            file = self._open(request.path)
            if file is None:
                return web.Response(status=404, text="not found\n")
            with file:
                return await _send(request, file, entry)
        finally:  # also when the client goes away in the middle
            # JSON escapes what the client wrote: it cannot forge a second line.
            with logs.open_log(self._log) as log:
                log.write(json.dumps(entry).encode() + b"\n")

    def _open(self, path: str) -> BinaryIO | None:
        """Open the file that a request path names, or return None.

        path: decoded; only two well-formed segments are ever joined to the folder.
        """
        match = re.fullmatch(f"/images/({SEGMENT})/({SEGMENT}[.]img)", path)
        if match is None:
            return None
        file = self._folder.joinpath(*match.groups())
        try:
            if not file.resolve(strict=True).is_relative_to(self._folder.resolve()):
                return None  # a symbolic link that leads elsewhere
            return file.open("rb")
        except OSError:  # missing, a folder, or not readable: all the same to a client
            return None


async def _send(request: web.Request, file: BinaryIO, entry: dict[str, Any]) -> web.StreamResponse:
    """Answer with the part of the file that was asked for; status and bytes sent go to `entry`."""
    response, first, end = _head(request, os.fstat(file.fileno()))
    entry["status"] = response.status
    if request.method != "GET" or first == end:
        return response
    await response.prepare(request)
    file.seek(first)
    while entry["sent"] < end - first:
        chunk = file.read(min(_CHUNK_LEN, end - first - entry["sent"]))
        try:
            if not chunk:
                raise EOFError  # the file became shorter
            await asyncio.wait_for(response.write(chunk), _STALL_S)
        except (EOFError, TimeoutError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()  # the client sees a short body, never a wrong one
            break
        entry["sent"] += len(chunk)
    return response


def _head(request: web.Request, stat: os.stat_result) -> tuple[web.StreamResponse, int, int]:
    """The response without its body, and the bytes of the file that the body is made of."""
    size = stat.st_size
    # Strong: files are replaced by rename, never written to, so other bytes are another inode.
    etag = f'"{stat.st_ino:x}-{stat.st_mtime_ns:x}-{size:x}"'
    first, end, status = 0, size, 200
    headers = {"Accept-Ranges": "bytes", "ETag": etag}
    condition = request.headers.get("If-Range")
    if "Range" in request.headers and condition in (None, etag):
        try:
            wanted = parse_range(request.headers["Range"], size)
        except RangeError:
            headers["Content-Range"] = f"bytes */{size}"
            return web.Response(status=416, headers=headers), 0, 0
        if wanted is not None:
            first, end, status = *wanted, 206
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
    response = web.StreamResponse(status=status, headers=headers)
    response.content_type = "application/octet-stream"
    response.content_length = end - first
    return response, first, end


def _identity(request: web.Request) -> str | None:
    """The common name in the client's certificate, which the handshake has verified.

    None unless there is exactly one.
    """
    subject = (request.get_extra_info("peercert") or {}).get("subject", ())
    found = [value for each in subject for field, value in each if field == "commonName"]
    return str(found[0]) if len(found) == 1 else None


def server_context(pki: Path) -> ssl.SSLContext:
    """TLS 1.2 or later; clients need a certificate for clients from the device CA.

    Raises SignetError without a device CA, and OSError (ssl.SSLError is one) if the other files are
    missing or do not fit together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.anchor(pki, "device"))
    context.load_cert_chain(pki / "server.pem", pki / "server.key")
    return context
