"""The commands `signet release`: orders to install, and tokens for a console."""

from pathlib import Path

import click

from signet import files
from signet.errors import refusals_about
from signet.fleet.folder import running_address
from signet.formats.documents import MAX_LIFETIME_S, MAX_NUMBER, utc
from signet.options import FILE, FOLDER, PKI, echo, echo_json
from signet.pki import names
from signet.release import console, publishing

_FLEET = click.option(
    "--fleet", "folder", type=FOLDER, required=True, help="Folder of `fleet serve`."
)
_BROKER = click.option(
    "--broker",
    metavar="HOST:PORT",
    help="Where it takes operators. Default: of the one that serves the folder.",
)
_DEVICE = click.option("--device", required=True, help="Device id.")


@click.group("release")
def group() -> None:
    """Releases: signed images, and orders to install them."""


@group.command("publish")
@PKI
@_FLEET
@_BROKER
@_DEVICE
@click.option("--image", "image_path", type=FILE, required=True, help="Signed slot image.")
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
    broker = broker or running_address(folder, "operators")
    content = files.read_file(image_path, "image")
    with refusals_about(image_path):
        order = publishing.release(pki_folder, folder, broker, device, content, expires_in, number)
    if as_json:
        echo_json(order)
        return
    echo(
        f"order {order['number']}: {device} installs {order['version']} for {order['model']}, "
        f"counter {order['counter']}, {order['size']} bytes; "
        f"valid until {utc(order['expires'])}"
    )


@group.command("console")
@PKI
@_FLEET
@_BROKER
@_DEVICE
@click.option("--token", "path", type=FILE, required=True, help="File of `device token`.")
def release_console(
    pki_folder: Path, folder: Path, broker: str | None, device: str, path: Path
) -> None:
    """Send a device the token that opens its console.

    The device reports it, restarts into the REPL, and the next reset shuts the console again. What
    it said is in its events: "console opens", or why not.
    """
    names.check_device_id(device)  # or '+' and '/' would reach other topics
    broker = broker or running_address(folder, "operators")
    with refusals_about(path):
        token = console.send(pki_folder, broker, device, files.read_file(path, "token"))
    echo(f"console of {device}: token {token['number']} sent, valid until {utc(token['expires'])}")
