"""An image server of which every byte is written by the test, and what the board makes of it."""

import re
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import slots

BLOCK = 4096
PATIENCE_S = 60  # of a board, in all but what is about it
STALL_S = 0.3
CONFIRMED, EMPTY, TRYING = 3, 0, 2
ATTEMPTS = 6  # the first one and five more
PATH = "/images/signet-test/1.1.0.img"


def image(name: str = "1.1.0", key: str = "release") -> bytes:
    return b"".join(slots.whole(data) for data in slots.image_blocks(name, key))


class Connection:
    """One connection of the board, as the script of a test sees it."""

    def __init__(self, sock: socket.socket, requests: list[tuple[int, int]]):
        self.sock = sock
        self.requests = requests

    def request(self) -> tuple[int, int]:
        """Wait for a request; the first and the last byte that it asks for."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            got = self.sock.recv(1)
            if not got:
                raise ConnectionError
            head += got
        found = re.fullmatch(
            rb"GET (\S+) HTTP/1\.1\r\nHost: 127\.0\.0\.1\r\nRange: bytes=(\d+)-(\d+)\r\n\r\n", head
        )
        assert found, head
        assert found[1].decode() == PATH
        span = int(found[2]), int(found[3])
        self.requests.append(span)
        return span

    def tell_time(self) -> None:
        """Wait for the question for the time, and answer it."""
        assert self.sock.recv(1000) == b"HEAD / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        self.send(f"HTTP/1.1 204 No Content\r\nDate: {date(slots.NOW)}\r\n\r\n".encode())

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self, data: bytes, start: int, end: int, **changes: Any) -> None:
        """The right answer; changes: as of `head`."""
        self.send(head(start, end, len(data), **changes) + data[start : end + 1])

    def serve(self, data: bytes, count: int = 100, **changes: Any) -> None:
        """Answer `count` requests, or until the board closes the connection."""
        for _ in range(count):
            self.answer(data, *self.request(), **changes)


def date(unix_s: int) -> str:
    return formatdate(unix_s, usegmt=True)


def head(
    start: int,
    end: int,
    size: int,
    status: str = "206 Partial Content",
    extra: str = "",
    dates: tuple[str, ...] = (date(slots.NOW),),
) -> bytes:
    lines = (
        f"HTTP/1.1 {status}",
        *(f"Date: {value}" for value in dates),
        f"Content-Range: bytes {start}-{end}/{size}",
        f"Content-Length: {end - start + 1}",
    )
    return ("\r\n".join(lines) + "\r\n" + extra + "\r\n").encode()


Script = Callable[[Connection], None]


@dataclass
class Server:
    """Runs one script for each connection; the last one for all that follow."""

    scripts: list[Script]
    requests: list[tuple[int, int]] = field(default_factory=list)
    connections: int = 0
    failure: BaseException | None = None

    def __enter__(self) -> "Server":
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        return self

    def run(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            script = self.scripts[min(self.connections, len(self.scripts) - 1)]
            self.connections += 1
            with closing(sock):
                sock.settimeout(20)
                try:
                    script(Connection(sock, self.requests))
                except OSError:  # the board has closed the connection
                    pass
                except BaseException as error:
                    self.failure = error

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(30)
        if self.failure:
            raise self.failure


@dataclass
class Result:
    """What the board reported and is, after an update; see update_client.py."""

    reports: list[list[str]]
    restart: str | None
    unchanged: bool
    record: list[Any]
    files: list[str]
    holds_image: bool
    boots: str
    beats: list[float]
    kept: str  # the content of /time
    clock: list[int]  # what it was set to
    events: list[list[str]]
    took_s: float = 0


def check_staged(result: Result) -> None:
    assert result.reports == []
    assert result.restart == "restart into 1.1.0"
    assert result.holds_image
    assert result.files == []
    assert result.boots == "1.1.0"  # on trial, so a try is spent:
    assert result.record == [0, [CONFIRMED, 0], [TRYING, 2], 1, slots.ISSUED]


def check_given_up(result: Result, how: str, reason: str, touched: bool = False) -> None:
    """Reported with its reason; what boots is what booted, and the order is not tried again."""
    ((reported, why),) = result.reports
    assert reported == how, why
    assert reason in why
    assert result.restart is None
    assert result.unchanged is not touched
    slot_b = EMPTY if touched else CONFIRMED
    assert result.record == [0, [CONFIRMED, 0], [slot_b, 0], 1, slots.ISSUED]
    assert result.files == []
    assert result.boots == "1.0.0"


def answers(text: bytes) -> Script:
    """A script that answers the first request with these bytes, and holds the connection."""

    def script(connection: Connection) -> None:
        connection.request()
        connection.send(text)
        connection.request()

    return script


def answers_206(
    extra: str = "", start: int = 0, end: int = 0, size: int = 0, length: int = 0
) -> Script:
    """The same with a right answer that is altered by these."""

    def script(connection: Connection) -> None:
        first, last = connection.request()
        text = head(first + start, last + end, len(image()) + size, extra=extra)
        wrong = str(BLOCK + end - start + length).encode()
        connection.send(re.sub(rb"(?<=Length: )\d+", wrong, text) + image()[first:])
        connection.request()

    return script
