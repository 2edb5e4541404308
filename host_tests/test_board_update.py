"""The whole of it: a provisioned virtual board, real broker, real TLS, real image server.

One board for the file, in the order of the tests: what a refused input may not change is
looked up in its flash before and after, and after each one it has to answer a command.
"""

import hashlib
import json
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from host_tests.fleet_helpers import client_context, wait_until
from host_tests.proxy import Proxy
from host_tests.tool_helpers import REPO
from host_tests.vectors import block as sign_block
from host_tests.vectors import sign_order
from signet.board.virtual.board import VirtualBoard
from signet.board.virtual.cycle import Cause, PowerCut
from signet.device import flash_file
from signet.device.settings import Settings
from signet.fleet.serving import Fleet
from signet.fleet.session import EVERYTHING_DEVICES_SAY, OperatorSession
from signet.formats import flash
from signet.image import slot_image
from signet.release import publishing
from trust.state import CONFIRMED, BootState

pytest_plugins = ["host_tests.tool_fixtures", "host_tests.fleet_fixtures"]

DEVICE = "dev-0001"
MODEL = "signet-demo"
WAIT_S = 90  # reached by what hangs alone
BUILT = 1_790_000_000
WATCHDOG_S = 6
BLOCK = 4096
Report = dict[str, Any]


def describe(version: str, counter: int = 1, model: str = MODEL, built: int = BUILT):
    return slot_image.Release(version, model, counter, (1, 25, 0), built)


def load_key(path: Path) -> rsa.RSAPrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


class World:
    """A board, its servers behind a counting proxy, and an operator who listens."""

    def __init__(self, folder: Path, keys: Path, fleet: Fleet, proxy: Proxy, operator):
        self.folder = folder
        self.fleet = fleet
        self.proxy = proxy
        self.operator = operator
        self.release_key = load_key(keys / "release.key")
        self.fleet_key = load_key(keys / "fleet.key")
        self.unsigned = slot_image.build_image(describe("1.0.0"), REPO)
        self.number = int(time.time()) - 40_000
        (folder / "1.0.0.img").write_bytes(self.sign(self.unsigned))
        address = {name: f"localhost:{route.port}" for name, route in proxy.routes.items()}
        settings = Settings(
            DEVICE, MODEL, "A1", address["broker"], address["images"],
            fleet.addresses["ntp"], WATCHDOG_S,
        )  # fmt: skip
        (folder / "board").mkdir()
        flash_file.provision(settings, keys, folder / "1.0.0.img", REPO, folder / "board/flash.bin")
        self.board = VirtualBoard(folder / "board")

    def sign(self, content: bytes, key: Any = None) -> bytes:
        """Content padded to 4096, and the signature sector after it."""

        padded = content + b"\xff" * (-len(content) % BLOCK)
        signed = sign_block(key or self.release_key, hashlib.sha256(padded).digest())
        return padded + signed.ljust(BLOCK, b"\xff")

    def image(self, version: str, app: str | None = None, **fields: Any) -> bytes:
        """A signed image: the firmware of this checkout, or with another application."""
        payload = self.unsigned[BLOCK:]
        if app is not None:
            path = self.folder / "app.py"
            path.write_text(app)
            payload = slot_image.build_image(describe(version), REPO, path)[BLOCK:]
        return self.sign(
            slot_image.pack_descriptor(describe(version, **fields), len(payload)) + payload
        )

    def order(self, content: bytes, **changes: Any) -> dict[str, Any]:
        self.number += 1
        order = {
            "v": 1, "number": self.number, "expires": int(time.time()) + 600, "device": DEVICE,
            "model": MODEL, "version": "1.1.0", "counter": 1, "size": len(content),
            "digest": content[-BLOCK:][4:36].hex(), "path": "/images/signet-demo/next.img",
        }  # fmt: skip
        return order | changes

    def serve(self, content: bytes) -> None:
        path = self.fleet.folder / "images/signet-demo/next.img"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def send(self, order: dict[str, Any] | bytes, key: Any = None) -> int:
        """Publish an order; where the reports that follow start."""
        mark = len(self.operator.messages)
        if isinstance(order, dict):
            order = sign_order(key or self.fleet_key, json.dumps(order).encode())
        publishing.publish(self.operator, DEVICE, order)
        return mark

    def wait_for(self, wanted: Callable[[str, Report], Any], mark: int) -> Report:
        def is_wanted(message: Any) -> Any:
            return wanted(message.topic.rpartition("/")[2], message.json())

        report: Report = self.operator.wait_for(is_wanted, WAIT_S, mark).json()
        return report

    def wait_for_update(self, result: str, mark: int) -> Report:
        return self.wait_for(
            lambda kind, report: kind == "event" and report.get("result") == result, mark
        )

    def wait_for_state(self, mark: int, **fields: Any) -> Report:
        return self.wait_for(
            lambda kind, report: kind == "state" and fields.items() <= report.items(), mark
        )

    def command(self, name: str, **args: Any) -> Report:
        mark = len(self.operator.messages)
        message = json.dumps({"id": mark, "command": name, "args": args}).encode()
        self.operator.publish(f"signet/{DEVICE}/down/command", message)
        return self.wait_for(lambda _, report: report.get("id") == mark, mark)

    def facts(self) -> tuple[Any, ...]:
        """What boots and what may: active slot and its content, its status, the floor."""
        chip = self.chip()
        state = BootState(chip.device("bootstate"))
        slot = "ab"[state.active]
        return slot, chip.read(f"slot_{slot}"), state.status[state.active], state.floor

    def order_number(self) -> int:
        return int(BootState(self.chip().device("bootstate")).order)

    def chip(self) -> flash.Flash:
        return flash.Flash.load(self.board.folder / "flash.bin")


