"""Orders and images that are refused: a provisioned virtual board, real broker, real TLS.

One board for the file, in the order of the tests: what a refused input may not change is
looked up in its flash before and after, and after each one it has to answer a command.
"""

import json
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from host_tests.firmware.world import BLOCK, BUILT, DEVICE, World
from host_tests.vectors import sign_order
from trust.state import CONFIRMED, EMPTY, BootState

pytest_plugins = ["host_tests.tool_fixtures", "host_tests.fleet_fixtures"]


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


@pytest.fixture(scope="module")
def two_versions(world):
    """The board has a second version that was confirmed, too: one that a refusal could cost it."""
    world.board.power_off()
    chip = world.chip()
    chip.write("slot_b", chip.read("slot_a"))
    state = BootState(chip.device("bootstate"))
    state.stage(1)
    state.begin_try(1)
    state.confirm(1, 1)
    (world.board.folder / "flash.bin").write_bytes(chip.content)
    mark = len(world.operator.messages)
    world.board.power_on(record_flash=True)
    world.wait_for_state(mark, slot="b", status="confirmed")
    assert world.spare()[1] == CONFIRMED


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
        "expected a multiple of 4096 up to 262144",
        lambda w, order: order | {"size": 65 * 4096},
    ),
    "without a size": ("size", lambda w, order: {k: v for k, v in order.items() if k != "size"}),
    "with a foreign address": (
        "path",
        lambda w, order: order | {"path": "https://elsewhere/images/next.img"},
    ),
}


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.usefixtures("two_versions")
def test_an_order_that_may_not_be_carried_out_is_refused(world, name):
    reason, change = ORDERS[name]
    world.serve(world.image("1.1.0"))
    before, spare = world.facts(), world.spare()
    requests = world.proxy.routes["images"].connections
    last = world.order_number()
    mark = world.send(change(world, world.order(world.image("1.1.0"))))
    report = world.wait_for_update("refused", mark)
    assert reason in report["reason"]
    assert (world.facts(), world.spare()) == (before, spare)
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
    "wrong magic": ("not a slot image", change_descriptor(0, b"SGNTSLOP")),
    "for dev boards": (
        "dev image, this is a production board",
        change_descriptor(10, b"\0\0"),
    ),
    "wrong format": ("image format 1", change_descriptor(8, b"\1\0")),
    "payload runs past the slot": (
        "slot holds 262144",
        change_descriptor(12, struct.pack("<I", 64 * 4096)),
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
    # Seen only when all of it is in flash. The last one, as it costs the slot its content.
    "one bit flipped": ("digest does not match", tamper),
}


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.usefixtures("two_versions")
def test_an_image_that_may_not_be_installed_is_refused(world, name):
    reason, make = IMAGES[name]
    content = make(world)
    ordered = content
    if name in ("truncated", "trailing data", "missing"):
        ordered = world.image("1.1.0")
    before, spare = world.facts(), world.spare()
    if content:
        world.serve(content)
    else:
        (world.fleet.folder / "images/signet-demo/next.img").unlink()
    mark = world.send(world.order(ordered))
    report = world.wait_for_update("refused", mark)
    assert reason in report["reason"]
    assert world.facts() == before
    if name == "one bit flipped":
        assert world.spare()[1] == EMPTY
    else:
        assert world.spare() == spare
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
