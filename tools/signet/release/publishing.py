"""Releases: put a signed image on the image server and order a device to install it.

An order is a document that the fleet key signed. Order numbers are Unix seconds and grow strictly;
the last one is kept in the fleet folder.
"""

import fcntl
import re
import time
from pathlib import Path

from signet import files
from signet.errors import RefusedError, SignetError
from signet.fleet.folder import SEGMENT
from signet.fleet.session import OperatorSession
from signet.formats import signing
from signet.formats.documents import MAX_NUMBER, Document, open_document, sign_document
from signet.image import slot_image
from signet.pki import names
from trust.image import BLOCK_LEN, Descriptor

_LAST_ORDER = files.Kind("the number of the last order", lambda head: head.strip().isdigit())
_DIGEST = slice(4, 36)  # of a signature block: SHA-256 over descriptor and payload


def make_order(content: bytes, device: str, number: int, expires: int) -> Document:
    """The order that makes a device install an image.

    content: the signed image, verified by the caller. number, expires: Unix seconds. Raises
    RefusedError if the image's model or version cannot be part of a path.
    """
    descriptor = Descriptor(content[:BLOCK_LEN])
    return {
        "v": 1,
        "number": number,
        "expires": expires,
        "device": device,
        "model": descriptor.model,
        "version": descriptor.version,
        "counter": descriptor.counter,
        "size": len(content),
        "digest": _digest(content).hex(),
        "path": f"/images/{image_path(descriptor)}",
    }


def image_path(descriptor: Descriptor) -> Path:
    """Where an image lies below a fleet's images folder: <model>/<version>.img."""
    for name, text in (("model", descriptor.model), ("version", descriptor.version)):
        if not re.fullmatch(SEGMENT, text):
            raise RefusedError(f"{name} {text!r}, expected the form {SEGMENT}")
    return Path(descriptor.model, f"{descriptor.version}.img")


def next_number(folder: Path, now: int, wanted: int | None = None) -> int:
    """Take an order number that is above every earlier one of this fleet folder.

    now: Unix seconds. wanted: take this one. Raises RefusedError if it is not above the last one.
    """
    record = folder / "last-order"
    with (folder / "last-order.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
        last = _parse_number(record) if record.exists() else 0
        number = max(last + 1, now) if wanted is None else wanted
        if not last < number <= MAX_NUMBER:
            raise RefusedError(
                f"order number {number}, expected above {last}, the last one, up to {MAX_NUMBER}"
            )
        files.replace_file(record, f"{number}\n".encode(), _LAST_ORDER)
    return number


def _parse_number(record: Path) -> int:
    text = files.read_file(record, "last order number").strip()
    if not text.isdigit():
        raise SignetError(f"{record}: {text[:20]!r}, expected the last order's number")
    return int(text)


def store_image(folder: Path, content: bytes, key_digest: bytes) -> Path:
    """Put a signed image where the image server finds it; returns the file's path.

    A version is released once: RefusedError if an image of other content has the name. One of the
    same content stays, though its signature, which is random, differs.
    """
    descriptor = slot_image.verify_image(content, [key_digest])
    path = folder / "images" / image_path(descriptor)
    if path.exists():
        released = files.read_file(path, "released image")
        try:
            slot_image.verify_image(released, [key_digest])
        except RefusedError:
            pass  # damaged: nothing that a device would have installed, so it is replaced
        else:
            if _digest(released) != _digest(content):
                raise RefusedError(
                    f"{path}: another {descriptor.version} for {descriptor.model} was released",
                    "build it under a new version",
                )
            return path
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace_file(path, content, slot_image.FILE)
    return path


def publish(session: OperatorSession, device: str, wire: bytes) -> str:
    """Send a signed order to a device; returns the topic once the broker has queued it.

    Raises RefusedError if the device has never subscribed, see `OperatorSession.publish`.
    """
    names.check_device_id(device)  # or '+' and '/' would reach other topics
    topic = f"signet/{device}/down/order"
    session.publish(topic, wire)
    return topic


def release(
    pki_folder: Path,
    folder: Path,
    broker: str,
    device: str,
    content: bytes,
    lifetime_s: int = 3600,
    number: int | None = None,
) -> Document:
    """Verify an image, sign an order for it, serve the image, publish the order; returns the order.

    folder: the fleet's. broker: "host:port". content: a signed image. lifetime_s: how long the
    order may be accepted. Nothing is written before image, device id and broker have been checked.
    """
    release_key = signing.key_digest(pki_folder / "release.pub")
    fleet_key = signing.key_digest(pki_folder / "fleet.pub")
    slot_image.verify_image(content, [release_key])
    names.check_device_id(device)
    with OperatorSession(pki_folder, broker) as session:
        now = int(time.time())
        order = make_order(content, device, next_number(folder, now, number), now + lifetime_s)
        wire = sign_document(order, pki_folder / "fleet.key")
        open_document(wire, fleet_key)  # the public key is what devices were provisioned with
        store_image(folder, content, release_key)
        publish(session, device, wire)
    return order


def _digest(content: bytes) -> bytes:
    """The digest over descriptor and payload that the signature block of an image holds."""
    return content[-signing.SECTOR_LEN :][_DIGEST]
