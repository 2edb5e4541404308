"""`timekeeping` and `sntp` under CPython: the time, its floor, and time servers."""

import asyncio
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from host_tests.played import NOW, Load, Machine, Ticks

Play = Callable[[Load, object], None]  # the fixture `play`


# clock


def rtc_seconds(value: tuple[int, ...]) -> int:
    """Unix seconds of what `machine.RTC.datetime` is given."""
    year, month, day, weekday, hour, minute, second, microsecond = value
    found = int(time.mktime((year, month, day, hour, minute, second, 0, 0, 0))) - time.timezone
    assert microsecond == 0
    assert time.gmtime(found).tm_wday == weekday
    return found


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Have the time server answer: Unix seconds, or an exception."""

    def play(load: Load, answer: object) -> None:
        async def query(host: str, port: int) -> object:
            assert (host, port) == ("ntp.example", 123)
            if isinstance(answer, BaseException):
                raise answer
            return answer

        monkeypatch.setattr(load("ondemand.sntp"), "query", query)

    return play


def load_clock(load: Load) -> ModuleType:
    module: ModuleType = load("ondemand.timekeeping")
    return module


def set_clock(load: Load, floor: int) -> bool:
    return bool(asyncio.run(load("ondemand.sntp").set_clock(floor, "ntp.example", 123)))


def test_clock_starts_at_its_floor(load: Load, machine: Machine, ticks: Ticks) -> None:
    clock = load_clock(load)
    assert clock.now() == NOW
    assert clock.start(NOW) == NOW
    assert clock.start(NOW - 1) == NOW - 1
    assert machine.set_to == []
    assert clock.start(NOW + 12345) == NOW + 12345
    assert [rtc_seconds(value) for value in machine.set_to] == [NOW + 12345]


def test_clock_of_a_port_that_counts_from_2000(
    load: Load, machine: Machine, ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = 946684800
    monkeypatch.setattr(ticks, "gmtime", lambda seconds: tuple(time.gmtime(seconds + epoch))[:8])
    monkeypatch.setattr(time, "gmtime", lambda seconds, real=time.gmtime: real(seconds + epoch))
    clock = load_clock(load)  # looks at what second 0 is
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "machine", machine)
    monkeypatch.setattr(clock, "time", ticks)
    monkeypatch.setattr(ticks, "gmtime", lambda seconds: tuple(time.gmtime(seconds + epoch))[:8])
    assert epoch == clock.EPOCH
    ticks.unix_s = 0
    clock.start(NOW)
    assert [rtc_seconds(value) for value in machine.set_to] == [NOW]


def test_clock_takes_the_later_of_floor_and_last_time(
    load: Load, machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "time").write_bytes(b"%d" % (NOW + 500))
    assert load_clock(load).start(NOW + 100) == NOW + 500
    assert load_clock(load).start(NOW + 900) == NOW + 900
    assert [rtc_seconds(value) for value in machine.set_to] == [NOW + 500, NOW + 900]


@pytest.mark.parametrize(
    "text", [b"", b"x", b"-5", b"1.5", b"\xff", b"1" * 17, b"9" * 16, b"9" * 12]
)
def test_clock_ignores_a_damaged_file(
    load: Load, machine: Machine, tmp_path: Path, text: bytes
) -> None:
    """Nothing on vfs may keep a board from starting, or push its floor out of reach."""
    (tmp_path / "time").write_bytes(text)
    assert load_clock(load).start(NOW + 1) == NOW + 1
    assert [rtc_seconds(value) for value in machine.set_to] == [NOW + 1]


def test_time_server_moves_the_clock_only_above_the_floor(
    load: Load, play: Play, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    play(load, NOW - 1)
    assert not set_clock(load, NOW)
    assert machine.set_to == []
    assert (
        f"time server ntp.example: {NOW - 1} is before the floor {NOW}" in capsys.readouterr().out
    )
    for unix_s in (NOW, NOW + 77, NOW + 5):
        play(load, unix_s)
        assert set_clock(load, NOW)
        assert rtc_seconds(machine.set_to[-1]) == unix_s


def test_time_server_that_fails(load: Load, play: Play, machine: Machine) -> None:
    for error in (OSError(110), load("ondemand.sntp").TimeError("no answer")):
        play(load, error)
        assert not set_clock(load, NOW)
    assert machine.set_to == []


def test_time_is_kept_once_a_day(load: Load, tmp_path: Path) -> None:
    clock = load_clock(load)
    for at_s, kept_s in ((0, 0), (86400, 0), (86401, 86401), (-500, 86401), (172802, 172802)):
        clock.keep(NOW + at_s)
        assert (tmp_path / "time").read_bytes() == b"%d" % (NOW + kept_s)


@pytest.mark.parametrize("text", [b"x", b"9" * 16])
def test_a_damaged_file_does_not_keep_the_time_from_being_kept(
    load: Load, tmp_path: Path, text: bytes
) -> None:
    (tmp_path / "time").write_bytes(text)
    load_clock(load).keep(NOW)
    assert (tmp_path / "time").read_bytes() == b"%d" % NOW


# sntp

NTP_EPOCH = 2208988800
NONCE = b"\1\2\3\4\5\6\7\x08"


def reply(
    unix_s: int = NOW, nonce: bytes = NONCE, first: int = 0x24, stratum: int = 2, length: int = 48
) -> bytes:
    """A server's packet, RFC 4330 section 4."""
    packet = struct.pack(">BBbb", first, stratum, 6, -20) + bytes(20) + nonce + bytes(8)
    return (packet + struct.pack(">II", (unix_s + NTP_EPOCH) & 0xFFFFFFFF, 0) + bytes(20))[:length]


