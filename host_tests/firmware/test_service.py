"""Consoles that open: by a service token, and in a dev image. Virtual boards, a real broker."""

import json
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from host_tests.board_helpers import BY_LABEL, make_board
from host_tests.firmware.world import BLOCK, DEVICE, WAIT_S, World
from host_tests.fleet_helpers import open_device
from host_tests.tool_helpers import REPO, SETTINGS, Signet, mode, run_program, snapshot
from host_tests.vectors import sign_order
from signet.board.virtual.board import VirtualBoard
from signet.board.virtual.cycle import Cause, Exit, PowerCut
from signet.device import flash_file
from signet.errors import RefusedError
from signet.formats import filesystem, signing
from signet.image import slot_image
from signet.image.stage1 import compile_stage1

pytest_plugins = ["host_tests.tool_fixtures", "host_tests.fleet_fixtures"]

TOPIC = f"signet/{DEVICE}/down/console"
LOCKED = "3ff5a000 0ff00000\n3ff5a018 000003e0\n"  # what a sealed build burns, see test_lock.py
REPL = "MicroPython on a virtual board"
Token = dict[str, Any]


def make_token(world: World, **changes: Any) -> Token:
    world.number += 1
    token = {"v": 1, "kind": "console", "number": world.number,
             "expires": int(time.time()) + 600, "device": DEVICE}  # fmt: skip
    return token | changes


def send(world: World, token: Token | bytes, key: Any = None) -> int:
    """Publish a token; where the reports that follow start."""
    if isinstance(token, dict):
        token = sign_order(key or world.release_key, json.dumps(token).encode())
    mark = len(world.operator.messages)
    world.operator.publish(TOPIC, token)
    return mark


def wait_for_security(world: World, mark: int, text: str) -> dict[str, Any]:
    return world.wait_for(
        lambda _, report: report.get("event") == "security" and text in report["reason"], mark
    )


def start(world: World) -> None:
    """Power on, and wait until the board is connected and has said all of this start."""
    mark = len(world.operator.messages)
    world.board.power_on(record_flash=True)
    world.wait_for_state(mark, status="confirmed")
    assert world.command("identify")["ok"]


def read_rtc_memory(board: VirtualBoard) -> bytes:
    content = (board.folder / "rtc").read_bytes()
    return content[20 : 20 + struct.unpack_from("<H", content, 16)[0]]


