"""Update orders: what the fleet key has to have signed, and which are for this board."""

import slots

from firmware.ondemand import orders
from firmware.ondemand.orders import OrderError
from trust.signature import SignatureError

_BLOCK_LEN = 1216
# Of the board in `check`: 1.0.0, and an order before.
_LAST = slots.ISSUED - 1000


def open_order(wire, keys=("fleet",)):
    return orders.open_order(wire, [slots.key_digest(key) for key in keys])


def check(name, floor=1, last=_LAST, now=slots.NOW, record=None):
    order = open_order(slots.order(name))
    orders.check(order, record or slots.record(), floor, last, now)
    return order


def test_good_order():
    order = check("good")
    assert order["number"] == slots.ISSUED
    assert order["version"] == "1.1.0"
    assert order["digest"] == slots.binascii.hexlify(slots.image_digest("1.1.0")).decode()
    assert open_order(bytearray(slots.order("good"))) == order
    assert open_order(slots.order("good"), ("other", "fleet")) == order


def test_signed_by_another_key():
    for name in ("by-release", "by-other"):
        slots.check_refused(
            "signed by an unknown key", SignatureError, open_order, slots.order(name)
        )
    for keys in ((), ("release",), ("other", "release")):
        slots.check_refused(
            "signed by an unknown key", SignatureError, open_order, slots.order("good"), keys
        )


def test_altered_on_the_way():
    wire = slots.order("good")
    text, block = wire[:-_BLOCK_LEN], wire[-_BLOCK_LEN:]
    other = slots.order("next")[-_BLOCK_LEN:]
    data = "signature is over other data"
    # name: (reason, what arrives)
    cases = {
        "another number": (data, text.replace(b'"v":1', b'"v":2') + block),
        "space in front": (data, b" " + wire),
        "space behind": (data, text + b" " + block),
        "cut in front": (data, wire[1:]),
        "signature of the next order": (data, text + other),
        "not signed": ("no signature: magic byte 0x", text + b"\xff" * _BLOCK_LEN),
        "trailing byte": ("no signature: magic byte 0x02", wire + b"\xff"),
        "trailing bytes": ("no signature: magic byte 0x00", wire + bytes(3)),
        "cut behind": ("no signature: magic byte 0x7d", wire[:-1]),
        "CRC broken": ("wrong CRC", wire[:-17] + bytes([wire[-17] ^ 1]) + wire[-16:]),
    }
    for name in cases:
        reason, arrived = cases[name]
        slots.check_refused(reason, SignatureError, open_order, arrived)


def test_fill_that_is_sent():
    """The padding is signed, too, so a message may carry some of it: then it is no JSON."""
    wire = slots.order("good")
    arrived = wire[:-_BLOCK_LEN] + b"\xff\xff" + wire[-_BLOCK_LEN:]
    slots.check_refused("order is not JSON", OrderError, open_order, arrived)


def test_length():
    for length in (0, 1, _BLOCK_LEN, 1024 + _BLOCK_LEN + 1, 5000):
        reason = "order of %d bytes, expected up to 2240" % length
        slots.check_refused(reason, OrderError, open_order, bytes(length))
    slots.check_refused("expected version 1", OrderError, open_order, slots.order("largest"))
    assert len(slots.order("largest")) == orders.WIRE_LIMIT == 2240


def test_whole_signature_sector_is_too_much():
    """The form that espsecure writes: with the fill, as in a file."""
    wire = slots.order("good")
    slots.check_refused(
        "order of", OrderError, open_order, slots.whole(wire[:-_BLOCK_LEN]) + wire[-_BLOCK_LEN:]
    )


def test_signed_and_still_no_order():
    # name of the order: reason
    cases = {
        "list": "order: expected version 1",
        "text": "order: expected version 1",
        "empty-object": "order: expected version 1",
        "cut": "order",
        "not-text": "order is not JSON",
        "version-2": "order: expected version 1",
        "no-version": "order: expected version 1",
        "text-number": "order: number is '%d'" % slots.ISSUED,
        "fraction": "order: counter is 2.5",
        "no-expiry": "order: expires is None",
        "null-path": "order: path is []",
        "relative-path": "order: path 'images/1.1.0.img', expected /",
        "url": "order: path 'https://example.org/1.1.0.img', expected /",
        "header-in-path": "order: path '/1.1.0.img HTTP/1.1",
        "wide-path": "in printable ASCII",
        "empty-path": "order: path ''",
        "short-digest": "order: digest",
        "long-digest": "order: digest",
        "odd-digest": "order: digest",
        "text-digest": "order: digest",
    }
    # MicroPython 1.25 takes "cut" for {"v":1}: then its fields are missing.
    for name in cases:
        slots.check_refused(cases[name], OrderError, open_order, slots.order(name))


def test_orders_for_another_board():
    device = "order is for device 'dev-0002', this is 'dev-0001'"
    slots.check_refused(device, OrderError, check, "other-device")
    model = "order is for model 'signet-other', this is a 'signet-test'"
    slots.check_refused(model, OrderError, check, "other-model")
    record = slots.record()
    record["id"] = "dev-0001-b"
    slots.check_refused("this is 'dev-0001-b'", OrderError, check, "good", record=record)


def test_replay():
    for last in (slots.ISSUED, slots.ISSUED + 1, 0xFFFFFFFF):
        reason = "order %d is not above the last one, %d" % (slots.ISSUED, last)
        slots.check_refused(reason, OrderError, check, "good", last=last)
    assert check("good", last=slots.ISSUED - 1)
    slots.check_refused("is not above the last one", OrderError, check, "older", last=slots.ISSUED)


def test_expiry():
    """Freeze: an old order must not be good for ever."""
    reason = "order expired at %d, it is %d" % (slots.NOW, slots.NOW)
    slots.check_refused(reason, OrderError, check, "expired")
    assert check("expired", now=slots.NOW - 1)
    assert check("last-second")
    slots.check_refused("expired", OrderError, check, "good", now=slots.ISSUED + slots.DAY)
    slots.check_refused("expired", OrderError, check, "good", now=slots.NOW + 1000 * slots.DAY)


def test_lifetime():
    assert check("30-days")
    reason = "order is valid for more than 30 days"
    slots.check_refused(reason, OrderError, check, "long-lived")


def test_fast_forward():
    """A number far ahead would lock the board out of all orders that come after it."""
    for name in ("far-ahead", "farthest-ahead"):
        slots.check_refused("order was issued at", OrderError, check, name)
    assert check("day-ahead")
    # A board whose clock stands still at its floor.
    reason = "order was issued at %d, it is %d" % (slots.ISSUED, slots.BUILT)
    slots.check_refused(reason, OrderError, check, "good", now=slots.BUILT)


def test_rollback():
    slots.check_refused("security counter 0 is below the floor 1", OrderError, check, "counter-0")
    slots.check_refused(
        "security counter 2 is below the floor 3", OrderError, check, "good", floor=3
    )
    assert check("good", floor=2)
