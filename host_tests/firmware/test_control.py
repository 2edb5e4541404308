"""`device` and `control` under CPython: what an application has, and commands."""

import asyncio
import functools
import gc
import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from host_tests.firmware.posts import Posts
from host_tests.played import Load, Ticks


def test_device(device: SimpleNamespace, posts: Posts, ticks: Ticks) -> None:
    assert (device.id, device.model, device.version) == ("dev-0001", "signet-test", "1.0.0")
    assert device.uptime_s() == 61
    device.telemetry({"a": 1})
    device.telemetry({"a": 2}, qos=1)
    device.event("door", open=True)
    assert posts.messages == [
        ("telemetry", {"a": 1}, 0),
        ("telemetry", {"a": 2}, 1),
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
    control.receive(device, b'{"interval_s": 5}\n')
    assert device.config == {"interval_s": 5}
    assert posts.messages == [("event", {"event": "config", "ok": True}, 1)]
    control.receive(device, b'{"interval_s": 5}\n')  # retained: comes at each connect
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
    control.receive(device, b'{"interval_s":5}')
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    control.receive(device, BAD_OBJECTS[name])
    assert device.config == {"interval_s": 5}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    kind, message, _ = posts.messages[-1]
    assert (kind, message["event"], message["ok"]) == ("event", "config", False)
    assert message["reason"]


def test_configuration_that_is_too_long(load: Load, device: SimpleNamespace, posts: Posts) -> None:
    control = load("ondemand.control")
    longest = b'{"a":"' + b"x" * (1024 - 8) + b'"}'
    control.receive(device, longest)
    assert len(device.config["a"]) == 1016
    control.receive(device, b" " + longest)
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
        b'{"id":1}': (1, "ValueError: command: expected text"),
        b'{"id":1,"command":[]}': (1, "ValueError: command: expected text"),
    }
    for payload, (ident, reason) in cases.items():
        answer = command(load, device, posts, payload)
        assert (answer["id"], answer["ok"]) == (ident, False)
        assert answer["reason"].startswith(reason)
    for payload in BAD_OBJECTS.values():
        answer = command(load, device, posts, payload)
        assert (answer["id"], answer["ok"]) == (None, False)


def test_what_a_command_says_is_cut_before_it_is_repeated(
    load: Load, device: SimpleNamespace, posts: Posts
) -> None:
    """An answer holds what was sent, and `%r` makes four characters of one."""
    device.commands = {"long": lambda device, args: "x" * args["length"], "fail": fail_at_length}
    cases = {
        b'{"id":1,"command":"%b"}' % (b"\x7f" * 2150): 1,
        b'{"id":"%b","command":"long"}' % (b"\x7f" * 2150): None,
        b'{"id":1%b,"command":"long"}' % (b"0" * 2000): None,
        b'{"id":9007199254740992,"command":"long"}': None,
        b'{"id":1.5,"command":"long"}': None,
        b'{"id":%b1%b,"command":"long"}' % (b"[" * 900, b"]" * 900): None,
        b'{"id":1,"command":%b1%b}' % (b"[" * 900, b"]" * 900): 1,
        b'{"id":1,"command":"fail"}': 1,
    }
    for payload, ident in cases.items():
        answer = command(load, device, posts, payload)
        assert (answer["id"], answer["ok"]) == (ident, False)
        assert len(answer["reason"]) <= 400, payload
        assert answer["reason"].count("\\x7f") in (0, 64)
    for length, ok in ((3582, True), (3583, False)):
        payload = b'{"id":"%b","command":"long","args":{"length":%d}}' % (b"i" * 64, length)
        answer = command(load, device, posts, payload)
        assert (answer["id"], answer["ok"]) == ("i" * 64, ok)
        assert len(json.dumps({"event": "command", **answer})) < 4096
    assert answer["reason"] == "ValueError: answer of 3585 bytes, expected up to 3584"


def fail_at_length(device: SimpleNamespace, args: dict[str, Any]) -> None:
    raise ValueError("x" * 9000)


