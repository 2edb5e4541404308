"""The servers that a fleet talks to: mosquitto, image server and time server, on one folder.

Every client has to show a certificate from the CA of its role: the image server takes devices
alone, the broker has a port for each role. Revoked certificates are not looked for yet.
"""

import asyncio
import errno
import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from signet import files
from signet.errors import SignetError
from signet.fleet import logs
from signet.fleet.broker import Broker
from signet.fleet.folder import OWN_STATE, STATE_NAME
from signet.fleet.image_server import ImageServer, server_context
from signet.fleet.time_server import TimeServer

LOOPBACK = "127.0.0.1"
_PORTS = 20_000, 32_768

_START_S = 60  # it takes a second; several on a loaded machine
_STOP_S = 60
_TIDY_S = 1


class Fleet:
    """Broker, image server and time server on one folder, in this process's background.

    Ports given as 0 are chosen once, at the first start, and kept: boards have them burned in.
    """

    def __init__(
        self,
        folder: Path,
        pki: Path,
        bind: str = LOOPBACK,
        broker_port: int = 0,
        images_port: int = 0,
        ntp_port: int = 0,
        operators_port: int = 0,
        services_port: int = 0,
        clock_ns: Callable[[], int] = time.time_ns,
    ):
        """folder: made if it is missing. pki: what `pki init` made. clock_ns: what the time server
        tells, Unix time in nanoseconds."""
        self.folder = folder
        self.images_port = images_port
        self.ntp_port = ntp_port
        self.broker = Broker(folder, pki, bind, broker_port, operators_port, services_port)
        self._pki = pki
        self._bind = bind
        self._images = folder / "images"
        self._clock_ns = clock_ns
        self._background: _Background | None = None

    @property
    def addresses(self) -> dict[str, str]:
        """Where clients on this machine reach the servers: "host:port" each.

        broker, images, ntp: for devices; operators, services: the broker's, for these.
        """
        host = "localhost" if self._bind in ("0.0.0.0", "::") else self._bind
        host = f"[{host}]" if ":" in host else host
        ports = {
            "broker": self.broker.port, "images": self.images_port, "ntp": self.ntp_port,
            "operators": self.broker.operators_port, "services": self.broker.services_port,
        }  # fmt: skip
        return {name: f"{host}:{port}" for name, port in ports.items()}

    def start(self) -> None:
        """Start all three; SignetError if one does not start, and then none runs."""
        files.check_kind(self.folder / STATE_NAME, OWN_STATE)
        try:
            self._images.mkdir(parents=True, exist_ok=True)
            context = server_context(self._pki)
        except OSError as error:
            raise SignetError(
                f"cannot serve {self.folder} with the certificates in {self._pki}: {error}",
                "signet pki init makes server.pem and server.key",
            ) from error
        broker = self.broker
        broker.port = broker.port or free_port(self._bind)
        self.images_port = self.images_port or free_port(self._bind)
        self.ntp_port = self.ntp_port or free_port(self._bind)
        broker.operators_port = broker.operators_port or free_port(self._bind)
        broker.services_port = broker.services_port or free_port(self._bind)
        broker.start()
        log = self.folder / "images.log"
        self._background = _Background(
            ImageServer(self._images, log, context),
            TimeServer(self._clock_ns),
            [log, broker.log],
        )
        try:
            self.images_port, self.ntp_port = self._background.start(
                self._bind, self.images_port, self.ntp_port
            )
        except OSError as error:
            self.stop()
            raise SignetError(f"image or time server on {self._bind}: {error}") from error
        state = {"pid": os.getpid(), **self.addresses}
        files.replace_file(self.folder / STATE_NAME, json.dumps(state).encode() + b"\n", OWN_STATE)

    def stop(self) -> None:
        """Stop all three; what they keep is on the disk."""
        (self.folder / STATE_NAME).unlink(missing_ok=True)
        if self._background is not None:
            self._background.stop()
            self._background = None
        self.broker.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Background:
    """Image and time server on an event loop of their own, in a thread; it keeps logs short."""

    def __init__(self, images: ImageServer, ntp: TimeServer, log_files: list[Path]):
        self._log_files = log_files
        self._tidying: asyncio.Task[None]
        self._images = images
        self._ntp = ntp
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fleet", daemon=True)

    def start(self, bind: str, images_port: int, ntp_port: int) -> tuple[int, int]:
        """Listen; returns both ports. Raises OSError; `stop` has to be called after it, too."""

        async def listen() -> tuple[int, int]:
            self._tidying = asyncio.create_task(self._tidy())
            return (
                await self._images.start(bind, images_port),
                await self._ntp.start(bind, ntp_port),
            )

        self._thread.start()
        return asyncio.run_coroutine_threadsafe(listen(), self._loop).result(_START_S)

    async def _tidy(self) -> None:
        while True:
            for path in self._log_files:
                logs.trim(path)
            await asyncio.sleep(_TIDY_S)

    def stop(self) -> None:
        """Close ports and connections, and end the thread."""
        self._loop.call_soon_threadsafe(self._tidying.cancel)
        self._loop.call_soon_threadsafe(self._ntp.stop)
        asyncio.run_coroutine_threadsafe(self._images.stop(), self._loop).result(_STOP_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def free_port(bind: str = LOOPBACK) -> int:
    """A TCP port that is free, and below those that a system gives to connections, from 32768 on.

    One of these could be another's by the time that mosquitto listens, or after a restart.
    """
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    while True:
        port = random.randrange(*_PORTS)
        try:
            socket.create_server((bind, port), family=family).close()
            return port
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
