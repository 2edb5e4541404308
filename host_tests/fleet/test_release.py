"""signet.release: orders that devices accept, numbers that only grow, and what is refused."""

import hashlib
import itertools
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from firmware.ondemand import orders
from host_tests.fleet_helpers import WAIT_S, open_device
from host_tests.tool_helpers import RELEASE, run_program, snapshot
from signet.errors import RefusedError, SignetError
from signet.formats import documents, signing
from signet.image import slot_image
from signet.release import publishing

pytest_plugins = ["host_tests.tool_fixtures", "host_tests.fleet_fixtures"]

DEVICE = "dev-0001"
NOW = 1_800_000_000
RECORD = {"id": DEVICE, "model": RELEASE.model}


@pytest.fixture
def board(devices, fleet):
    """A session that listens where the board would."""
    with open_device(devices / DEVICE, fleet, f"signet/{DEVICE}/down/#") as board:
        yield board


@pytest.fixture
def released(fleet, signed):
    """The path of the released image; the image server has none before the test, nor after it."""
    path = fleet.folder / "images" / RELEASE.model / f"{RELEASE.version}.img"
    path.unlink(missing_ok=True)
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def publish(signet, keys, fleet, signed_file):
    """Run `signet release publish` with what it needs, and with options that override it."""

    def run(*options):
        return signet("release", "publish", "--pki", keys, "--fleet", fleet.folder,
                      "--device", DEVICE, "--image", signed_file, *options)  # fmt: skip

    return run


@pytest.fixture(scope="module")
def order(signed):
    return publishing.make_order(signed, DEVICE, NOW, NOW + 60)


@pytest.fixture(scope="module")
def wire(order, keys):
    return documents.sign_document(order, keys / "fleet.key")


# Orders


def test_a_device_accepts_the_order(keys, order, wire, signed):
    """The device's own code opens and checks it; every field is what the image says."""
    opened = orders.open_order(wire, [signing.key_digest(keys / "fleet.pub")])
    orders.check(opened, RECORD, floor=RELEASE.counter, last=NOW - 1, now=NOW)
    assert (
        opened
        == order
        == {
            "v": 1,
            "number": NOW,
            "expires": NOW + 60,
            "device": DEVICE,
            "model": "signet-demo",
            "version": "1.0.0",
            "counter": 1,
            "size": len(signed),
            "digest": hashlib.sha256(signed[:-4096]).hexdigest(),
            "path": "/images/signet-demo/1.0.0.img",
        }
    )
    assert len(wire) <= orders.WIRE_LIMIT


def test_espsecure_accepts_the_order(keys, wire, tmp_path):
    """The tool that nobody here wrote, once the padding is back."""
    text, block = wire[:-1216], wire[-1216:]
    path = tmp_path / "order.bin"
    path.write_bytes(text.ljust(4096, b"\xff") + block.ljust(4096, b"\xff"))
    for key, accepted in (("fleet", True), ("release", False)):
        done = run_program("espsecure", "verify-signature", "--version", "2",
                           "--keyfile", keys / f"{key}.pub", path)  # fmt: skip
        assert (done.returncode == 0) == accepted, done


@pytest.mark.parametrize(
    "place", [0, 100, -1216, -1100, -17], ids=["brace", "text", "magic", "key", "CRC"]
)
def test_an_altered_order_does_not_open(keys, wire, place):
    altered = bytearray(wire)
    altered[place] ^= 1
    with pytest.raises(RefusedError):
        documents.open_document(bytes(altered), signing.key_digest(keys / "fleet.pub"))


def test_an_order_opens_for_its_key_only(keys, wire):
    with pytest.raises(RefusedError, match="unknown key"):
        documents.open_document(wire, signing.key_digest(keys / "release.pub"))


def test_an_order_is_bounded(keys, order):
    """1,024 bytes of JSON are signed, 1,025 are not."""
    room = 1024 - len(json.dumps(order | {"path": ""}, separators=(",", ":")))
    documents.sign_document(order | {"path": "p" * room}, keys / "fleet.key")
    with pytest.raises(RefusedError, match="order of 1025 bytes, at most 1024"):
        documents.sign_document(order | {"path": "p" * (room + 1)}, keys / "fleet.key")


