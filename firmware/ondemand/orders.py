"""Update orders: signed by the fleet key, for one device, numbered and short-lived.

`take` for one that arrives; `resume`, after the restart, for the one that was accepted.

On the wire an order is its JSON followed by the signature block.  What was signed
is the JSON padded with 0xFF to 4096 (docs/design.md, "Update order"): the fill is
left out of the message, and put back here before it is hashed.
"""

import binascii
import json
from hashlib import sha256

from micropython import const

from firmware.ondemand.store import ORDER_PATH
from trust import TrustError, block_count, signature

_BLOCK_LEN = const(4096)
_EMPTY = const(0)  # trust.state.EMPTY, without keeping that module
_JSON_LIMIT = const(1024)
WIRE_LIMIT = _JSON_LIMIT + signature.BLOCK_LEN
_LIFETIME_S = const(2592000)  # 30 days: longer than this is no short-lived order
_AHEAD_S = const(86400)  # how far ahead of the clock a number may be: bounds a fast-forward
_FIELDS = (
    ("number", int),
    ("expires", int),
    ("device", str),
    ("model", str),
    ("version", str),
    ("counter", int),
    ("size", int),
    ("digest", str),
    ("path", str),
)


class OrderError(TrustError):
    """The order is refused; nothing has been changed."""


def open_order(wire, keys):
    """Verify a received order and return its fields as a dict; OrderError or SignatureError."""
    order = verify(wire, keys, _FIELDS)
    try:
        digest_len = len(binascii.unhexlify(order["digest"]))
    except ValueError:
        digest_len = 0
    if digest_len != 32:
        raise OrderError("order: digest %r, expected SHA-256" % order["digest"])
    if order["path"][:1] != "/" or any(not "!" <= char <= "~" for char in order["path"]):
        raise OrderError("order: path %r, expected /… in printable ASCII" % order["path"])
    return order


def verify(wire, keys, wanted):
    """Verify a message that is signed as orders are; the object in it.

    keys: digests of the keys that may have signed it.  wanted: (name, type) of each field.
    Raises OrderError or SignatureError.
    """
    text_len = len(wire) - signature.BLOCK_LEN
    if not 0 < text_len <= _JSON_LIMIT:
        raise OrderError("order of %d bytes, expected up to %d" % (len(wire), WIRE_LIMIT))
    text = memoryview(wire)[:text_len]
    hasher = sha256(text)
    fill_len = _BLOCK_LEN - text_len
    for _ in range(fill_len // 64):  # no 4 KB in one piece for this
        hasher.update(b"\xff" * 64)
    hasher.update(b"\xff" * (fill_len % 64))
    signature.verify(memoryview(wire)[text_len:], hasher.digest(), keys)
    # Only now is it parsed: the bytes are what the key signed.
    try:
        order = json.loads(bytes(text))
    except ValueError:
        raise OrderError("order is not JSON")
    if not isinstance(order, dict) or order.get("v") != 1:
        raise OrderError("order: expected version 1")
    for field, kind in wanted:
        if not isinstance(order.get(field), kind):
            raise OrderError("order: %s is %r, expected %s" % (field, order.get(field), kind))
    return order


def check(order, record, floor, last, now):
    """Raise OrderError unless the order is for this board, new and in time.

    floor: security counter; the rest is as for `check_fresh`.
    """
    check_fresh(order, record, last, now)
    if order["model"] != record["model"]:
        raise OrderError("order is for model %r, this is a %r" % (order["model"], record["model"]))
    if order["counter"] < floor:
        raise OrderError("security counter %d is below the floor %d" % (order["counter"], floor))


def check_fresh(order, record, last, now):
    """Raise OrderError unless what was ordered is for this device, new and in time.

    record: provisioning record.  last: number of the last order accepted.  now: Unix seconds.
    """
    if order["device"] != record["id"]:
        raise OrderError("order is for device %r, this is %r" % (order["device"], record["id"]))
    if order["number"] <= last:
        raise OrderError("order %d is not above the last one, %d" % (order["number"], last))
    check_time(order, now)
    if order["expires"] - order["number"] > _LIFETIME_S:
        raise OrderError("order is valid for more than 30 days")


def check_time(order, now):
    """Raise OrderError if the order is expired, or from too far ahead.  now: Unix seconds."""
    if order["expires"] <= now:
        raise OrderError("order expired at %d, it is %d" % (order["expires"], now))
    if order["number"] > now + _AHEAD_S:
        raise OrderError("order was issued at %d, it is %d" % (order["number"], now))


def accept(wire, boot, files, now):
    """Verify and check a received order, and take it on; returns it as a dict.

    files: an object with load, save and remove, as the module `store`.
    None if it is the one already being worked on, delivered again.
    Raises TrustError, and has changed nothing then.
    """
    order = open_order(wire, boot.record["fleet"])
    state = boot.state
    if order["number"] == state.order and files.load(ORDER_PATH, WIRE_LIMIT) == wire:
        return None
    check(order, boot.record, state.floor, state.order, now)
    _check_size(order, boot)
    # File first: a number without its order could not be resumed.
    files.save(ORDER_PATH, wire)
    state.accept_order(order["number"])
    return order


def resume(boot, files, now):
    """The order that a restart interrupted, verified and checked again; None if there is none.

    now: Unix seconds; while the time is not authenticated, the least that it can be.
    Raises TrustError, the order then being dropped, if it may not go on.
    """
    from firmware.ondemand.install import forget, load_done

    wire = files.load(ORDER_PATH, WIRE_LIMIT)
    if wire is None:
        return None
    try:
        order = open_order(wire, boot.record["fleet"])
        state = boot.state
        last = state.order
        # Equal: interrupted after it was accepted.  Above: just before that.
        check(order, boot.record, state.floor, min(last, order["number"] - 1), now)
        if order["number"] < last:
            raise OrderError("order %d is not the last one, %d" % (order["number"], last))
        _check_size(order, boot)
    except TrustError:
        forget(files)
        raise
    slot = 1 - boot.running
    if state.status[slot] != _EMPTY and load_done(files, order):
        forget(files)  # was staged: cut between that and forgetting
        return None
    if order["number"] > last:
        state.accept_order(order["number"])
    return order


def _check_size(order, boot):
    slot_len = block_count(boot.slots[1 - boot.running]) * _BLOCK_LEN
    size = order["size"]
    if not 3 * _BLOCK_LEN <= size <= slot_len or size % _BLOCK_LEN:
        raise OrderError(
            "image of %d bytes, expected a multiple of %d up to %d" % (size, _BLOCK_LEN, slot_len)
        )


def take(wire, agent, files, now):
    """Accept a received order or refuse it, and report which; the order, or None."""
    try:
        order = accept(wire, agent.boot, files, now)
    except (TrustError, OSError) as error:  # OSError: `vfs` cannot hold it
        agent.report("refused", reason=str(error))
        return None
    if order:
        agent.order = order["number"]
        agent.report("accepted", version=order["version"])
    return order
