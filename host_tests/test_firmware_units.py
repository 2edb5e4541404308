"""The small modules of the firmware, under CPython: time, `machine` and the network are played."""

import asyncio
import importlib
import importlib.util
import os
import socket
import struct
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

NOW = 1760000000
TICKS_PERIOD = 1 << 30
NTP_EPOCH = 2208988800

Load = Callable[[str], Any]  # the fixture `load`
Play = Callable[[Load, object], None]  # the fixture `play`
Task = Callable[[Any], Coroutine[Any, Any, None]]


class Ticks:
    """Time as MicroPython counts it, from just before the counter wraps."""

    def __init__(self) -> None:
        self.passed_ms = 0
        self.unix_s = NOW

    def ticks_ms(self) -> int:
        return (TICKS_PERIOD - 5000 + self.passed_ms) % TICKS_PERIOD

    def ticks_add(self, ticks: int, delta: int) -> int:
        assert abs(delta) < TICKS_PERIOD // 2
        return (ticks + delta) % TICKS_PERIOD

    def ticks_diff(self, a: int, b: int) -> int:
        return (a - b + TICKS_PERIOD // 2) % TICKS_PERIOD - TICKS_PERIOD // 2

    def time(self) -> float:
        return self.unix_s + 0.9

    def gmtime(self, seconds: float) -> tuple[int, ...]:
        return tuple(time.gmtime(seconds))[:8]

    async def sleep_ms(self, ms: int) -> None:
        self.passed_ms += ms
        assert self.passed_ms < 3_600_000, "nothing has ended this within an hour"
        await asyncio.sleep(0)

    async def sleep(self, seconds: float) -> None:
        await self.sleep_ms(int(seconds * 1000))


class Machine(ModuleType):
    """Module `machine`: set_to is what the RTC was set to."""

    WDT_RESET = 3

    def __init__(self) -> None:
        super().__init__("machine")
        self.memory = b""
        self.cause = 1
        self.mem32: dict[int, int] = defaultdict(lambda: 0xFFFFFFFF)  # all eFuses are burned
        self.set_to: list[tuple[Any, ...]] = []

    def RTC(self) -> "Machine.Clock":
        return self.Clock(self)

    def reset_cause(self) -> int:
        return self.cause

    class Clock:
        def __init__(self, chip: "Machine"):
            self.chip = chip

        def datetime(self, value: tuple[int, ...]) -> None:
            self.chip.set_to.append(value)

        def memory(self, data: bytes | None = None) -> bytes:
            if data is not None:
                self.chip.memory = data
            return self.chip.memory


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def load(
    monkeypatch: pytest.MonkeyPatch, machine: Machine, ticks: Ticks, tmp_path: Path
) -> Iterator[Load]:
    """Import a module of the firmware with played time, `machine`, and files in `tmp_path`."""

    def load(name: str) -> ModuleType:
        module = importlib.import_module("firmware." + name)
        if hasattr(module, "time"):
            monkeypatch.setattr(module, "time", ticks)
        if hasattr(module, "asyncio"):
            played = SimpleNamespace(
                create_task=asyncio.create_task, sleep=ticks.sleep, sleep_ms=ticks.sleep_ms
            )
            monkeypatch.setattr(module, "asyncio", played)
        for attribute in ("_PATH", "_CONFIG_PATH"):
            if hasattr(module, attribute):
                path = str(tmp_path) + getattr(module, attribute)
                monkeypatch.setattr(module, attribute, path)
        return module

    before = {name for name in sys.modules if name.startswith("firmware")}
    monkeypatch.setitem(sys.modules, "machine", machine)
    yield load
    for name in list(reversed(sys.modules)):  # what a package holds before the package
        if name.startswith("firmware.") and name not in before:
            parent, _, child = name.rpartition(".")
            delattr(sys.modules[parent], child)
            del sys.modules[name]


# store


def test_store_round_trip(load: Load, tmp_path: Path) -> None:
    store = load("store")
    path = str(tmp_path / "file")
    assert store.load(path, 100) is None
    assert not store.exists(path)
    store.save(path, b"one", bytearray(b"two"), memoryview(b"three"))
    assert store.load(path, 11) == b"onetwothree"
    assert store.exists(path)
    assert os.listdir(tmp_path) == ["file"]
    store.save(path, b"")
    assert store.load(path, 0) == b""
    for content in (b"one", b"0"):
        store.note(path, content)
        assert store.load(path, 3) == content
    store.remove(path)
    store.remove(path)
    assert os.listdir(tmp_path) == []


def test_store_does_not_read_more_than_it_may(load: Load, tmp_path: Path) -> None:
    store = load("store")
    path = str(tmp_path / "file")
    store.save(path, b"x" * 101)
    assert store.load(path, 100) is None
    assert store.load(path, 101) == b"x" * 101
    assert store.load(str(tmp_path), 1 << 20) is None


def test_store_overwrites_what_a_power_cut_left(load: Load, tmp_path: Path) -> None:
    store = load("store")
    path = tmp_path / "file"
    path.write_bytes(b"old")
    (tmp_path / "file.new").write_bytes(b"x" * 1000)
    assert store.load(str(path), 10) == b"old"
    store.save(str(path), b"new")
    assert store.load(str(path), 10) == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_store_that_fails_leaves_the_old_file(load: Load, tmp_path: Path) -> None:
    store = load("store")
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def parts() -> Iterator[bytes]:
        yield b"new"
        raise OSError(28, "no space")

    class Full:
        def __iter__(self) -> Iterator[bytes]:
            return parts()

    with pytest.raises(OSError, match="no space"):
        store.save(str(path), *Full())
    (tmp_path / "file.new").mkdir()
    with pytest.raises(OSError, match="directory"):
        store.save(str(path), b"new")
    assert path.read_bytes() == b"old"


# supervisor


class Watchdog:
    def __init__(self) -> None:
        self.fed = 0

    def feed(self) -> None:
        self.fed += 1


def supervise(load: Load, **tasks: tuple[Task, float]) -> tuple[str, Watchdog, SimpleNamespace]:
    """Run tasks, each (coroutine function of the supervisor, limit in s), until one fails."""
    module = load("supervisor")
    watchdog = Watchdog()
    supervisor = module.Supervisor(watchdog)

    async def main() -> str:
        for name, (function, limit_s) in tasks.items():
            supervisor.start(name, function(supervisor), limit_s)
        with pytest.raises(module.TaskError) as caught:
            await supervisor.run()
        return str(caught.value)

    return asyncio.run(main()), watchdog, supervisor


async def silent(supervisor: SimpleNamespace) -> None:
    await asyncio.Event().wait()


def beats(count: int, every_ms: int, ticks: Ticks, ahead_s: float = 0) -> Task:
    """A task that beats and then falls silent."""

    async def task(supervisor: SimpleNamespace) -> None:
        for number in range(1, count + 1):
            while ticks.passed_ms < number * every_ms:
                await asyncio.sleep(0)
            supervisor.beat("app", ahead_s)
        await silent(supervisor)

    return task


def test_supervisor_feeds_until_a_task_falls_silent(load: Load, ticks: Ticks) -> None:
    reason, watchdog, supervisor = supervise(load, app=(silent, 10))
    assert reason == "app: no progress"
    assert watchdog.fed == 11  # at 0, 1 … 10 s, and not after
    assert ticks.passed_ms == 11_000
    assert supervisor.uptime_ms == 11_000


def test_supervisor_goes_by_the_last_beat(load: Load, ticks: Ticks) -> None:
    reason, watchdog, _ = supervise(load, app=(beats(5, 2000, ticks), 3))
    assert (reason, watchdog.fed) == ("app: no progress", 14)


def test_supervisor_lets_a_task_announce_silence(load: Load, ticks: Ticks) -> None:
    reason, watchdog, _ = supervise(load, app=(beats(1, 1000, ticks, 60), 3))
    assert (reason, watchdog.fed) == ("app: no progress", 65)


def test_supervisor_wants_every_task_healthy(load: Load, ticks: Ticks) -> None:
    reason, watchdog, _ = supervise(load, app=(beats(1000, 500, ticks), 3), other=(silent, 5))
    assert (reason, watchdog.fed) == ("other: no progress", 6)


def test_supervisor_reports_what_a_task_raised(load: Load) -> None:
    async def broken(supervisor: SimpleNamespace) -> None:
        await asyncio.sleep(0)
        raise ValueError("no sensor")

    async def done(supervisor: SimpleNamespace) -> None:
        await asyncio.sleep(0)

    reason, watchdog, _ = supervise(load, other=(silent, 100), app=(broken, 100))
    assert reason == "app: ValueError: no sensor"
    assert watchdog.fed <= 2
    assert supervise(load, app=(done, 100))[0] == "app: ended"


# device and control


class Posts:
    """What is posted and beaten."""

    def __init__(self) -> None:
        self.messages: list[tuple[Any, ...]] = []
        self.beats: list[tuple[Any, ...]] = []
        self.uptime_ms = 61_999

    def post(self, kind: str, message: dict[str, Any], qos: int) -> None:
        self.messages.append((kind, message, qos))

    def beat(self, name: str, ahead_s: float = 0) -> None:
        self.beats.append((name, ahead_s))


@pytest.fixture
def posts() -> Posts:
    return Posts()


@pytest.fixture
def device(load: Load, posts: Posts) -> SimpleNamespace:
    record = {"id": "dev-0001", "model": "signet-test"}
    found: SimpleNamespace = load("device").Device(record, "1.0.0", posts.post, posts)
    return found


def test_device(device: SimpleNamespace, posts: Posts, ticks: Ticks) -> None:
    assert (device.id, device.model, device.version) == ("dev-0001", "signet-test", "1.0.0")
    assert device.uptime_s() == 61
    device.telemetry({"a": 1})
    device.event("door", open=True)
    assert posts.messages == [
        ("telemetry", {"a": 1}, 0),
        ("event", {"event": "door", "open": True}, 1),
    ]
    device.beat()
    asyncio.run(device.sleep(90))
    assert ticks.passed_ms == 90_000
    assert posts.beats == [("app", 0), ("app", 90), ("app", 0)]


def test_configuration_is_kept(load: Load, device: SimpleNamespace, posts: Posts) -> None:
    control = load("ondemand.control")
    control.load_config(device)
    assert device.config == {}
    control.configure(device, b'{"interval_s": 5}\n')
    assert device.config == {"interval_s": 5}
    assert posts.messages == [("event", {"event": "config", "ok": True}, 1)]
    control.configure(device, b'{"interval_s": 5}\n')  # retained: comes at each connect
    assert len(posts.messages) == 1
    device.config = {}
    control.load_config(device)
    assert device.config == {"interval_s": 5}


BAD_OBJECTS = {
    "empty": b"",
    "not JSON": b"interval=5",
    "list": b"[1]",
    "number": b"5",
    "null": b"null",
    "cut": b'{"interval_s": 6',
    "cut in a string": b'{"interval_s": "6',
    "not text": b"\x80\x81",
    "two": b"{}{}",
}


@pytest.mark.parametrize("name", BAD_OBJECTS)
def test_bad_configuration(
    load: Load, device: SimpleNamespace, posts: Posts, tmp_path: Path, name: str
) -> None:
    control = load("ondemand.control")
    control.configure(device, b'{"interval_s":5}')
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    control.configure(device, BAD_OBJECTS[name])
    assert device.config == {"interval_s": 5}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    kind, message, _ = posts.messages[-1]
    assert (kind, message["event"], message["ok"]) == ("event", "config", False)
    assert message["reason"]


def test_configuration_that_is_too_long(load: Load, device: SimpleNamespace, posts: Posts) -> None:
    control = load("ondemand.control")
    longest = b'{"a":"' + b"x" * (1024 - 8) + b'"}'
    control.configure(device, longest)
    assert len(device.config["a"]) == 1016
    control.configure(device, b" " + longest)
    assert posts.messages[-1][1]["reason"] == "1025 bytes, expected up to 1024"
    control.load_config(device)
    assert len(device.config["a"]) == 1016


@pytest.mark.parametrize("name", BAD_OBJECTS)
def test_damaged_configuration_file(
    load: Load, device: SimpleNamespace, tmp_path: Path, name: str
) -> None:
    (tmp_path / "config.json").write_bytes(BAD_OBJECTS[name])
    device.config = {"stale": True}
    load("ondemand.control").load_config(device)
    assert device.config == {}


def command(load: Load, device: SimpleNamespace, posts: Posts, payload: bytes) -> dict[str, Any]:
    """The event that answers a command."""
    asyncio.run(load("ondemand.control").command(device, payload))
    ((kind, message, qos),) = posts.messages
    assert (kind, qos, message.pop("event")) == ("event", 1, "command")
    posts.messages.clear()
    found: dict[str, Any] = message
    return found


def test_commands(load: Load, device: SimpleNamespace, posts: Posts) -> None:
    async def later(device: SimpleNamespace, args: dict[str, Any]) -> list[Any]:
        await asyncio.sleep(0)
        return [device.id, args]

    device.commands = {"now": lambda device, args: args.get("a"), "later": later}
    cases = {
        b'{"id":1,"command":"now","args":{"a":2}}': {"id": 1, "ok": True, "result": 2},
        b'{"id":"x","command":"now"}': {"id": "x", "ok": True, "result": None},
        b'{"command":"later","args":{}}': {"id": None, "ok": True, "result": ["dev-0001", {}]},
    }
    for payload, answer in cases.items():
        assert command(load, device, posts, payload) == answer


def test_bad_commands(load: Load, device: SimpleNamespace, posts: Posts) -> None:
    def fail(device: SimpleNamespace, args: dict[str, Any]) -> None:
        raise RuntimeError("stuck")

    async def fail_later(device: SimpleNamespace, args: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        raise OSError(5, "bus")

    device.commands = {
        "fail": fail,
        "fail later": fail_later,
        "no JSON": lambda device, args: object(),
        "wrong arguments": lambda device: 1,
    }
    cases = {
        b'{"id":1,"command":"fail"}': (1, "RuntimeError: stuck"),
        b'{"id":1,"command":"fail later"}': (1, "OSError: [Errno 5] bus"),
        b'{"id":1,"command":"no JSON"}': (1, "TypeError: "),
        b'{"id":1,"command":"wrong arguments"}': (1, "TypeError: "),
        b'{"id":1,"command":"reboot"}': (1, "ValueError: no command 'reboot'"),
        b'{"id":1}': (1, "ValueError: no command None"),
        b'{"id":1,"command":[]}': (1, "TypeError: "),
    }
    for payload, (ident, reason) in cases.items():
        answer = command(load, device, posts, payload)
        assert (answer["id"], answer["ok"]) == (ident, False)
        assert answer["reason"].startswith(reason)
    for payload in BAD_OBJECTS.values():
        answer = command(load, device, posts, payload)
        assert (answer["id"], answer["ok"]) == (None, False)


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


def set_clock(load: Load, clock: SimpleNamespace) -> None:
    asyncio.run(load("ondemand.sntp").set_clock(clock.floor, "ntp.example", 123))


def test_clock_starts_at_its_floor(load: Load, machine: Machine, ticks: Ticks) -> None:
    clock = load("clock")
    assert clock.now() == NOW
    clock.Clock(NOW)
    clock.Clock(NOW - 1)
    assert machine.set_to == []
    clock.Clock(NOW + 12345)
    assert [rtc_seconds(value) for value in machine.set_to] == [NOW + 12345]


def test_clock_of_a_port_that_counts_from_2000(
    load: Load, machine: Machine, ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = 946684800
    monkeypatch.setattr(ticks, "gmtime", lambda seconds: tuple(time.gmtime(seconds + epoch))[:8])
    monkeypatch.setattr(time, "gmtime", lambda seconds, real=time.gmtime: real(seconds + epoch))
    clock = load("clock")  # looks at what second 0 is
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "machine", machine)
    monkeypatch.setattr(clock, "time", ticks)
    monkeypatch.setattr(ticks, "gmtime", lambda seconds: tuple(time.gmtime(seconds + epoch))[:8])
    assert epoch == clock.EPOCH
    ticks.unix_s = 0
    clock.Clock(NOW)
    assert [rtc_seconds(value) for value in machine.set_to] == [NOW]


def test_clock_takes_the_later_of_floor_and_last_time(
    load: Load, machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "time").write_bytes(b"%d" % (NOW + 500))
    assert load("clock").Clock(NOW + 100).floor == NOW + 500
    assert load("clock").Clock(NOW + 900).floor == NOW + 900
    assert [rtc_seconds(value) for value in machine.set_to] == [NOW + 500, NOW + 900]


@pytest.mark.parametrize(
    "text", [b"", b"x", b"-5", b"1.5", b"\xff", b"1" * 17, b"9" * 16, b"9" * 12]
)
def test_clock_ignores_a_damaged_file(
    load: Load, machine: Machine, tmp_path: Path, text: bytes
) -> None:
    """Nothing on vfs may keep a board from starting, or push its floor out of reach."""
    (tmp_path / "time").write_bytes(text)
    assert load("clock").Clock(NOW + 1).floor == NOW + 1
    assert [rtc_seconds(value) for value in machine.set_to] == [NOW + 1]


def test_time_server_moves_the_clock_only_above_the_floor(
    load: Load, play: Play, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = load("clock").Clock(NOW)
    play(load, NOW - 1)
    set_clock(load, clock)
    assert machine.set_to == []
    assert (
        f"time server ntp.example: {NOW - 1} is before the floor {NOW}" in capsys.readouterr().out
    )
    for unix_s in (NOW, NOW + 77, NOW + 5):
        play(load, unix_s)
        set_clock(load, clock)
        assert rtc_seconds(machine.set_to[-1]) == unix_s


def test_time_server_that_fails(load: Load, play: Play, machine: Machine) -> None:
    clock = load("clock").Clock(NOW)
    for error in (OSError(110), load("ondemand.sntp").TimeError("no answer")):
        play(load, error)
        set_clock(load, clock)
    assert machine.set_to == []


def test_forged_time_is_not_kept(
    load: Load, play: Play, ticks: Ticks, machine: Machine, tmp_path: Path
) -> None:
    """Only a time at which a server's certificate was accepted becomes the floor."""
    clock = load("clock").Clock(NOW)
    play(load, NOW + 3_000_000_000 // 2)
    set_clock(load, clock)
    assert list(tmp_path.iterdir()) == []
    play(load, NOW + 60)
    set_clock(load, clock)
    assert rtc_seconds(machine.set_to[-1]) == NOW + 60


def test_time_is_kept_once_a_day(load: Load, ticks: Ticks, tmp_path: Path) -> None:
    clock = load("clock").Clock(NOW)
    clock.keep()
    assert (tmp_path / "time").read_bytes() == b"%d" % NOW
    ticks.unix_s += 86400
    clock.keep()
    assert (tmp_path / "time").read_bytes() == b"%d" % NOW
    ticks.unix_s += 1
    clock.keep()
    assert (tmp_path / "time").read_bytes() == b"%d" % (NOW + 86401)


# sntp

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


# report


class Agent:
    """What `report` asks of the agent; posted: the events."""

    def __init__(self, refused: list[Any], on_trial: bool = False):
        self.on_trial = on_trial
        self.boot = SimpleNamespace(
            record={"profile": 1},
            refused=refused,
            slots=(Unreadable(), Unreadable()),
            running=1,
            version="1.1.0",
        )
        self.device = self
        self.posted: list[dict[str, Any]] = []

    def event(self, name: str, **details: object) -> None:
        self.posted.append({"event": name} | details)

    def report(self, result: str, **details: object) -> None:
        self.event("update", result=result, **details)


class Unreadable:
    def readblocks(self, *_: object) -> None:
        raise OSError(5)


@pytest.mark.parametrize(
    ("memory", "restarts", "kept", "reason"),
    [
        (b"", 0, b"1 ", ""),
        (b"0 restart into 1.1.0", 0, b"1 ", "restart into 1.1.0"),
        (b"2 TaskError: app: ended", 2, b"3 ", "TaskError: app: ended"),
        (b"99 x", 99, b"99 ", "x"),
        (b"junk", 0, b"1 ", ""),
    ],
)
def test_restarts_are_counted(
    load: Load, machine: Machine, memory: bytes, restarts: int, kept: bytes, reason: str
) -> None:
    machine.memory = memory
    agent = Agent([])
    assert load("ondemand.report").report_boot(agent) == restarts
    assert machine.memory == kept
    assert agent.posted == [{"event": "boot", "cause": 1, "reason": reason}]


def test_what_stage_1_passed_over_is_reported(load: Load, machine: Machine) -> None:
    machine.memory, machine.cause = b"1 half a reason", Machine.WDT_RESET
    agent = Agent([(1, True, "no tries left"), (0, False, "altered")], on_trial=True)
    load("ondemand.report").report_boot(agent)
    why = "no tries left; last: watchdog"
    assert agent.posted == [
        {"event": "boot", "cause": 3, "reason": "watchdog"},
        {"event": "update", "result": "trying", "version": "1.1.0"},
        {"event": "update", "result": "rolled-back", "version": None, "reason": why},
        {"event": "security", "reason": "slot a: altered"},
    ]


def test_outbox_keeps_the_latest_telemetry_and_all_events(load: Load) -> None:
    agent = load("agent").Agent
    queue = SimpleNamespace(outbox=[], wake=SimpleNamespace(set=lambda: None))
    for number in range(9):
        agent.post(queue, "telemetry", number, 0)
        agent.post(queue, "event", number, 1)
    assert [entry[1] for entry in queue.outbox if not entry[2]] == [5, 6, 7, 8]
    assert [entry[1] for entry in queue.outbox if entry[2]] == list(range(9))
    for number in range(9, 40):
        agent.post(queue, "event", number, 1)
    assert [entry[1] for entry in queue.outbox] == list(range(16, 40))


# main.py: what RTC memory says


@pytest.fixture
def stage1(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> Any:
    """main.py with played `machine`, up to where it looks for a slot."""
    for name in ("esp32", "vfs"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules["esp32"], "Partition", None, raising=False)
    monkeypatch.setitem(sys.modules, "machine", machine)
    path = Path(__file__).resolve().parents[1] / "main.py"
    spec = importlib.util.spec_from_file_location("stage1_main", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda _: None))
    return module


@pytest.mark.parametrize("memory", [b"", b"console", b"0 ", b"3 x", b"console ", b"\xff"])
def test_no_failure_can_be_taken_for_the_service_console(
    stage1: Any, machine: Machine, memory: bytes
) -> None:
    class console(Exception):
        pass

    for text in ("", "console", "\0", " " * 300, "x" * 300):
        for kind in (console, ValueError, KeyboardInterrupt):
            machine.memory = memory
            stage1.note_failure(kind(text))
            assert machine.memory != b"console"
            assert b" " in machine.memory


def test_only_the_flag_opens_the_console_and_it_is_cleared_first(
    stage1: Any, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_slot() -> None:
        raise LookupError

    monkeypatch.setattr(stage1, "_mount_slot", no_slot)
    machine.memory = b"console"
    assert stage1.run() is True
    assert machine.memory == b"0 console was open"
    for memory in (machine.memory, b"", b"0 console", b"console ", b" console", b"console\0"):
        machine.memory = memory
        with pytest.raises(LookupError):
            stage1.run()
        assert machine.memory == memory


@pytest.mark.parametrize("profile", [0, 1, 2])
def test_a_board_that_is_not_locked_says_so_at_each_start(
    load: Load, machine: Machine, profile: int
) -> None:
    report, agent = load("ondemand.report"), Agent([])
    agent.boot.record["profile"] = profile
    report.report_boot(agent)
    assert [event["event"] for event in agent.posted] == ["boot"]
    machine.mem32[0x3FF5A018] &= ~(1 << 6)
    for _ in range(2):
        agent.posted.clear()
        report.report_boot(agent)
        security = {"event": "security", "reason": "not locked: jtag"}
        assert agent.posted[1:] == ([security] if profile else [])