@pytest.mark.parametrize("version", ["../../1", "a/b", ".hidden", "1%2e0"])
def test_a_version_that_is_no_file_name_has_no_order(version):
    """Whoever may sign images still does not choose where files are written."""
    strange = slot_image.Release(version, RELEASE.model, 1, (1, 25, 0), 0)
    content = slot_image.pack_descriptor(strange, 4096) + bytes(2 * 4096)
    with pytest.raises(RefusedError, match=r"version '.*', expected the form"):
        publishing.make_order(content, DEVICE, NOW, NOW + 60)


# Numbers


def test_numbers_follow_the_clock_and_never_fall(tmp_path):
    assert publishing.next_number(tmp_path, NOW) == NOW
    assert publishing.next_number(tmp_path, NOW) == NOW + 1
    assert publishing.next_number(tmp_path, NOW - 1000) == NOW + 2
    assert publishing.next_number(tmp_path, NOW + 1000) == NOW + 1000
    assert publishing.next_number(tmp_path, NOW, wanted=NOW + 2000) == NOW + 2000
    assert publishing.next_number(tmp_path, NOW) == NOW + 2001


@pytest.mark.parametrize("wanted", [NOW, NOW - 1, 1 << 32])
def test_a_number_out_of_range_is_refused(tmp_path, wanted):
    publishing.next_number(tmp_path, NOW)
    before = snapshot(tmp_path)
    with pytest.raises(RefusedError, match=f"order number {wanted}, expected above {NOW}"):
        publishing.next_number(tmp_path, NOW, wanted)
    assert snapshot(tmp_path) == before


def test_a_damaged_record_of_numbers_stops_everything(tmp_path):
    (tmp_path / "last-order").write_text("")
    with pytest.raises(SignetError, match="expected the last order's number"):
        publishing.next_number(tmp_path, NOW)


def test_numbers_grow_under_concurrency(tmp_path):
    def take(_: int) -> list[int]:
        return [publishing.next_number(tmp_path, NOW) for _ in range(20)]

    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(take, range(8)))
    assert all(numbers == sorted(numbers) for numbers in taken)
    assert sorted(itertools.chain(*taken)) == list(range(NOW, NOW + 160))


# Images in the fleet's folder


@pytest.fixture
def release_key(keys):
    return signing.key_digest(keys / "release.pub")


def test_a_version_is_released_once(keys, project, signed, release_key, tmp_path):
    path = publishing.store_image(tmp_path, signed, release_key)
    assert path == tmp_path / "images/signet-demo/1.0.0.img"
    other = slot_image.Release("1.0.0", RELEASE.model, 2, (1, 25, 0), RELEASE.build_time)
    content = slot_image.sign_image(slot_image.build_image(other, project), keys / "release.key")
    with pytest.raises(RefusedError, match=r"another 1\.0\.0 for signet-demo was released"):
        publishing.store_image(tmp_path, content, release_key)
    assert snapshot(tmp_path) == {"images/signet-demo/1.0.0.img": signed}


def test_the_same_content_signed_again_is_the_same_release(
    keys, unsigned, signed, release_key, tmp_path
):
    again = slot_image.sign_image(unsigned, keys / "release.key")
    assert again != signed
    path = publishing.store_image(tmp_path, signed, release_key)
    assert publishing.store_image(tmp_path, again, release_key) == path
    assert path.read_bytes() == signed


def test_a_damaged_release_is_replaced(signed, release_key, tmp_path):
    path = publishing.store_image(tmp_path, signed, release_key)
    path.write_bytes(signed[:-1])
    publishing.store_image(tmp_path, signed, release_key)
    assert path.read_bytes() == signed


# The command


def test_publish(publish, keys, board, fleet, released, signed):
    before = int(time.time())
    done = publish("--expires-in", "600")
    assert (done.returncode, done.stderr) == (0, "")
    wire = board.wait_for(lambda message: message.topic.endswith("down/order"), WAIT_S).payload
    opened = orders.open_order(wire, [signing.key_digest(keys / "fleet.pub")])
    assert opened["expires"] - 600 in range(before, int(time.time()) + 1)
    assert opened["number"] == int((fleet.folder / "last-order").read_text()) >= before
    assert re.fullmatch(
        rf"order {opened['number']}: dev-0001 installs 1\.0\.0 for signet-demo, counter 1, "
        rf"{len(signed)} bytes; valid until 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC\n",
        done.stdout,
    )
    assert released.read_bytes() == signed
    assert [message.retained for message in board.messages] == [False]


