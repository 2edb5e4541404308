"""The updater, under MicroPython, against servers that break off: attempts, and resuming."""

import socket
import time
from collections.abc import Callable

import pytest
import slots

from host_tests.firmware.image_server import (
    ATTEMPTS,
    BLOCK,
    PATIENCE_S,
    STALL_S,
    Connection,
    Result,
    Script,
    Server,
    answers,
    check_given_up,
    check_staged,
    head,
    image,
)

pytestmark = pytest.mark.usefixtures("vectors")


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
    stalls = reason.endswith("timed out")
    with Server([script]) as server:
        result = update(server.port, stall_s=STALL_S if stalls else PATIENCE_S)
    check_given_up(result, "failed", reason)
    assert server.connections == ATTEMPTS
    assert not stalls or result.took_s >= ATTEMPTS * STALL_S


def test_board_that_keeps_restarting(update: Callable[..., Result]) -> None:
    """A download that breaks the board in a way it cannot see is not tried for ever."""
    with Server([lambda connection: connection.serve(image())]) as server:
        check_staged(update(server.port, restarts=5))
        result = update(server.port, restarts=6)
    check_given_up(result, "failed", "6 restarts in the middle of it, last: stuck")
    assert server.connections == 1


def test_nobody_listens(update: Callable[..., Result]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    result = update(port)
    check_given_up(result, "failed", "block 0 of 5: ")
    assert len(result.beats) == ATTEMPTS  # one of them while there was a network


def test_an_order_that_has_expired_is_not_tried_again(update: Callable[..., Result]) -> None:
    with Server([hang_up]) as server:
        result = update(server.port, guess=slots.DAY)
    check_given_up(result, "failed", "block 0 of 5: ")
    assert server.connections == 1


def test_no_memory_for_tls(update: Callable[..., Result]) -> None:
    result = update(0, lack="TLS")
    text = "out of memory in TLS: mbedTLS -0x10 MPI_ALLOC_FAILED"
    check_given_up(result, "failed", "block 0 of 5: " + text)
    assert len(result.beats) == ATTEMPTS  # one of them while there was a network


def test_a_break_for_lack_of_memory_is_called_that(update: Callable[..., Result]) -> None:
    with Server([hang_up]) as server:
        result = update(server.port, lack="IDF")
    text = "out of memory (30000 bytes free, 17000 in one piece): "
    check_given_up(result, "failed", "block 0 of 5: " + text)
    assert server.connections == ATTEMPTS


@pytest.mark.parametrize("script", [hang_up, hang_up_in_head, hang_up_in_block, say_nothing,
                                    answers(b"HTTP/1.1 503 Busy\r\n\r\n")])  # fmt: skip
def test_another_attempt_helps(update: Callable[..., Result], script: Script) -> None:
    # Twice so long in vain; what is served then must come within it on a busy machine, too.
    stall_s = 5 if script is say_nothing else PATIENCE_S
    with Server([script, script, lambda connection: connection.serve(image())]) as server:
        check_staged(update(server.port, stall_s=stall_s))
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
