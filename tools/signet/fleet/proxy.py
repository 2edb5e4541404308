"""A TCP proxy between boards and servers that counts connections and breaks them on request.

It never looks into what it passes on (that is TLS); faults go by the number of bytes that the
server has sent on a connection. A cut is a reset, so a client may miss the last of these bytes.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Self

LOOPBACK = "127.0.0.1"

_CHUNK_LEN = 1024  # small, so that faults come at a precise place and a stalled peer blocks soon
# A board closes one connection and opens the next at once; the event loop can learn of both in the
# same turn, in either order. Before a connection counts, the loop has time to see another's end.
_SETTLE_TURNS = 20
_WAIT_S = 60  # for the event loop; reached by what hangs alone


class Route:
    """One port of the proxy and the server port behind it; the fields may be set at any time."""

    def __init__(self, target: int, port: int = 0):
        self.target = target
        self.port = port  # where the proxy listens; 0 until it does: any
        self.connections = 0  # accepted so far
        self.refuse = False  # reset new connections at once
        self.cut_after: int | None = None  # reset a connection after these bytes from the server
        self.stall_after: int | None = None  # the same, but keep it open and silent
        self.bytes_sent = 0  # from the server, over all connections

    def accepted(self) -> None:
        """Called at the start of each connection, before anything is passed on."""


class _CutError(Exception):
    """A connection has reached `cut_after`."""


class Proxy:
    """Routes by name, all counted together: `with Proxy({"broker": 8883}) as proxy: …`."""

    def __init__(
        self,
        targets: Mapping[str, int],
        ports: Mapping[str, int] = MappingProxyType({}),
        host: str = LOOPBACK,
    ):
        """targets: ports of servers on `host`. ports: where to listen, if not anywhere."""
        self._host = host
        self.routes = {name: Route(port, ports.get(name, 0)) for name, port in targets.items()}
        self.open = 0  # connections that clients hold open now
        self.max_open = 0  # most of them at a time, over all routes
        self._servers: list[asyncio.Server] = []
        self._connected: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        """Listen; OSError, and nowhere, if a port is taken."""
        self._thread.start()
        try:
            for route in self.routes.values():
                listening = asyncio.run_coroutine_threadsafe(self._listen(route), self._loop)
                route.port = listening.result(_WAIT_S)
        except OSError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(_WAIT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def take_down(self) -> None:
        """Reset every connection, and new ones too until `bring_back`."""
        for route in self.routes.values():
            route.refuse = True
        self.drop()

    def bring_back(self) -> None:
        for route in self.routes.values():
            route.refuse = False

    def drop(self) -> None:
        """Reset every connection that is open now."""
        asyncio.run_coroutine_threadsafe(self._drop(), self._loop).result(_WAIT_S)

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        await asyncio.sleep(0)  # a connection that was accepted in this turn begins in the next
        await self._drop()

    async def _drop(self) -> None:
        for task in self._connected:
            task.cancel()
        await asyncio.gather(*self._connected, return_exceptions=True)

    async def _listen(self, route: Route) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            if task is None:
                raise RuntimeError("not in a task")
            self._connected.add(task)
            try:
                await self._serve(route, reader, writer)
            except (OSError, _CutError, asyncio.CancelledError):
                _reset(writer)
            finally:
                self._connected.discard(task)

        server = await asyncio.start_server(serve, LOOPBACK, route.port)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def _serve(
        self, route: Route, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        route.connections += 1
        route.accepted()
        if route.refuse:
            _reset(writer)
            return
        for _ in range(_SETTLE_TURNS):
            await asyncio.sleep(0)
        self.open += 1
        self.max_open = max(self.max_open, self.open)
        try:
            server_reader, server_writer = await asyncio.open_connection(self._host, route.target)
            directions = [
                asyncio.create_task(_forward(reader, server_writer)),
                asyncio.create_task(_deliver(route, server_reader, writer)),
            ]
            try:
                await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            finally:
                server_writer.close()
                for direction in directions:
                    direction.cancel()
                results = await asyncio.gather(*directions, return_exceptions=True)
        finally:
            self.open -= 1
        for result in results:
            if isinstance(result, _CutError):
                raise result
        writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a TCP reset, as a link that broke shows itself; what was not yet read is lost."""
    linger_for_0_s = struct.pack("ii", 1, 0)
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_for_0_s)
    writer.transport.abort()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what the client says, until it closes."""
    while data := await reader.read(_CHUNK_LEN):
        writer.write(data)
        await writer.drain()


async def _deliver(
    route: Route, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Pass on what the server says, until it closes or the route's fault strikes."""
    passed = 0
    while data := await reader.read(_CHUNK_LEN):
        for limit, is_cut in ((route.cut_after, True), (route.stall_after, False)):
            if limit is None or passed + len(data) < limit:
                continue
            writer.write(data[: max(0, limit - passed)])
            await writer.drain()
            if is_cut:
                raise _CutError
            await asyncio.Event().wait()  # until the client gives up
        writer.write(data)
        await writer.drain()
        passed += len(data)
        route.bytes_sent += len(data)
