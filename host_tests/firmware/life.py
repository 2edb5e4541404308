"""A board's clock with played time and servers; its boot state and its files are real."""

import asyncio
import json
import sys
from email.utils import formatdate
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import slots
from board_sim import BoardSim
from cryptography.hazmat.primitives.asymmetric import rsa

from host_tests import vectors as signing
from host_tests.played import NOW, Load, Ticks

DAY = slots.DAY
FIRST, LAST = 1735689600, 1769904000  # of slots.certificate(): 280 days before NOW, 114 after
FLEET_KEY = rsa.generate_private_key(65537, 3072)
PATIENCE_S = 20  # reached by what hangs alone
LOST = 946684800  # what an ESP32's clock says when the power comes back


class TLSError(OSError):
    """As mtls has it."""


class Stream:
    """A TLS connection to an image server that answers one request."""

    def __init__(self, life: "Life", certificate: bytes):
        self.life = life
        self.secure = SimpleNamespace(getpeercert=lambda is_binary: certificate)
        self.answer = b""

    def write(self, request: bytes) -> None:
        assert request == b"HEAD / HTTP/1.1\r\nHost: images.example\r\n\r\n"
        self.answer = b"HTTP/1.1 404 Not Found\r\n" + self.life.date() + b"\r\n"

    async def drain(self) -> None:
        if self.life.is_silent:
            await asyncio.sleep(PATIENCE_S)
            pytest.fail("nobody has given it up")

    async def readinto(self, view: memoryview) -> int:
        got = min(len(view), len(self.answer))
        view[:got] = self.answer[:got]
        self.answer = self.answer[got:]
        return got

    def close(self) -> None:
        pass

    async def wait_closed(self) -> None:
        self.life.open -= 1


class Life:
    """A board, its servers and the true time.

    sntp, images: seconds by which the servers' clocks are wrong; None: no server.
    """

    def __init__(self, load: Load, ticks: Ticks, monkeypatch: pytest.MonkeyPatch):
        self.ticks = ticks
        self.true_s = NOW
        self.sntp: int | None = 0
        self.images: int | None = 0
        self.is_silent = False
        self.certificate, self.last_s = slots.certificate(), LAST
        self.raw_date: bytes | None = None
        self.open = self.asked = self.connections = self.writes = 0
        self.board = BoardSim("1.0.0", "1.0.0", b=(3, 0))
        mtls = ModuleType("mtls")
        vars(mtls).update(open_stream=self.open_stream, TLSError=TLSError)
        monkeypatch.setitem(sys.modules, "mtls", mtls)
        monkeypatch.setitem(sys.modules, "network", ModuleType("network"))
        store = load("ondemand.store")
        for name in ("load", "save", "remove", "exists"):
            monkeypatch.setattr(store, name, getattr(self.board.files, name))
        self.clock = load("ondemand.timekeeping")
        monkeypatch.setattr(self.clock, "set_time", self.set_time)
        monkeypatch.setattr(load("ondemand.sntp"), "query", self.ask_sntp)
        self.link = load("ondemand.link")
        monkeypatch.setattr(self.link, "join", self.join)
        monkeypatch.setattr(self.link, "unload", lambda: None)
        self.sync = load("ondemand.sync")
        monkeypatch.setattr(self.sync, "asyncio", asyncio)
        monkeypatch.setattr(self.sync, "mtls", mtls)
        monkeypatch.setattr(self.sync, "_LIMIT_S", 0.05)
        self.incoming = load("ondemand.incoming")
        self.power_on()

    # The servers.

    async def join(self, hostname: str) -> None:
        pass

    async def ask_sntp(self, host: str, port: int) -> int:
        assert (host, port) == ("ntp.example", 123)
        self.asked += 1
        if self.sntp is None:
            raise OSError(110)
        return self.true_s + self.sntp

    async def open_stream(self, host: str, port: int, context: object, timeout_s: float) -> Any:
        assert (host, port, context) == ("images.example", 8443, "context")
        assert not self.open  # never two at once
        self.connections += 1
        if self.images is None:
            raise OSError(111)
        if not FIRST <= self.ticks.unix_s <= self.last_s:
            raise TLSError("certificate is not valid now")  # what the handshake would say
        self.open += 1
        stream = Stream(self, self.certificate)
        return stream, stream

    def date(self) -> bytes:
        if self.raw_date is not None:
            return self.raw_date
        return b"Date: %s\r\n" % formatdate(self.true_s + (self.images or 0), usegmt=True).encode()

    # The board.

    def set_time(self, unix_s: int) -> None:
        self.ticks.unix_s = unix_s

    def power_on(self, is_lost: bool = True) -> None:
        """A start, after the power was lost or after a restart."""
        if is_lost:
            self.ticks.unix_s = LOST
        boot, _ = self.board.boot()
        boot.record["fleet"] = [signing.key_digest(FLEET_KEY)]
        self.events: list[str] = []
        self.agent = SimpleNamespace(
            boot=boot, clock_floor=self.clock.start(boot.clock_floor), timed=None, heard=None,
            outbox=[], context="context", order=boot.state.order, report=self.report,
            device=SimpleNamespace(event=self.event), wake=SimpleNamespace(set=lambda: None),
            restart_reason=None, state={},
        )  # fmt: skip

    def event(self, name: str, reason: str) -> None:
        assert name == "security"
        self.events.append(reason)
        self.agent.outbox.append(("event", {"event": name, "reason": reason}, 1))

    def report(self, result: str, **details: Any) -> None:
        self.events.append(f"{result}: {details.get('reason')}")

    def connect(self) -> None:
        asyncio.run(self.connect_now())

    async def connect_now(self) -> None:
        before = self.kept()
        found = await self.link.broker(self.agent)
        assert found == ("broker.example", 8883)
        assert not self.open  # closed before the broker's is opened
        self.writes += self.kept() != before
        self.agent.outbox.clear()  # the broker has it

    def send(self, number: int, valid_s: int = 3600, kind: str = "down/order") -> str:
        """An order arrives while there is a session; what the board says of it."""
        order = signing.ORDER | {
            "number": number, "expires": number + valid_s,
            "digest": slots.image_digest("1.1.0").hex(),
        }  # fmt: skip
        wire = signing.sign_order(FLEET_KEY, json.dumps(order).encode())
        said = len(self.events)
        asyncio.run(self._take(kind, wire))
        return " ".join(self.events[said:])

    async def _take(self, kind: str, wire: bytes) -> None:
        client = SimpleNamespace(error=None)
        session = SimpleNamespace(agent=self.agent, client=client, fresh=False, publish=None)
        link = SimpleNamespace(stream=object())

        async def reconnect() -> None:
            client.error = "lost"
            link.stream = None
            await self.connect_now()
            session.fresh, client.error = True, None
            await asyncio.sleep(0)
            session.fresh = False

        def fail(error: Exception) -> None:
            self.reconnects.append(asyncio.create_task(reconnect()))

        self.reconnects: list[asyncio.Task[None]] = []
        link.fail = fail
        await self.incoming.handle(
            session, kind, SimpleNamespace(payload=wire, link=link, retain=False)
        )
        for task in self.reconnects:
            await task

    def pass_time(self, seconds: int) -> None:
        self.true_s += seconds
        self.ticks.unix_s += seconds

    @property
    def error_s(self) -> int:
        """By which the board's clock is ahead of the true time."""
        return self.ticks.unix_s - self.true_s

    def kept(self) -> bytes | None:
        content: bytes | None = self.board.files.content.get(self.clock._PATH)
        return content

    def floor(self) -> int:
        """What lasts."""
        return int(self.clock.start(self.board.boot()[0].clock_floor))
