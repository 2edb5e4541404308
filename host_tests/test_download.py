"""The updater and its download, under MicroPython, against servers that misbehave.

Plain TCP, because every byte of the answers is written here; the images and the order are genuine.
What is to be refused has to leave the slots and the boot state byte for byte as they were.
"""

import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import slots

BLOCK = 4096
STALL_S = 0.3
CONFIRMED, EMPTY, TRYING = 3, 0, 2
# No pauses between attempts, and short patience: everything else is as on a board.
WAITS: dict[str, dict[str, float]] = {
    "ondemand/download.py": {"_STALL_S": STALL_S},
    "ondemand/updater.py": {"_BACKOFF_S": 0},
}
ATTEMPTS = 6  # the first one and five more
PATH = "/images/signet-test/1.1.0.img"

pytestmark = pytest.mark.usefixtures("vectors")


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

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self, data: bytes, start: int, end: int, extra: str = "") -> None:
        """The right answer, and behind it what there is in `extra`."""
        self.send(head(start, end, len(data), extra=extra) + data[start : end + 1])

    def serve(self, data: bytes, count: int = 100) -> None:
        """Answer `count` requests, or until the board closes the connection."""
        for _ in range(count):
            self.answer(data, *self.request())


def head(
    start: int, end: int, size: int, status: str = "206 Partial Content", extra: str = ""
) -> bytes:
    lines = (
        f"HTTP/1.1 {status}",
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
    kept: int
    took_s: float = 0


@pytest.fixture(scope="session")
def firmware(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the firmware that waits less: const() cannot be patched."""
    folder = tmp_path_factory.mktemp("patient")
    shutil.copytree(repo / "firmware", folder / "firmware")
    for name, values in WAITS.items():
        path = folder / "firmware" / name
        text = path.read_text()
        for constant, value in values.items():
            text, count = re.subn(rf"(?m)^{constant} = .*$", f"{constant} = {value}", text)
            assert count == 1, constant
        path.write_text(text)
    return folder


@pytest.fixture
def update(repo: Path, firmware: Path, micropython: Path) -> Callable[..., Result]:
    """Run the board's updater against a port, with an order by its name in vectors.py."""

    def run(port: int, order: str = "good", restarts: int = 0) -> Result:
        started = time.monotonic()
        done = subprocess.run(
            [micropython, "-X", "heapsize=128wK", repo / "host_tests/pure/update_client.py",
             repo, firmware, str(port), order, str(restarts)],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        result = Result(**json.loads(done.stdout.splitlines()[-1]))
        result.took_s = time.monotonic() - started
        return result

    return run


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


def test_update(update: Callable[..., Result]) -> None:
    with Server([lambda connection: connection.serve(image())]) as server:
        result = update(server.port)
    check_staged(result)
    # The signature first, then all of it; on one connection.
    assert server.requests == [(4 * BLOCK, 5 * BLOCK - 1), (0, 5 * BLOCK - 1)]
    assert server.connections == 1
    assert len(result.beats) >= 5
    assert result.kept == 1  # the time at which the server's certificate was accepted


REFUSED = {
    "404": (answers(b"HTTP/1.1 404 Not Found\r\n\r\n"), "server answered 404, expected 206"),
    "403": (answers(b"HTTP/1.1 403 Forbidden\r\n\r\n"), "server answered 403, expected 206"),
    "416": (
        answers(b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */20480\r\n\r\n"),
        "server answered 416, expected 206",
    ),
    "100": (answers(b"HTTP/1.1 100 Continue\r\n\r\n"), "server answered 100, expected 206"),
    "200, the whole file": (
        answers(b"HTTP/1.1 200 OK\r\nContent-Length: 20480\r\n\r\n" + bytes(20480)),
        "server answered 200, expected 206",
    ),
    "302": (
        answers(b"HTTP/1.1 302 Found\r\nLocation: https://example.org/1.1.0.img\r\n\r\n"),
        "server answered 302, expected 206",
    ),
    "no range": (
        answers(b"HTTP/1.1 206 Partial Content\r\nContent-Length: 4096\r\n\r\n" + bytes(4096)),
        "server sent range None, expected 'bytes 16384-20479/20480'",
    ),
    "no length": (
        answers(b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 16384-20479/20480\r\n\r\n"),
        "server sent None bytes, expected 4096",
    ),
    "wrong start": (answers_206(start=-1), "server sent range 'bytes 16383-20479/20480', expected"),
    "wrong end": (answers_206(end=-1), "server sent range 'bytes 16384-20478/20480', expected"),
    "wrong total": (answers_206(size=1), "server sent range 'bytes 16384-20479/20481', expected"),
    "length too small": (answers_206(length=-1), "server sent '4095' bytes, expected 4096"),
    "length too large": (answers_206(length=1), "server sent '4097' bytes, expected 4096"),
    "chunked": (answers_206("Transfer-Encoding: chunked\r\n"), "server sent '4096' bytes"),
    "two ranges": (
        answers_206("content-range: bytes 0-4095/20480\r\n"),
        "server sent a bad header: b'content-range: bytes 0-4095/20480'",
    ),
    "two lengths": (answers_206("CONTENT-LENGTH: 4096\r\n"), "bad header: b'CONTENT-LENGTH: 4096'"),
    "no colon": (answers_206("Server\r\n"), "server sent a bad header: b'Server'"),
    "folded line": (answers_206("Server: a\r\n b\r\n"), "server sent a bad header: b' b'"),
    "endless headers": (
        answers_206("".join(f"X-{number}: {'x' * 50}\r\n" for number in range(1000))),
        "server's headers exceed 1024 bytes",
    ),
    "one endless line": (answers(b"HTTP/1.1 206 " + b"x" * 100_000), "headers exceed 1024 bytes"),
    "no HTTP": (answers(b"220 mail.example ESMTP\r\n\r\n"), "no HTTP/1.1 status line: b'220 mail"),
    "HTTP/1.0": (answers(b"HTTP/1.0 206 OK\r\n\r\n"), "no HTTP/1.1 status line: b'HTTP/1.0 206"),
    "no status": (answers(b"HTTP/1.1\r\n\r\n"), "no HTTP/1.1 status line: b'HTTP/1.1'"),
    "status in words": (answers(b"HTTP/1.1 OK\r\n\r\n"), "no HTTP/1.1 status line: b'HTTP/1.1 OK'"),
    "empty head": (answers(b"\r\n\r\n\r\n\r\n"), "no HTTP/1.1 status line: b''"),
    "zeros": (answers(bytes(5000)), "headers exceed 1024 bytes"),
    "header that is no text": (
        answers(b"HTTP/1.1 206 OK\r\nX\xff\xfe: \x80\r\n\r\n"), "server sent a bad header",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_answers(update: Callable[..., Result], name: str) -> None:
    script, reason = REFUSED[name]
    with Server([script]) as server:
        result = update(server.port)
    check_given_up(result, "refused", reason)
    assert server.connections == 1  # asking again is no use
    assert server.requests == [(4 * BLOCK, 5 * BLOCK - 1)]


def test_too_much_in_the_first_answer(update: Callable[..., Result]) -> None:
    """What follows the 4096 bytes is taken for the head of the next answer, and is none."""

    def script(connection: Connection) -> None:
        connection.answer(image(), *connection.request())
        connection.send(b"and more\r\n\r\n")
        connection.serve(image())

    with Server([script]) as server:
        check_given_up(update(server.port), "refused", "no HTTP/1.1 status line: b'and more'")


def test_endless_data(update: Callable[..., Result]) -> None:
    """Behind the last byte that was asked for nothing is read."""

    def script(connection: Connection) -> None:
        connection.serve(image(), 2)
        while True:
            connection.send(bytes(65536))

    with Server([script]) as server:
        check_staged(update(server.port))


IMAGES = {
    # name: (order, image that is served, anything written to the slot, reason)
    "another image": ("good", "twin", False, "signature is over other data"),
    "not signed": ("good", "zeros", False, "no signature: magic byte 0x00, expected 0xe7"),
    "stolen online key": ("good", "1.1.0 by fleet", False, "signed by an unknown key"),
    "another descriptor": ("good", "swapped descriptor", False, "ordered 1.1.0, 2"),
    "another model": ("image-other-model", "other-model", False, "image for model 'signet-other'"),
    "older build": ("stale-build", "stale-build", False, "image was built at"),
    "newer platform": ("newer-platform", "newer-platform", False, "needs MicroPython 1.25.1"),
    "mixed with another": ("good", "mixed", True, "signature is over other data"),
    "flipped bit": ("good", "flipped", True, "signature is over other data"),
}


def make_image(name: str) -> bytes:
    good = image()
    other_head = slots.whole(slots.descriptor(b"1.1.1", counter=2, blocks=3))
    made = {
        "zeros": bytes(5 * BLOCK),
        "swapped descriptor": other_head + good[BLOCK:],
        "mixed": good[: 2 * BLOCK] + image("twin")[2 * BLOCK : 4 * BLOCK] + good[4 * BLOCK :],
        "flipped": good[:9000] + bytes([good[9000] ^ 4]) + good[9001:],
    }
    name, _, key = name.partition(" by ")
    return made.get(name) or image(name, key or "release")


@pytest.mark.parametrize("name", IMAGES)
def test_refused_images(update: Callable[..., Result], name: str) -> None:
    order, served, touched, reason = IMAGES[name]
    data = make_image(served)
    with Server([lambda connection: connection.serve(data)]) as server:
        result = update(server.port, order)
    check_given_up(result, "refused", reason, touched)
    assert server.connections == 1


def hang_up(connection: Connection) -> None:
    connection.request()


def hang_up_in_head(connection: Connection) -> None:
    start, end = connection.request()
    connection.send(head(start, end, len(image()))[:40])


def hang_up_in_block(connection: Connection) -> None:
    start, end = connection.request()
    connection.send(head(start, end, len(image())) + image()[start:end])


def say_nothing(connection: Connection) -> None:
    connection.request()
    connection.sock.recv(1)


def say_nothing_more(connection: Connection) -> None:
    start, end = connection.request()
    connection.send(head(start, end, len(image())) + image()[start:end])
    connection.sock.recv(1)


def trickle(connection: Connection) -> None:
    """A byte now and then: each comes in time, the whole never does."""
    start, end = connection.request()
    for byte in head(start, end, len(image())) + image()[start:]:
        connection.send(bytes([byte]))
        time.sleep(STALL_S / 6)


FAILED = {
    "hangs up": (hang_up, "block 0 of 5: server closed the connection"),
    "hangs up at once": (lambda _: None, "block 0 of 5: "),
    "hangs up in the head": (hang_up_in_head, "block 0 of 5: server closed the connection"),
    "hangs up in a block": (hang_up_in_block, "block 0 of 5: server closed the connection"),
    "says nothing": (say_nothing, "block 0 of 5: timed out"),
    "says nothing more": (say_nothing_more, "block 0 of 5: timed out"),
    "trickles": (trickle, "block 0 of 5: timed out"),
    "500": (answers(b"HTTP/1.1 500 Internal Server Error\r\n\r\n"), "server answered 500"),
    "503": (answers(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"), "server answered 503"),
    "lines end in LF": (answers(b"HTTP/1.1 206 OK\nContent-Length: 4096\n\n"), "timed out"),
}


@pytest.mark.parametrize("name", FAILED)
def test_given_up_after_several_attempts(update: Callable[..., Result], name: str) -> None:
    script, reason = FAILED[name]
    with Server([script]) as server:
        result = update(server.port)
    check_given_up(result, "failed", reason)
    assert server.connections == ATTEMPTS
    if reason.endswith("timed out"):
        assert ATTEMPTS * STALL_S <= result.took_s < ATTEMPTS * STALL_S + 5


def test_board_that_keeps_restarting(update: Callable[..., Result]) -> None:
    """A download that breaks the board in a way it cannot see is not tried for ever."""
    with Server([lambda connection: connection.serve(image())]) as server:
        check_staged(update(server.port, restarts=5))
        result = update(server.port, restarts=6)
    check_given_up(result, "failed", "6 restarts in the middle of it")
    assert server.connections == 1


def test_nobody_listens(update: Callable[..., Result]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    check_given_up(update(port), "failed", "block 0 of 5: ")


@pytest.mark.parametrize("script", [hang_up, hang_up_in_head, hang_up_in_block, say_nothing,
                                    answers(b"HTTP/1.1 503 Busy\r\n\r\n")])  # fmt: skip
def test_another_attempt_helps(update: Callable[..., Result], script: Script) -> None:
    with Server([script, script, lambda connection: connection.serve(image())]) as server:
        check_staged(update(server.port))
    assert server.connections == 3


def stop_after(count: int) -> Script:
    """Hang up after so many bytes of the second answer."""

    def script(connection: Connection) -> None:
        connection.serve(image(), 1)
        start, end = connection.request()
        connection.send(head(start, end, len(image())) + image()[start : start + count])

    return script


@pytest.mark.parametrize(
    "count", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 77, 5 * BLOCK - 1]
)
def test_resumed_after_a_break(update: Callable[..., Result], count: int) -> None:
    with Server([stop_after(count), lambda connection: connection.serve(image())]) as server:
        check_staged(update(server.port))
    resumed_at = count // BLOCK * BLOCK
    assert server.requests[2:] == [(4 * BLOCK, 5 * BLOCK - 1), (resumed_at, 5 * BLOCK - 1)]


def test_progress_renews_patience(update: Callable[..., Result]) -> None:
    """Breaks in a row are counted anew with each block, so one too many of them is no matter."""
    breaks = [
        stop_after(BLOCK),
        hang_up,
        hang_up,
        hang_up,
        stop_after(BLOCK),
        hang_up,
        hang_up,
        hang_up,
    ]
    with Server([*breaks, lambda connection: connection.serve(image())]) as server:
        check_staged(update(server.port))
    assert server.connections == 9 > ATTEMPTS


def test_image_replaced_during_the_download(update: Callable[..., Result]) -> None:
    """On-path change: the file on the server is another one after the break."""
    with Server(
        [stop_after(2 * BLOCK), lambda connection: connection.serve(image("twin"))]
    ) as server:
        result = update(server.port)
    check_given_up(result, "refused", "signature is over other data", touched=True)
    assert server.connections == 2


def test_file_that_became_shorter(update: Callable[..., Result]) -> None:
    def shorter(connection: Connection) -> None:
        connection.request()
        connection.send(b"HTTP/1.1 416 Range Not Satisfiable\r\n\r\n")
        connection.request()

    with Server([stop_after(2 * BLOCK), shorter]) as server:
        check_given_up(update(server.port), "refused", "answered 416", touched=True)


@pytest.mark.parametrize("length", [769, 1000, 1023, 1024])
def test_long_heads(update: Callable[..., Result], length: int) -> None:
    """Up to the limit, and whatever part of the body comes with their end."""

    def script(connection: Connection) -> None:
        while True:
            start, end = connection.request()
            fill = length - len(head(start, end, len(image()), extra="X: \r\n"))
            connection.answer(image(), start, end, extra=f"X: {'x' * fill}\r\n")

    with Server([script]) as server:
        check_staged(update(server.port))


def test_headers_as_servers_write_them(update: Callable[..., Result]) -> None:
    def script(connection: Connection) -> None:
        while True:
            start, end = connection.request()
            connection.send(
                b"HTTP/1.1 206 \r\nDate: Sat, 21 Nov 2026 00:00:00 GMT\r\nX-Empty:\r\nx-empty:\r\n"
                b"content-LENGTH:%d\r\ncontent-range:  bytes %d-%d/20480  \r\n\r\n"
                % (end - start + 1, start, end)
            )
            for at in range(start, end + 1, 1000):  # in pieces that fit nothing
                connection.send(image()[at : min(at + 1000, end + 1)])

    with Server([script]) as server:
        check_staged(update(server.port))
