"""Releases: put a signed image on the image server and order a device to install it.

An order is JSON, padded with 0xFF to 4096 and signed with the fleet key as images are. On MQTT the
padding and the rest of the signature sector are left out: JSON, then the signature block (1216
bytes). Order numbers are Unix seconds and grow strictly; the last one is kept in the fleet folder.
"""

import fcntl
import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from signet import files
from signet.errors import RefusedError, SignetError
from signet.fleet import servers, serving
from signet.fleet.session import OperatorSession
from signet.formats import signing
from signet.image import slot_image
from signet.image.commands import EXIT_CODES
from signet.pki import authority
from trust.image import BLOCK_LEN, Descriptor

MAX_ORDER_LEN = 1024  # bytes of JSON
MAX_LIFETIME_S = 30 * 86400  # devices refuse what is valid for longer
MAX_NUMBER = 0xFFFF_FFFF

_DIGEST = slice(4, 36)  # of a signature block: SHA-256 over descriptor and payload

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)

Order = dict[str, Any]


def make_order(content: bytes, device: str, number: int, expires: int) -> Order:
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
        if not re.fullmatch(servers.SEGMENT, text):
            raise RefusedError(f"{name} {text!r}, expected the form {servers.SEGMENT}")
    return Path(descriptor.model, f"{descriptor.version}.img")


def sign_order(order: Order, key: Path) -> bytes:
    """Sign an order with the fleet key; returns it as it is sent: JSON and signature block.

    key: path of the private key, PEM. The result has been verified, as a device does.
    """
    text = json.dumps(order, separators=(",", ":")).encode()
    if len(text) > MAX_ORDER_LEN:
        raise RefusedError(f"order of {len(text)} bytes, at most {MAX_ORDER_LEN}")
    sector = signing.sign_bytes(text, key)[-signing.SECTOR_LEN :]
    wire = text + sector[: signing.BLOCK_LEN]
    if open_order(wire, signing.key_digest(key)) != order:
        raise RefusedError("the signed order reads back as another one")
    return wire


def open_order(wire: bytes, key_digest: bytes) -> Order:
    """The order in a message, verified; RefusedError if that key did not sign it."""
    text, block = wire[: -signing.BLOCK_LEN], wire[-signing.BLOCK_LEN :]
    signing.verify_bytes(signing.pad(text) + signing.pad(block), [key_digest])
    order: Order = json.loads(text)
    return order


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
        files.replace_file(record, f"{number}\n".encode())
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
    files.replace_file(path, content)
    return path


def publish(session: OperatorSession, device: str, wire: bytes) -> str:
    """Send a signed order to a device; returns the topic once the broker has queued it.

    Raises RefusedError if the device has never subscribed, see `OperatorSession.publish`.
    """
    authority.check_device_id(device)  # or '+' and '/' would reach other topics
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
) -> Order:
    """Verify an image, sign an order for it, serve the image, publish the order; returns the order.

    folder: the fleet's. broker: "host:port". content: a signed image. lifetime_s: how long the
    order may be accepted. Nothing is written before image, device id and broker have been checked.
    """
    release_key = signing.key_digest(pki_folder / "release.pub")
    fleet_key = signing.key_digest(pki_folder / "fleet.pub")
    slot_image.verify_image(content, [release_key])
    authority.check_device_id(device)
    with OperatorSession(pki_folder, broker) as session:
        now = int(time.time())
        order = make_order(content, device, next_number(folder, now, number), now + lifetime_s)
        wire = sign_order(order, pki_folder / "fleet.key")
        open_order(wire, fleet_key)  # the public key is what devices were provisioned with
        store_image(folder, content, release_key)
        publish(session, device, wire)
    return order


def _digest(content: bytes) -> bytes:
    """The digest over descriptor and payload that the signature block of an image holds."""
    return content[-signing.SECTOR_LEN :][_DIGEST]


@click.group("release", epilog=EXIT_CODES)
def group() -> None:
    """Releases: signed images, and orders to install them."""


@group.command("publish", epilog=EXIT_CODES)
@click.option("--pki", "pki_folder", type=_FOLDER, required=True, help="Folder of `pki init`.")
@click.option("--fleet", "folder", type=_FOLDER, required=True, help="Folder of `fleet serve`.")
@click.option("--broker", metavar="HOST:PORT", help="Default: the one that serves the folder.")
@click.option("--device", required=True, help="Device id.")
@click.option("--image", "image_path", type=_FILE, required=True, help="Signed slot image.")
@click.option("--expires-in", type=click.IntRange(1, MAX_LIFETIME_S), default=3600,
              show_default=True, help="Seconds for which the order is valid.")  # fmt: skip
@click.option("--number", type=click.IntRange(1, MAX_NUMBER),
              help="Order number, above the last one. Default: now, in Unix seconds.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the order as JSON.")
def release_publish(
    pki_folder: Path,
    folder: Path,
    broker: str | None,
    device: str,
    image_path: Path,
    expires_in: int,
    number: int | None,
    as_json: bool,
) -> None:
    """Serve an image and order one device to install it.

    The broker keeps the order for a device that is away. A device that has never connected to this
    broker cannot be sent one.
    """
    broker = broker or serving.running_address(folder, "broker")
    content = files.read_file(image_path, "image")
    try:
        order = release(pki_folder, folder, broker, device, content, expires_in, number)
    except RefusedError as error:
        raise RefusedError(f"{image_path}: {error}", error.hint) from error
    if as_json:
        click.echo(json.dumps(order))
        return
    expires = datetime.fromtimestamp(order["expires"], UTC)
    click.echo(
        f"order {order['number']}: {device} installs {order['version']} for {order['model']}, "
        f"counter {order['counter']}, {order['size']} bytes; "
        f"valid until {expires:%Y-%m-%d %H:%M:%S} UTC"
    )