@pytest.fixture(scope="module")
def world(keys: Path, fleet: Fleet, tmp_path_factory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    targets = {"broker": fleet.broker.port, "images": fleet.images_port}
    with (
        Proxy(targets) as proxy,
        OperatorSession(keys, fleet.addresses["broker"], EVERYTHING_DEVICES_SAY) as operator,
    ):
        world = World(folder, keys, fleet, proxy, operator)
        with world.board as board:
            board.power_on(record_flash=True)
            world.wait_for_state(0, version="1.0.0", status="confirmed")
            yield world


def test_a_provisioned_board_connects_and_answers(world):
    assert world.command("identify")["result"] == {"device": DEVICE, "version": "1.0.0"}
    assert world.facts()[0] == "a"
    telemetry = world.wait_for(lambda kind, _: kind == "telemetry", 0)
    assert telemetry["heap_live_bytes"] > 0


def test_configuration_reaches_the_application_and_survives(world):
    mark = len(world.operator.messages)
    world.operator.publish(f"signet/{DEVICE}/down/config", b'{"interval_s": 1}')
    assert world.wait_for(lambda _, report: report.get("event") == "config", mark)["ok"]
    for text in (b'{"interval_s": 1', b"[1]", b"{}" + b" " * 1100):
        mark = len(world.operator.messages)
        world.operator.publish(f"signet/{DEVICE}/down/config", text)
        assert not world.wait_for(lambda _, report: report.get("event") == "config", mark)["ok"]
    answer = world.command("no such command")
    assert (answer["ok"], "no such command" in answer["reason"]) == (False, True)


ORDERS: dict[str, tuple[str, Callable[[World, dict[str, Any]], Any]]] = {
    "not signed": ("no signature", lambda w, order: json.dumps(order).encode() + bytes(1216)),
    "signed by the release key": (
        "unknown key",
        lambda w, order: sign_order(w.release_key, json.dumps(order).encode()),
    ),
    "one byte changed": (
        "digest does not match",
        lambda w, order: sign_order(w.fleet_key, json.dumps(order).encode()).replace(
            b'"v": 1', b'"v": 2'
        ),
    ),
    "expired": ("order expired", lambda w, order: order | {"expires": int(time.time()) - 1}),
    "for another device": (
        "for device 'dev-0002'",
        lambda w, order: order | {"device": "dev-0002"},
    ),
    "for another model": ("for model 'other'", lambda w, order: order | {"model": "other"}),
    "numbered ahead": (
        "was issued at",
        lambda w, order: order | {"number": int(time.time()) + 90_000},
    ),
    "valid for too long": (
        "more than 30 days",
        lambda w, order: order | {"expires": order["number"] + 31 * 86400},
    ),
    "below the floor": ("below the floor", lambda w, order: order | {"counter": 0}),
    "larger than a slot": (
        "expected a multiple of 4096 up to 393216",
        lambda w, order: order | {"size": 97 * 4096},
    ),
    "without a size": ("size", lambda w, order: {k: v for k, v in order.items() if k != "size"}),
    "with a foreign address": (
        "path",
        lambda w, order: order | {"path": "https://elsewhere/images/next.img"},
    ),
}


@pytest.mark.parametrize("name", ORDERS)
def test_an_order_that_may_not_be_carried_out_is_refused(world, name):
    reason, change = ORDERS[name]
    world.serve(world.image("1.1.0"))
    before, requests = world.facts(), world.proxy.routes["images"].connections
    last = world.order_number()
    mark = world.send(change(world, world.order(world.image("1.1.0"))))
    report = world.wait_for_update("refused", mark)
    assert reason in report["reason"]
    assert world.facts() == before
    assert world.order_number() == last
    assert world.proxy.routes["images"].connections == requests
    assert world.command("identify")["ok"]


def change_descriptor(offset: int, data: bytes) -> Callable[[World], bytes]:
    """An image, signed by the release key, with other bytes in its descriptor."""

    def change(world: World) -> bytes:
        content = bytearray(world.image("1.1.0")[:-BLOCK])
        content[offset : offset + len(data)] = data
        return world.sign(bytes(content))

    return change


def change_signature(offset: int, data: bytes) -> Callable[[World], bytes]:
    """The ordered image with other bytes in its signature block, and the CRC put right."""

    def change(world: World) -> bytes:

        content = bytearray(world.image("1.1.0"))
        sector = memoryview(content)[-BLOCK:]
        sector[offset : offset + len(data)] = data
        if offset < 1196:
            sector[1196:1200] = struct.pack("<I", zlib.crc32(sector[:1196]))
        return bytes(content)

    return change


def tamper(world: World) -> bytes:
    content = bytearray(world.image("1.1.0"))
    content[len(content) // 2] ^= 1
    return bytes(content)


# name: (reason reported, the image on the server; it is what was ordered unless it is listed below)
IMAGES: dict[str, tuple[str, Callable[[World], bytes]]] = {
    "one bit flipped": ("digest does not match", tamper),
    "wrong magic": ("not a slot image", change_descriptor(0, b"SGNTSLOP")),
    "for dev boards": (
        "dev image, this is a production board",
        change_descriptor(10, b"\0\0"),
    ),
    "wrong format": ("image format 2", change_descriptor(8, b"\2\0")),
    "payload runs past the slot": (
        "slot holds 393216",
        change_descriptor(12, struct.pack("<I", 96 * 4096)),
    ),
    "payload of another length": ("ordered", change_descriptor(12, struct.pack("<I", 4096))),
    "for another model": ("image for model", lambda w: w.image("1.1.0", model="signet-other")),
    "another version": ("image is version 1.1.1", lambda w: w.image("1.1.1")),
    "below the floor": ("below the floor 1", lambda w: w.image("1.1.0", counter=0)),
    "older than the running one": (
        "before the running one",
        lambda w: w.image("1.1.0", built=BUILT - 1),
    ),
    "needs a newer platform": ("needs MicroPython 9.0.0", change_descriptor(20, b"\0\0\x09\0")),
    "signed by the fleet key": (
        "unknown key",
        lambda w: w.sign(w.image("1.1.0")[:-BLOCK], w.fleet_key),
    ),
    "signature: wrong CRC": ("wrong CRC", change_signature(1196, b"\0\0\0\0")),
    "signature: e is 3": ("exponent 3", change_signature(420, b"\3\0\0\0")),
    "signature: short modulus": ("not 3072 bits", change_signature(419, b"\0")),
    "signature: altered": ("unknown key", change_signature(500, b"\0\0\0\0")),
    "signature: none": ("no signature", change_signature(0, b"\xff")),
    "signature: more behind it": ("data after the signature block", change_signature(2000, b"\0")),
    "truncated": ("server answered 416", lambda w: w.image("1.1.0")[:-BLOCK]),
    "trailing data": ("server sent range", lambda w: w.image("1.1.0") + b"\xff" * BLOCK),
    "missing": ("server answered 404", lambda w: b""),
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_that_may_not_be_installed_is_refused(world, name):
    reason, make = IMAGES[name]
    content = make(world)
    ordered = content
    if name in ("truncated", "trailing data", "missing"):
        ordered = world.image("1.1.0")
    before = world.facts()
    if content:
        world.serve(content)
    else:
        (world.fleet.folder / "images/signet-demo/next.img").unlink()
    mark = world.send(world.order(ordered))
    report = world.wait_for_update("refused", mark)
    assert reason in report["reason"]
    assert world.facts() == before
    world.wait_for_state(mark, version="1.0.0", status="confirmed")
    assert world.command("identify")["ok"]


def test_a_server_that_cannot_be_reached_fails_the_update_and_nothing_else(world):
    content = world.image("1.1.0")
    world.serve(content)
    before = world.facts()
    route = world.proxy.routes["images"]
    route.refuse = True
    try:
        mark = world.send(world.order(content, expires=int(time.time()) + 4))
        report = world.wait_for_update("failed", mark)
    finally:
        route.refuse = False
    assert "block 0 of" in report["reason"]
    assert world.facts() == before
    assert world.command("identify")["ok"]


def test_an_update_with_a_break_is_resumed_confirmed_and_uses_one_connection_at_a_time(world):
    content = world.image("1.1.0", counter=2)
    world.serve(content)
    route = world.proxy.routes["images"]
    first, sent = route.connections, route.bytes_sent
    world.proxy.max_open = 0
    try:
        route.stall_after = len(content) // 2
        mark = world.send(world.order(content, counter=2))
        world.wait_for_update("accepted", mark)
        # A reset loses what the board has not read yet: so not before it has stored what came.
        stored = content[: 16 * BLOCK]
        world.board.wait_for(lambda _: world.chip().read("slot_b").startswith(stored), WAIT_S)
    finally:
        route.stall_after = None
    world.proxy.drop()
    for result in ("trying", "confirmed"):
        assert world.wait_for_update(result, mark)["version"] == "1.1.0"
    state = world.wait_for_state(mark, version="1.1.0", status="confirmed")
    assert (state["slot"], state["floor"], state["counter"]) == ("b", 2, 2)
    slot, stored, status, floor = world.facts()
    assert (slot, stored[: len(content)] == content, status, floor) == ("b", True, CONFIRMED, 2)
    assert world.proxy.max_open == 1
    # Two connections, each with a handshake and what was under way; begun again, it were 1.5.
    assert route.connections - first == 2
    assert route.bytes_sent - sent < 1.3 * len(content)


def test_an_order_is_not_taken_twice(world):
    before = world.facts()
    order = world.order(world.image("1.1.0", counter=2), counter=2, number=world.order_number())
    report = world.wait_for_update("refused", world.send(order))
    assert "is not above the last one" in report["reason"]
    assert world.facts() == before


CRASHES = {
    "crashes at start": ("boom", "raise RuntimeError('boom')\n"),
    "hangs": ("watchdog", "async def run(device):\n    while True:\n        pass\n"),
    "fails its self-test": (
        "unfit",
        "async def run(device):\n    await device.sleep(50)\n"
        "async def self_test(device):\n    raise RuntimeError('unfit')\n",
    ),
    "ends": ("app: ended", "async def run(device):\n    pass\n"),
}


@pytest.mark.parametrize("name", CRASHES)
def test_a_release_that_does_not_confirm_is_rolled_back(world, name):
    reason, app = CRASHES[name]
    before, lines = world.facts(), len(world.board.lines)
    content = world.image("1.2.0", app, counter=3)
    world.serve(content)
    mark = world.send(world.order(content, version="1.2.0", counter=3))
    report = world.wait_for_update("rolled-back", mark)
    assert report["version"] == "1.2.0"
    assert report["reason"].startswith("no tries left; last: ")
    assert reason in report["reason"]
    tries = [line for line in world.board.lines[lines:] if "verified: 1.2.0" in line]
    assert len(tries) == 3
    assert world.facts() == before
    world.wait_for_state(mark, version="1.1.0", status="confirmed")
    assert world.command("identify")["ok"]


def test_a_power_cut_in_the_download_is_survived(world):
    content = world.image("1.3.0", counter=3)
    world.serve(content)
    total = len(content) // BLOCK
    place = next(
        row for row in flash.load_layout(REPO / slot_image.LAYOUT) if row.label == "slot_a"
    )
    target = place.offset + total * 3 // 4 * BLOCK
    # Which operation that is, another board with the same flash tells.
    world.board.power_off()
    copyfile(world.board.folder / "flash.bin", world.folder / "before.bin")
    world.board.power_on(record_flash=True)
    mark = world.send(world.order(content, version="1.3.0", counter=3))
    world.wait_for_update("confirmed", mark)
    operations = world.board.flash_ops()
    world.board.power_off()
    at = next(
        number
        for number, operation in enumerate(operations, 1)
        if (operation.kind, operation.address) == ("program", target)
    )
    copyfile(world.folder / "before.bin", world.board.folder / "flash.bin")
    world.board.power_on(cut=PowerCut(at, torn=1000), power_returns=True)
    mark = world.send(world.order(content, version="1.3.0", counter=3))
    boot = world.wait_for(lambda _, report: "resumed" in report.get("reason", ""), mark)
    assert int(boot["reason"].split()[-1]) >= 16
    world.wait_for_update("confirmed", mark)
    assert world.facts()[1][: len(content)] == content
    assert [boot.cause for boot in world.board.boots].count(Cause.POWER_ON) == 2


def test_an_application_without_a_self_test_is_confirmed(world):
    app = (
        "import micropython\n"
        "async def run(device):\n"
        "    device.commands['identify'] = lambda device, args: 'small'\n"
        "    device.commands['names'] = lambda device, args: micropython.qstr_info()\n"
        "    while True:\n        await device.sleep(1)\n"
    )
    content = world.image("1.4.0", app, counter=3)
    world.serve(content)
    mark = world.send(world.order(content, version="1.4.0", counter=3))
    world.wait_for_update("confirmed", mark)
    assert world.command("identify")["result"] == "small"


def test_a_message_leaves_no_memory_taken(world):
    """Also before the next one comes, which may be long."""
    world.board.power_off()
    mark = len(world.operator.messages)
    world.board.power_on(record_heap=True)
    world.wait_for_state(mark, status="confirmed")

    def count_names() -> str:
        start = len(world.board.lines)
        assert world.command("names")["ok"]
        end = world.board.wait_for_line("n_qstr=", start=start)
        return str(world.board.lines[end - 1])

    def refuse(length: int) -> int:
        world.wait_for_update("refused", world.send(bytes(length)))
        samples: list[int] = [world.board.measure_heap() for _ in range(5)]
        return min(samples)

    names = count_names()
    small = refuse(1)
    large = refuse(2200)
    assert count_names() == names  # what would hold on to a second heap segment for good
    world.board.power_off()
    mark = len(world.operator.messages)
    world.board.power_on(record_flash=True)
    world.wait_for_state(mark, status="confirmed")
    assert large < small + 1000


def test_a_broker_that_goes_away_is_found_again(world):
    mark = len(world.operator.messages)
    route = world.proxy.routes["broker"]
    before = route.connections
    world.proxy.drop()
    world.board.wait_for(lambda _: route.connections > before, WAIT_S)
    world.wait_for_state(mark, online=True)
    assert world.command("identify")["ok"]
    assert world.board.boots[-1].exit is None  # it reconnected, it did not restart


def test_another_device_cannot_take_the_session_over(world, devices):
    route = world.proxy.routes["broker"]
    before = route.connections
    thief = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=DEVICE, clean_session=False)
    thief.tls_set_context(client_context(devices / "dev-0002", devices / "dev-0002/operator.pem"))
    thief.connect("localhost", world.fleet.broker.port)
    thief.loop_start()
    wait_until(thief.is_connected)
    assert world.command("identify")["ok"]
    assert thief.is_connected()
    assert route.connections == before
    thief.disconnect()
    thief.loop_stop()


# What is changed on the chip, and what the board says then. Nothing of a slot runs in any of these.
WRECKS: dict[str, tuple[str, tuple[str, ...], Callable[[bytes], bytes]]] = {
    "no identity": ("no entry of type 51", ("esp_secure_cert",), lambda _: b""),
    "identity damaged": (
        "wrong CRC",
        ("esp_secure_cert",),
        lambda content: content.replace(b'"model":', b'"nodel":'),
    ),
    "boot state lost": ("no valid record", ("bootstate",), lambda _: b""),
    "both slots erased": ("no slot may run", ("slot_a", "slot_b"), lambda _: b""),
    "both slots altered": (
        "digest does not match",
        ("slot_a", "slot_b"),
        lambda content: content.replace(b"firmware", b"firmwarf"),
    ),
}


@pytest.mark.parametrize("name", WRECKS)
def test_a_board_without_a_bootable_slot_says_so_and_can_be_provisioned_again(
    world, tmp_path, name
):
    reason, labels, wreck = WRECKS[name]
    chip = flash.Flash.load(world.board.folder / "flash.bin")
    for label in labels:
        chip.write(label, wreck(chip.read(label)))
    chip.save_new(tmp_path / "flash.bin")
    with VirtualBoard(tmp_path) as board:
        board.power_on()
        board.wait_for_line(reason, WAIT_S)
        board.wait_for(lambda board: len(board.boots) > 1, WAIT_S)  # it tries again
        assert not any("verified" in line or ">>>" in line for line in board.lines)
    (tmp_path / "flash.bin").unlink()
    copyfile(world.folder / "before.bin", tmp_path / "flash.bin")
    with VirtualBoard(tmp_path) as board:
        board.power_on()
        board.wait_for_line("verified: 1.1.0")