def test_only_configuration_may_be_retained(load: Load, device: SimpleNamespace) -> None:
    """What is retained comes with each connection: a command would be obeyed each time."""
    load("ondemand.control")  # which keeps its files in the test's own folder then
    incoming = load("ondemand.incoming")
    agent = SimpleNamespace(device=device, timed=1, restart_reason=None)
    session = SimpleNamespace(agent=agent)

    def take(kind: str, retain: bool) -> None:
        message = SimpleNamespace(payload=b'{"a":1}', retain=retain)
        asyncio.run(incoming.handle(session, kind, message))

    for kind in ("down/order", "down/console", "down/command"):
        with pytest.raises(ValueError, match="retained"):
            take(kind, True)
    for retain in (True, False):
        take("down/config", retain)
    assert device.config == {"a": 1}
    with pytest.raises(ValueError, match="expected down/order"):
        take("down/other", False)


# What two ports print: an emulated ESP32 with a stock 1.25.0, and the unix port.
PRINTED: dict[str, tuple[str, dict[str, int | None]]] = {
    "esp32": (
        "stack: 3024 out of 15360\r\n"
        "GC: total: 56000, used: 53200, free: 2800, max new split: 63488\r\n"
        " No. of 1-blocks: 631, 2-blocks: 150, max blk sz: 144, max free sz: 34\r\n"
        "qstr pool: n_pool=5, n_qstr=439, n_str_data_bytes=4512, n_total_bytes=9008\r\n",
        {"live": 53200, "free": 2800, "total": 56000, "names": 439, "largest": 544},
    ),
    "unix": (
        "mem: total=4380, current=1183, peak=2889\n"
        "stack: 880 out of 80000\n"
        "GC: total: 2072832, used: 1312, free: 2071520\n"
        " No. of 1-blocks: 12, 2-blocks: 2, max blk sz: 9, max free sz: 64717\n"
        "qstr pool: n_pool=1, n_qstr=3, n_str_data_bytes=32, n_total_bytes=320\n",
        {"live": 1312, "free": 2071520, "total": 2072832, "names": 3, "largest": 16 * 64717},
    ),
    "another": (
        "GC: used 5\n",
        dict.fromkeys(("live", "free", "total", "names", "largest")),
    ),
}
IDF = {"uptime_s": 61, "idf_free": 220, "idf_largest": 150, "idf_least": 110}


class Console:
    """os.dupterm: a stream that gets what is printed, until the one before is put back."""

    def __init__(self) -> None:
        self.stream: Any = "before"

    def dupterm(self, stream: Any) -> Any:
        old, self.stream = self.stream, stream
        return old


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch, load: Load) -> Console:
    """What the port has and CPython has not."""
    console = Console()
    heaps = [(300, 200, 150, 100), (30, 20, 15, 10)]
    esp32 = SimpleNamespace(HEAP_DATA=4, idf_heap_info={4: heaps}.get)
    monkeypatch.setitem(sys.modules, "esp32", esp32)
    monkeypatch.setattr(gc, "mem_alloc", lambda: 40_000, raising=False)
    monkeypatch.setattr(os, "dupterm", console.dupterm, raising=False)
    sized = SimpleNamespace(BytesIO=lambda length: io.BytesIO())
    monkeypatch.setattr(load("ondemand.memory"), "io", sized)
    return console


@pytest.mark.parametrize("port", PRINTED)
def test_every_board_tells_its_memory(
    load: Load, device: SimpleNamespace, posts: Posts, console: Console, port: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    printed, expected = PRINTED[port]
    half = printed.index("qstr") if "qstr" in printed else len(printed)
    for name, text in (("mem_info", printed[:half]), ("qstr_info", printed[half:])):
        show = functools.partial(lambda text: console.stream.write(text.encode()), text)
        monkeypatch.setattr(f"micropython.{name}", show, raising=False)
    answer = command(load, device, posts, b'{"id":1,"command":"memory"}')
    assert answer == {"id": 1, "ok": True, "result": {**expected, **IDF}}
    assert console.stream == "before"
    device.commands = {"memory": lambda device, args: "mine"}
    assert command(load, device, posts, b'{"id":1,"command":"memory"}')["result"] == "mine"


def test_memory_where_the_console_cannot_be_read(
    load: Load, device: SimpleNamespace, posts: Posts, console: Console,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delattr(os, "dupterm")
    answer = command(load, device, posts, b'{"id":1,"command":"memory"}')
    unknown = dict.fromkeys(("free", "total", "names", "largest"))
    assert answer["result"] == {"live": 40_000, **unknown, **IDF}