REFUSED: dict[str, tuple[str, Callable[[World, Token], Any]]] = {
    "for another device": ("for device 'dev-0002'", lambda w, t: t | {"device": "dev-0002"}),
    "expired": ("expired", lambda w, t: t | {"expires": int(time.time()) - 1}),
    "numbered ahead": ("was issued at", lambda w, t: t | {"number": int(time.time()) + 90_000}),
    "of another kind": ("kind 'shell'", lambda w, t: t | {"kind": "shell"}),
    "without a kind": ("kind is None", lambda w, t: {k: v for k, v in t.items() if k != "kind"}),
    "signed by the fleet key": (
        "unknown key",
        lambda w, t: sign_order(w.fleet_key, json.dumps(t).encode()),
    ),
    "not signed": ("no signature", lambda w, t: json.dumps(t).encode() + bytes(1216)),
    "one byte changed": (
        "digest does not match",
        lambda w, t: sign_order(w.release_key, json.dumps(t).encode()).replace(
            b'"v": 1', b'"v": 2'
        ),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_token_that_may_not_open_the_console_is_refused(world, name):
    reason, change = REFUSED[name]
    before, last, boots = world.facts(), world.order_number(), len(world.board.boots)
    mark = send(world, change(world, make_token(world)))
    report = wait_for_security(world, mark, "console refused: ")
    assert reason in report["reason"]
    assert (world.facts(), world.order_number()) == (before, last)
    assert world.command("identify")["ok"]
    assert len(world.board.boots) == boots


def test_a_device_may_not_send_tokens(world, devices):
    wire = sign_order(world.release_key, json.dumps(make_token(world)).encode())
    for topic in (TOPIC, TOPIC.replace("dev-0001", "dev-0002")):  # of another, and its own
        with (
            open_device(devices / "dev-0002", world.fleet) as session,
            pytest.raises(RefusedError, match="not authorized"),
        ):
            session.publish(topic, wire)
    assert world.command("identify")["ok"]


def test_a_token_opens_the_console_once_and_until_the_next_reset(world):
    token = make_token(world)
    mark = send(world, token)
    report = wait_for_security(world, mark, "console opens")
    assert report["order"] == token["number"]
    assert world.wait_for_state(mark, online=False)["why"] == "console"
    assert world.board.wait_until_stopped(WAIT_S) == Exit.REPL.value
    assert world.board.boots[-1].cause == Cause.HARD
    lines = world.board.lines[-3:]
    assert lines == ["signet: console", REPL, ">>> "]
    assert world.order_number() == token["number"]
    # Shut before it opened.
    assert read_rtc_memory(world.board) == b"0 console was open"
    start(world)
    mark = send(world, token)
    wait_for_security(world, mark, "is not above the last one")
    order = world.order(world.image("1.1.0"), number=token["number"])
    assert "is not above" in world.wait_for_update("refused", world.send(order))["reason"]
    assert world.board.boots[-1].exit is None


@pytest.mark.parametrize(("operation", "torn"), [(1, 0), (2, 10), (3, 0), (4, 4096)])
def test_a_power_cut_before_the_console_opens_leaves_it_shut(world, operation, torn):
    """The number is stored by four flash operations: two records, each erased and programmed.

    What was not stored is a token that nobody has used: sent again by the broker, it may open the
    console then. What was, never.
    """
    start(world)
    done = len(world.board.flash_ops())
    world.board.power_off()
    token = make_token(world)
    mark = len(world.operator.messages)
    world.board.power_on(cut=PowerCut(done + operation, torn), power_returns=True)
    world.wait_for_state(mark, status="confirmed")
    assert world.command("identify")["ok"]
    mark = send(world, token)
    if operation < 3:  # no whole record
        wait_for_security(world, mark, "console opens")
        assert world.board.wait_until_stopped(WAIT_S) == Exit.REPL.value
    else:
        wait_for_security(world, mark, "is not above the last one")
        assert world.command("identify")["ok"]
        assert world.board.boots[-1].exit is None
        assert "signet: console" not in world.board.lines
    assert world.order_number() == token["number"]
    assert Exit.POWER_CUT in [boot.exit for boot in world.board.boots]


def test_a_board_that_is_locked_says_so(world):
    start(world)
    states = [
        message.json() for message in world.operator.messages
        if message.topic == f"signet/{DEVICE}/up/state"
    ]  # fmt: skip
    everything = ["download", "flash_encryption", "jtag", "secure_boot"]
    assert sorted(states[-1]["open"]) == everything
    wait_for_security(world, 0, "not locked: ")
    world.board.power_off()
    (world.board.folder / "efuses").write_text(LOCKED)
    mark = len(world.operator.messages)
    try:
        start(world)
    finally:
        (world.board.folder / "efuses").unlink()
    assert world.wait_for_state(mark, status="confirmed")["open"] == []
    said = [message.json() for message in world.operator.messages[mark:]]
    # The command before the power cut comes again if its acknowledgement was cut off.
    events = [report["event"] for report in said if "event" in report]
    assert set(events) == {"boot", "command"}


def test_the_next_reset_shuts_the_console(tmp_path):
    """The real boot.py, main.py and stage 1, without a slot: what follows boot.py is the REPL."""
    begin = (
        "import machine\nif machine.reset_cause() == 1:\n"
        "    machine.RTC().memory(%r)\n    machine.reset()\n"
    )
    end = "\nprint('the console is open')\nmachine.reset()\n"
    contents = compile_stage1(REPO)
    for memory, opens in ((b"console", 1), (b"console ", 0)):
        contents["boot.py"] = (begin % memory + (REPO / "boot.py").read_text() + end).encode()
        vfs = filesystem.pack(contents, BY_LABEL["vfs"].size // BLOCK)
        with make_board(tmp_path / memory.hex(), vfs=vfs) as board:
            board.power_on()
            start = board.wait_for_line("signet: error: StateError: ", WAIT_S)
            board.wait_for_line("signet: error: StateError: ", WAIT_S, start)  # by itself
            assert board.lines[: start - 1] == ["the console is open"] * opens
            assert board.lines.count("the console is open") == opens


# Profiles.

APPS = {
    "Ctrl-C": "async def run(device):\n    while True:\n        await device.sleep(1)\n",
    "raised": "async def run(device):\n    raise KeyboardInterrupt\n",
    "crash": "async def run(device):\n    raise ValueError('unfit')\n",
}


@pytest.fixture(scope="module")
def make_profiled(keys: Path, tmp_path_factory) -> Callable[..., VirtualBoard]:
    """Makes a board of a profile with an image of a profile; it has no servers."""

    def make(profile: str, app: str) -> VirtualBoard:
        folder = tmp_path_factory.mktemp("board")
        (folder / "app.py").write_text(APPS[app])
        release = slot_image.Release("1.0.0", "signet-demo", 1, (1, 25, 0), 1_700_000_000, profile)
        content = slot_image.sign_image(
            slot_image.build_image(release, REPO, folder / "app.py"), keys / "release.key"
        )
        (folder / "signed.img").write_bytes(content)
        settings = replace(SETTINGS, profile=profile)
        flash_file.provision(settings, keys, folder / "signed.img", REPO, folder / "flash.bin")
        return VirtualBoard(folder)

    return make


def test_ctrl_c_ends_a_dev_image_in_the_repl(make_profiled):
    with make_profiled("dev", "Ctrl-C") as board:
        board.power_on()
        # Not before: an import that is under way may take the interrupt for a file that is absent.
        board.wait_for_line("signet: error: session: ", WAIT_S)
        # Not SIGINT: the unix port raises in whatever C code is running, where it may be lost.
        assert board.type(b"\x03") == 1
        board.wait_for(lambda board: board.boots[-1].exit == Exit.REPL, WAIT_S)
        watchdog_left_ms = struct.unpack_from("<I", (board.folder / "rtc").read_bytes(), 12)[0]
    assert watchdog_left_ms > 6 * 86_400_000  # or it would end the REPL
    assert len(board.boots) == 1


@pytest.mark.parametrize("profile", ["dev", "production", "sealed"])
def test_a_keyboard_interrupt_ends_in_the_repl_of_a_dev_image_only(make_profiled, profile):
    with make_profiled(profile, "raised") as board:
        board.power_on()
        board.wait_for(lambda board: board.boots and board.boots[0].exit, WAIT_S)
        assert board.boots[0].exit == (Exit.REPL if profile == "dev" else Exit.RESET)
        if profile != "dev":
            board.wait_for(lambda board: len(board.boots) > 2, WAIT_S)
            assert REPL not in board.lines
            assert "signet: error: KeyboardInterrupt: " in board.lines


@pytest.mark.parametrize("profile", ["dev", "production"])
def test_only_a_dev_image_shows_where_it_crashed(make_profiled, profile):
    with make_profiled(profile, "crash") as board:
        board.power_on()
        line = "signet: error: TaskError: app: ValueError: unfit"
        board.wait_for_line(line, WAIT_S)
        shown = [line for line in board.lines if "Traceback" in line or "  File " in line]
        assert bool(shown) == (profile == "dev")
        board.wait_for(lambda board: board.boots[0].exit == Exit.RESET, WAIT_S)


# The commands.


def test_the_commands_make_and_send_a_token(world, keys, tmp_path, signet: Signet):
    start(world)
    path = tmp_path / "console.token"
    key = keys / "release.key"
    options = ("--key", key, "--device", DEVICE, "--valid", "600", "-o", path)
    made = signet("device", "token", *options)
    assert (made.returncode, made.stderr) == (0, "")
    assert "console of dev-0001, number " in made.stdout
    assert mode(path) == 0o600
    # Espressif's own verifier, over the form with the fill.
    wire = path.read_bytes()
    text, block = wire[:-1216], wire[-1216:]
    (tmp_path / "padded").write_bytes(signing.pad(text) + signing.pad(block))
    verified = run_program(
        "espsecure", "verify-signature", "--version", "2", "--keyfile", key, tmp_path / "padded"
    )
    assert verified.returncode == 0, verified.stderr
    assert signet("device", "token", *options).returncode == 1  # never over another one
    assert path.read_bytes() == wire

    mark = len(world.operator.messages)
    sending = ("release", "console", "--pki", keys, "--fleet", world.fleet.folder)
    sent = signet(*sending, "--device", DEVICE, "--token", path)
    assert (sent.returncode, sent.stderr) == (0, "")
    wait_for_security(world, mark, "console opens")
    assert world.board.wait_until_stopped(WAIT_S) == Exit.REPL.value
    assert world.order_number() == json.loads(text)["number"]


UNSENT: dict[str, tuple[str, dict[str, Any], str]] = {
    "for another device": ("token for device 'dev-0002'", {"device": "dev-0002"}, "release"),
    "expired": ("token expired at", {"expires": 1_700_000_000}, "release"),
    "an order": ("not a console token", {"kind": "update"}, "release"),
    "signed by the fleet key": ("unknown key", {}, "fleet"),
}


@pytest.mark.parametrize("name", UNSENT)
def test_a_useless_token_is_not_sent(world, keys, tmp_path, signet: Signet, name):
    reason, changes, key = UNSENT[name]
    signer = world.release_key if key == "release" else world.fleet_key
    path = tmp_path / "console.token"
    path.write_bytes(sign_order(signer, json.dumps(make_token(world, **changes)).encode()))
    sending = ("release", "console", "--pki", keys, "--fleet", world.fleet.folder)
    before = snapshot(tmp_path)
    sent = signet(*sending, "--device", DEVICE, "--token", path)
    assert (sent.returncode, sent.stdout) == (1, "")
    assert f"signet: error: {path}: " in sent.stderr
    assert reason in sent.stderr
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("key", ["fleet.pub", "no.key", "operator.key"])
def test_no_token_without_the_private_release_key(keys, tmp_path, signet: Signet, key):
    made = signet("device", "token", "--key", keys / key, "--device", DEVICE, "-o", "console.token")
    assert made.returncode == 2
    assert not (tmp_path / "console.token").exists()
    assert "signet: error: " in made.stderr
