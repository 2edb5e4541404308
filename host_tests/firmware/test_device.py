"""What `device` loads at its first use, under CPython: configuration, log, files, time."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from host_tests.firmware.posts import Posts
from host_tests.played import NOW, Load

SCHEMA = {"interval_s": (10, 1, 3600), "mode": ("auto", ("auto", "off"))}
OTHER = {"interval_s": (60, 30, 3600), "name": ("x", 8)}


def said(posts: Posts) -> dict[str, Any]:
    """The event that was posted, and no other."""
    ((kind, message, qos),) = posts.messages
    posts.messages.clear()
    assert (kind, qos) == ("event", 1)
    return message


def test_what_there_is_not_is_no_attribute(device):
    assert not hasattr(device, "telemtry")
    assert getattr(device, "logs", None) is None
    with pytest.raises(AttributeError, match="uptime"):
        device.uptime()


# configuration


def test_configuration_has_a_value_for_each_key(load, device, posts):
    control = load("ondemand.control")
    device.configure(SCHEMA)
    assert device.config == {"interval_s": 10, "mode": "auto"}
    assert posts.messages == []
    control.receive(device, b'{"interval_s":5}')
    assert said(posts) == {"event": "config", "ok": True}
    assert device.config == {"interval_s": 5, "mode": "auto"}


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b'{"interval_s":0}', "interval_s: expected a whole number from 1 to 3600, found 0"),
        (b'{"interval_s":true}', "interval_s: expected a whole number from 1 to 3600, found true"),
        (b'{"mode":"off","x":1}', "unknown: 'x'; expected of: interval_s, mode"),
        (b'{"interval_s":1e999}', "interval_s: expected a whole number from 1 to 3600, found "),
        (b'{"interval_s":[[[[1]]]]}', "interval_s: expected a whole number from 1 to 3600, found "),
        (b"[]", "expected a JSON object"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_last_that_did_stays(
    load: Load, device: Any, posts: Posts, tmp_path: Path, payload: bytes, reason: str
) -> None:
    control = load("ondemand.control")
    device.configure(SCHEMA)
    control.receive(device, b'{"interval_s":5}')
    posts.messages.clear()
    control.receive(device, payload)
    event = said(posts)
    assert (event["event"], event["ok"]) == ("config", False)
    assert event["reason"].startswith(reason)
    assert device.config == {"interval_s": 5, "mode": "auto"}
    assert (tmp_path / "config.json").read_bytes() == b'{"interval_s":5}'
    # After a restart, too.
    control.load_config(device)
    device.configure(SCHEMA)
    assert device.config == {"interval_s": 5, "mode": "auto"}
    assert posts.messages == []


def test_of_what_another_version_has_kept_stays_what_fits(load, device, posts, tmp_path):
    """And all of it is there again when that version comes back."""
    control = load("ondemand.control")
    device.configure(SCHEMA)
    control.receive(device, b'{"interval_s":5,"mode":"off"}')
    posts.messages.clear()
    control.load_config(device)
    device.configure(OTHER)
    assert device.config == {"interval_s": 60, "name": "x"}
    event = said(posts)
    assert event["ok"] is False
    assert event["reason"].startswith("of what was kept: unknown: 'mode'; expected of: ")
    assert "interval_s: expected a whole number from 30 to 3600, found 5" in event["reason"]
    control.load_config(device)
    device.configure(SCHEMA)
    assert device.config == {"interval_s": 5, "mode": "off"}
    assert posts.messages == []


def test_reasons_are_bounded(load, device, posts):
    many = {f"key{number:02d}": "x" * 9 for number in range(40)}
    load("ondemand.control").receive(device, json.dumps(many).encode())
    posts.messages.clear()
    device.configure({f"key{number:02d}": (5, 0, 9) for number in range(40)})
    assert len(said(posts)["reason"]) == 400


def test_a_schema_that_is_none_is_the_applications_mistake(device):
    before = device.config
    for schema in (None, {"a": 5}, {"a": (int, 0, 9)}):
        with pytest.raises(ValueError, match=r"expected|what a value may be"):
            device.configure(schema)
    assert device.config is before


# arguments of commands


def test_arguments_are_checked_before_a_function_runs(load, device, posts):
    def blink(device: Any, args: dict[str, Any]) -> dict[str, Any]:
        calls.append(args)
        return args

    calls: list[dict[str, Any]] = []
    device.commands["blink"] = blink, {"times": (int, 1, 10), "gap_ms": (200, 10, 1000)}
    device.commands["wrong"] = blink, {"times": 5}
    cases = {
        b'{"command":"blink","args":{"times":3}}': {"times": 3, "gap_ms": 200},
        b'{"command":"blink"}': "ValueError: times is missing: expected a whole number from 1 to",
        b'{"command":"blink","args":[1]}': "ValueError: expected an object, found something in",
        b'{"command":"blink","args":{"times":11}}': (
            "ValueError: times: expected a whole number from 1 to 10, found 11"
        ),
        b'{"command":"blink","args":{"times":1,"speed":2}}': "ValueError: unknown: 'speed'; expect",
        b'{"command":"wrong","args":{"times":3}}': "ValueError: 'times': this does not say what a",
    }
    for payload, expected in cases.items():
        asyncio.run(load("ondemand.control").command(device, payload))
        answer = said(posts)
        if answer["ok"]:
            assert answer["result"] == expected
        else:
            assert answer["reason"].startswith(expected)
    assert calls == [{"times": 3, "gap_ms": 200}]


# log


def fetch(load: Load, device: Any, posts: Posts, **args: Any) -> dict[str, Any]:
    """The answer to the command `log`."""
    payload = json.dumps({"id": 1, "command": "log", "args": args}).encode()
    asyncio.run(load("ondemand.control").command(device, payload))
    answer = said(posts)
    if not answer["ok"]:
        return answer
    assert len(json.dumps(answer["result"]).encode()) <= 3584
    found: dict[str, Any] = answer["result"]
    return found


def test_a_log_is_fetched_from_a_number_on(load, device, posts):
    assert fetch(load, device, posts)["reason"] == "ValueError: no command 'log'"
    device.log("info", "valve %d of %s", 3, "pump")
    device.log("error", "no answer")
    both = [[0, 61, "info", "valve 3 of pump"], [1, 61, "error", "no answer"]]
    assert fetch(load, device, posts) == {"lost": 0, "next": 2, "lines": both}
    assert fetch(load, device, posts, **{"from": 1})["lines"] == both[1:]
    assert fetch(load, device, posts, level="warning") == {
        "lost": 0, "next": 2, "lines": both[1:],
    }  # fmt: skip
    assert fetch(load, device, posts, **{"from": 2}) == {"lost": 0, "next": 2, "lines": []}
    assert fetch(load, device, posts, **{"from": 9})["lines"] == []
    assert "expected one of these" in fetch(load, device, posts, level="loud")["reason"]


def test_what_is_below_the_level_is_not_kept(load, device, posts):
    device.log("debug", "a")
    device.log.least = "debug"
    device.log("debug", "b")
    device.log.least = "error"
    device.log("warning", "c")
    assert [entry[3] for entry in fetch(load, device, posts)["lines"]] == ["b"]
    with pytest.raises(ValueError, match="level 'loud', expected one of debug, info, warning"):
        device.log("loud", "x")


def test_a_log_is_bounded_and_goes_up_in_pieces(load, device, posts):
    for number in range(100):
        device.log("info", "é" * number)
    entries: list[Any] = []
    start, lost = 0, 0
    while True:
        answer = fetch(load, device, posts, **{"from": start})
        if not answer["lines"]:
            break
        entries += answer["lines"]
        start, lost = answer["next"], lost + answer["lost"]
    assert entries[-1][0] == 99
    assert [entry[0] for entry in entries] == list(range(lost, 100))
    assert [entry[3] for entry in entries] == ["é" * number for number in range(lost, 100)]
    taken = [64 + len(entry[3].encode()) for entry in entries]
    assert 2048 - (64 + 2 * (lost - 1)) < sum(taken) <= 2048


def test_long_lines_are_cut_and_wrong_ones_shown(load, device, posts):
    device.log("info", "x" * 999)
    device.log("info", "%d of %d", 1)
    device.log("info", "%d", "x")
    texts = [entry[3] for entry in fetch(load, device, posts)["lines"]]
    assert texts == ["x" * 200, "%d of %d (1,)", "%d ('x',)"]


def test_control_characters_do_not_make_an_answer_too_long(load, device, posts):
    for _ in range(40):
        device.log("info", "\x01" * 200)
    entries, start = 0, 0
    while answer := fetch(load, device, posts, **{"from": start}):
        if not answer["lines"]:
            break
        entries, start = entries + len(answer["lines"]), answer["next"]
    assert entries == 2048 // 264


# files


@pytest.fixture
def data(load: Load, tmp_path: Path) -> Path:
    folder = tmp_path / "slot/data"
    (folder / "tables").mkdir(parents=True)
    (folder / "a.csv").write_text("1,2\n")
    (folder / "tables/b.bin").write_bytes(b"\x00\xff")
    (tmp_path / "slot/secret").write_text("not yours")
    load("ondemand.extras.files")
    return folder


def test_files_are_read_by_name(device, data):
    with device.files.open("a.csv") as file:
        assert file.read() == "1,2\n"
    with device.files.open("tables/b.bin", "rb") as file:
        assert file.read() == b"\x00\xff"
    assert device.files.names() == ["a.csv", "tables/b.bin"]
    with pytest.raises(OSError, match="No such file"):
        device.files.open("b.csv")


@pytest.mark.parametrize(
    "name",
    ["", "/", "/a.csv", "../secret", "tables/../../secret", "a.csv/", "./a.csv", "tables//b.bin",
     "..", "tables\\b.bin", "a.csv\0.txt"],
)  # fmt: skip
def test_a_name_leads_nowhere_else(device, data, name):
    with pytest.raises(ValueError, match=r"name .*, expected one such as"):
        device.files.open(name)


@pytest.mark.parametrize("mode", ["w", "a", "r+", "rb+", "x", "", "rw"])
def test_files_are_only_read(device, data, mode):
    with pytest.raises(ValueError, match=r"mode .*, expected 'r' or 'rb'"):
        device.files.open("a.csv", mode)
    assert (data / "a.csv").read_text() == "1,2\n"


def test_an_image_without_data_has_no_files(load, device, tmp_path):
    load("ondemand.extras.files")
    assert device.files.names() == []


# time


@pytest.mark.parametrize(("timed", "trust"), [(None, 0), (0, 1), (NOW - 60, 2)])
def test_the_time_says_how_far_it_may_be_trusted(
    load: Load, device: Any, posts: Posts, timed: int | None, trust: int
) -> None:
    load("ondemand.extras.time")
    posts.timed = timed
    assert device.time() == (NOW, trust)
    posts.timed = NOW
    assert device.time() == (NOW, 2)


def test_a_connection_that_ended_is_none(load: Load, device: Any) -> None:
    load("ondemand.extras.online")
    assert device.online() is False  # there was none yet
    client = SimpleNamespace(error=None)
    device._session = SimpleNamespace(client=client)
    assert device.online() is True
    client.error = OSError()
    assert device.online() is False


def test_what_was_loaded_is_kept(device: SimpleNamespace) -> None:
    assert device.log is device.log
    assert device.files is device.files
    assert device.time is device.time