def test_publish_as_json_with_a_number(publish, board, fleet, released):
    number = publishing.next_number(fleet.folder, int(time.time())) + 1000
    done = publish("--json", "--number", str(number))
    assert done.returncode == 0, done
    assert json.loads(done.stdout)["number"] == number
    board.wait_for(lambda message: b'"number":%d' % number in message.payload, WAIT_S)


def alter(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("unsigned", "not signed"),
        ("flipped bit", "digest does not match"),
        ("signed by another key", "unknown key"),
        ("truncated", "bytes, expected"),
        ("with a trailer", "bytes, expected"),
        ("not an image", "not a slot image"),
    ],
)
def test_an_image_that_devices_would_refuse_is_not_published(
    publish, board, fleet, keys, released, unsigned, signed, tmp_path, what, why
):
    content = {
        "unsigned": lambda: unsigned,
        "flipped bit": lambda: alter(signed, 5000),
        "signed by another key": lambda: slot_image.sign_image(unsigned, keys / "fleet.key"),
        "truncated": lambda: signed[: -4096 * 2],
        "with a trailer": lambda: signed + bytes(4096),
        "not an image": lambda: b"PK" * 4096,
    }[what]()
    path = tmp_path / "bad.img"
    path.write_bytes(content)
    publishing.next_number(fleet.folder, int(time.time()))
    last = (fleet.folder / "last-order").read_bytes()
    check_refused(publish("--image", path), board, released, 1, why)
    assert (fleet.folder / "last-order").read_bytes() == last


@pytest.mark.parametrize(
    ("options", "code", "why"),
    [
        (["--device", "+"], 2, "device id '+'"),
        (["--device", "dev-0001/x"], 2, "device id"),
        (["--broker", "127.0.0.1:1"], 2, "broker 127.0.0.1:1: "),
        (["--broker", "nowhere"], 2, "expected host:port"),
        (["--number", "1"], 1, "expected above"),
        (["--expires-in", "0"], 2, "expires-in"),
        (["--expires-in", str(30 * 86400 + 1)], 2, "expires-in"),
        (["--image", "missing.img"], 2, "missing.img"),
        (["--pki", "nowhere"], 2, "nowhere/release.pub"),
        (["--fleet", "nowhere"], 2, "no servers run on this folder"),
    ],
)
def test_what_else_is_refused(publish, board, fleet, released, options, code, why):
    publishing.next_number(fleet.folder, int(time.time()))  # so that there is a last one
    check_refused(publish(*options), board, released, code, why)


def check_refused(done, board, released, code, why):
    """Exit code and reason, nothing sent, nothing on the image server."""
    assert done.returncode == code, done
    assert done.stdout == ""
    assert why in done.stderr
    assert "Traceback" not in done.stderr
    assert board.messages == []
    assert not released.exists()


def test_a_device_that_never_connected_cannot_be_sent_an_order(publish, released):
    done = publish("--device", "dev-0009")
    assert done.returncode == 1
    assert "signet/dev-0009/down/order: nobody has subscribed to it" in done.stderr
    assert "signet: hint: the device has to connect to this broker once" in done.stderr


def test_a_key_that_devices_do_not_trust_is_found_before_it_is_used(
    signet, keys, board, fleet, released, signed_file, tmp_path
):
    """fleet.key replaced, fleet.pub not: what devices were provisioned with is the latter."""
    mixed = tmp_path / "pki"
    mixed.mkdir()
    for path in keys.iterdir():
        (mixed / path.name).symlink_to(path)
    (mixed / "fleet.key").unlink()
    (mixed / "fleet.key").symlink_to(keys / "release.key")
    done = signet("release", "publish", "--pki", mixed, "--fleet", fleet.folder,
                  "--device", DEVICE, "--image", signed_file)  # fmt: skip
    check_refused(done, board, released, 1, "unknown key")
