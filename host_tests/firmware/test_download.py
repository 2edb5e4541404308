"""The updater and its download, under MicroPython, against servers that misbehave.

Plain TCP, because every byte of the answers is the test's; the images and the order are genuine.
What is to be refused has to leave the slots and the boot state byte for byte as they were.
"""

from collections.abc import Callable

import pytest
import slots

from host_tests.firmware.image_server import (
    BLOCK,
    Connection,
    Result,
    Server,
    answers,
    answers_206,
    check_given_up,
    check_staged,
    date,
    head,
    image,
)

pytestmark = pytest.mark.usefixtures("vectors")


def test_update(update: Callable[..., Result]) -> None:
    with Server([lambda connection: connection.serve(image())]) as server:
        result = update(server.port)
    check_staged(result)
    # The signature first, then all of it; on one connection.
    assert server.requests == [(4 * BLOCK, 5 * BLOCK - 1), (0, 5 * BLOCK - 1)]
    assert server.connections == 1
    assert len(result.beats) >= 5
    assert result.clock == [slots.NOW]
    assert (result.kept, result.events) == (str(slots.NOW), [])


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
        "server sent range b'', expected b'bytes 16384-20479/20480'",
    ),
    "no length": (
        answers(b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 16384-20479/20480\r\n\r\n"),
        "server sent b'' bytes, expected 4096",
    ),
    "wrong start": (answers_206(start=-1), "server sent range b'bytes 16383-20479/20480', "),
    "wrong end": (answers_206(end=-1), "server sent range b'bytes 16384-20478/20480', expected"),
    "wrong total": (answers_206(size=1), "server sent range b'bytes 16384-20479/20481', expected"),
    "length too small": (answers_206(length=-1), "server sent b'4095' bytes, expected 4096"),
    "length too large": (answers_206(length=1), "server sent b'4097' bytes, expected 4096"),
    "chunked": (answers_206("Transfer-Encoding: chunked\r\n"), "server sent b'4096' bytes"),
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


DATES = {
    # name: (Date headers, reason, whether the time itself is refused)
    "none": ((), "server sent date b''", True),
    "malformed": (("2025-10-09T08:53:20Z",), "server sent date b'2025-", True),
    "after the certificate": (
        (date(slots.NOW + 200 * slots.DAY),), "is not within its certificate's", True,
    ),
    "before the certificate": (
        (date(slots.NOW - 300 * slots.DAY),), "is not within its certificate's", True,
    ),
    "below the floor": (
        (date(slots.ISSUED - slots.DAY - 301),), "is below the floor 1759913540", True,
    ),
    "two": ((date(slots.NOW), date(slots.NOW + 1)), "server sent a bad header: b'Date: ", False),
    "after the order's expiry": ((date(slots.ISSUED + slots.DAY),), "order expired at", False),
}  # fmt: skip


@pytest.mark.parametrize("guess_days", [0, -50])
@pytest.mark.parametrize("name", DATES)
def test_nothing_is_installed_at_a_time_that_is_not_right(
    update: Callable[..., Result], name: str, guess_days: int
) -> None:
    """Whatever the clock says by itself."""
    dates, reason, is_event = DATES[name]
    with Server([lambda connection: connection.serve(image(), dates=dates)]) as server:
        result = update(server.port, guess=guess_days * slots.DAY)
    check_given_up(result, "refused", reason)
    assert (server.connections, len(server.requests)) == (1, 1)
    assert ("time refused: " in str(result.events)) == is_event
    if name != "after the order's expiry":
        assert (result.clock, result.kept) == ([], "")


@pytest.mark.parametrize("guess_days", [-50, 60, 300, 3000])
def test_a_wrong_guess_does_not_keep_an_update_back(
    update: Callable[..., Result], guess_days: int
) -> None:
    """Not even one at which no certificate is valid: then the board asks again, from its floor."""
    scripts = [Connection.tell_time] if guess_days > 200 else []
    with Server([*scripts, lambda connection: connection.serve(image())]) as server:
        result = update(server.port, guess=guess_days * slots.DAY)
    check_staged(result)
    way = "ahead" if guess_days > 0 else "behind"
    jump = f"time of the time server was {abs(guess_days) * slots.DAY} s {way}"
    assert result.events == [["security", jump]]
    assert result.clock[-1:] == [slots.NOW]
    assert result.kept == str(slots.NOW)


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
                b"HTTP/1.1 206 \r\ndate:  Thu, 09 Oct 2025 08:53:20 GMT \r\n"
                b"X-Empty:\r\nx-empty:\r\n"
                b"content-LENGTH:%d\r\ncontent-range:  bytes %d-%d/20480  \r\n\r\n"
                % (end - start + 1, start, end)
            )
            for at in range(start, end + 1, 1000):  # in pieces that fit nothing
                connection.send(image()[at : min(at + 1000, end + 1)])

    with Server([script]) as server:
        check_staged(update(server.port))
