"""The whole of it: a provisioned virtual board is updated, with a real broker, TLS, image server.

One board for the file, in the order of the tests; one that runs without those before it first has
the board brought to where they leave it.
"""

import hashlib
from collections.abc import Callable
from shutil import copyfile

import pytest
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from host_tests.firmware.world import BLOCK, DEVICE, WAIT_S
from host_tests.fleet_helpers import client_context, wait_until
from host_tests.tool_helpers import REPO
from signet.board.virtual.board import FIRST_SEGMENT_LEN, VirtualBoard, on_a_chip
from signet.board.virtual.cycle import Cause, PowerCut
from signet.formats import flash
from signet.image import slot_image
from trust.identity import Identity
from trust.state import CONFIRMED

pytest_plugins = ["host_tests.tool_fixtures", "host_tests.fleet_fixtures"]


@pytest.fixture(scope="module")
def updated(world):
    """The board runs 1.1.0, confirmed, from slot b."""
    if world.facts()[0] == "a":
        content = world.image("1.1.0", counter=2)
        world.serve(content)
        world.wait_for_update("confirmed", world.send(world.order(content, counter=2)))


def install_small(world):
    """Update to an application that has no self-test."""
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


@pytest.fixture(scope="module")
def small(world):
    if world.command("identify")["result"] != "small":
        install_small(world)


def test_what_stays_in_memory_fits_into_a_chips_first_segment(world):
    """What does not is taken from the memory that Wi-Fi and TLS have."""
    world.board.power_off()
    mark = len(world.operator.messages)
    world.board.power_on(record_heap=True)
    world.wait_for_state(mark, status="confirmed")
    idle = max(world.board.measure_heap() for _ in range(3))
    shims = world.board.heap_samples()[0][1]
    world.board.power_off()
    mark = len(world.operator.messages)
    world.board.power_on(record_flash=True)
    world.wait_for_state(mark, status="confirmed")
    assert 40_000 < on_a_chip(idle - shims) < FIRST_SEGMENT_LEN


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
    # Two connections, each with a handshake and what was under way; begun again, it were 1.5. And
    # one for the time, after the restart into the new version.
    assert route.connections - first == 3
    assert route.bytes_sent - sent < 1.3 * len(content)


@pytest.mark.usefixtures("updated")
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
@pytest.mark.usefixtures("updated")
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


@pytest.mark.usefixtures("updated")
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
    install_small(world)
    assert world.command("identify")["result"] == "small"


@pytest.mark.usefixtures("small")
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

    small = refuse(1)  # the names of what it takes stay, once
    names = count_names()
    large = refuse(2200)
    assert count_names() == names
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
    """Whatever id it says, the right one too: the broker takes that of its certificate."""
    route = world.proxy.routes["broker"]
    before = route.connections
    key = Identity(world.chip().device("esp_secure_cert")).key
    secret = hashlib.sha256(b"signet client id" + key).hexdigest()[:16]
    lines = len(world.board.lines)
    for client_id in (f"{DEVICE}-{secret}", DEVICE, f"{DEVICE}-{'0' * 16}", ""):
        heard: list[bytes] = []
        clean = not client_id  # only an id of its own can have a session that is kept
        thief = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=clean)
        thief.on_message = lambda *args, heard=heard: heard.append(args[2].payload)
        path = devices / "dev-0002/operator.pem"
        thief.tls_set_context(client_context(devices / "dev-0002", path))
        thief.will_set(f"signet/{DEVICE}/up/state", b'{"online":false}', 1, retain=True)
        thief.connect("localhost", world.fleet.broker.port)
        thief.loop_start()
        wait_until(thief.is_connected)
        # What was queued for a session would come at once, before what is said now.
        assert world.command("identify")["ok"]
        assert thief.is_connected()
        thief.disconnect()
        thief.loop_stop()
        assert heard == []
    assert route.connections == before
    assert not any("error: session" in line for line in world.board.lines[lines:])


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
    copyfile(world.folder / "provisioned.bin", tmp_path / "flash.bin")
    with VirtualBoard(tmp_path) as board:
        board.power_on()
        board.wait_for_line("verified: 1.0.0")