def test_sntp_replies(load: Load) -> None:
    parse = load("ondemand.sntp").parse_reply
    assert parse(reply(), NONCE) == NOW
    assert parse(reply(length=68), NONCE) == NOW  # with an authenticator
    assert parse(reply(first=0x1C), NONCE) == NOW  # version 3
    assert parse(reply(2085978495), NONCE) == 2085978495  # the last second of era 0
    assert parse(reply(2085978496), NONCE) == 2085978496  # the first of era 1, in 2036
    assert parse(reply(4102444799), NONCE) == 4102444799


def test_sntp_replies_that_are_not_for_us(load: Load) -> None:
    parse = load("ondemand.sntp").parse_reply
    cases = {
        "short": reply(length=47),
        "nothing": b"",
        "other nonce": reply(nonce=NONCE[::-1]),
        "no nonce": reply(nonce=bytes(8)),
        "a client's": reply(first=0x23),
        "broadcast": reply(first=0x25),
        "not synchronised": reply(first=0xE4),
        "kiss of death": reply(stratum=0),
        "stratum 16": reply(stratum=16),
        "year 2100": reply(4102444800),
    }
    for name, packet in cases.items():
        assert parse(packet, NONCE) is None, name


def serve_time(
    answers: Callable[[bytes], list[bytes]],
) -> tuple[int, threading.Thread, socket.socket]:
    """A time server that answers one question."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(10)

    def run() -> None:
        question, address = sock.recvfrom(100)
        assert len(question) == 48
        assert question[:40] == b"\x23" + bytes(39)
        for answer in answers(question[40:]):
            sock.sendto(answer, address)

    thread = threading.Thread(target=run)
    thread.start()
    return sock.getsockname()[1], thread, sock


@pytest.fixture
def sntp(load: Load, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, with the host's time: it waits for a real socket."""
    module: ModuleType = load("ondemand.sntp")
    real = SimpleNamespace(
        ticks_ms=lambda: int(time.monotonic() * 1000),
        ticks_diff=lambda a, b: a - b,
        gmtime=time.gmtime,
    )
    monkeypatch.setattr(module, "time", real)
    pause = SimpleNamespace(sleep_ms=lambda ms: asyncio.sleep(ms / 1000))
    monkeypatch.setattr(module, "asyncio", pause)
    monkeypatch.setattr(module, "_TIMEOUT_MS", 300)
    return module


def test_sntp_over_udp(sntp: ModuleType) -> None:
    junk = [b"", b"x" * 500, reply(NOW + 9)]
    port, thread, sock = serve_time(
        lambda nonce: [*junk, reply(nonce=nonce), reply(NOW + 5, nonce)]
    )
    with sock:
        assert asyncio.run(sntp.query("127.0.0.1", port)) == NOW
        thread.join(10)


def test_sntp_without_an_answer(sntp: ModuleType) -> None:
    port, thread, sock = serve_time(lambda nonce: [reply(nonce=NONCE), b"junk"])
    with sock, pytest.raises(sntp.TimeError, match="no answer"):
        asyncio.run(sntp.query("127.0.0.1", port))
    thread.join(10)
