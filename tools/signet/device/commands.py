"""The commands `signet device`, but for `burn`, whose are in sealing/commands.py."""

import time
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from signet import files
from signet.device import service_token, settings
from signet.device.provisioning import audit, devices, ports, sheets
from signet.device.provisioning.inventory import Inventory, location
from signet.device.provisioning.request import Request
from signet.device.provisioning.run import Outcome, provision_boards
from signet.device.sealing.commands import burn
from signet.errors import EXIT_REFUSED, RefusedError
from signet.formats import signing
from signet.formats.documents import MAX_LIFETIME_S, sign_document, utc
from signet.image import slot_image
from signet.image.budget import MOST_RESERVE_KB
from signet.options import FILE, INVENTORY, JSON, PKI, SOURCE, echo, echo_json, note, printable
from trust.identity import PROFILES

_DEVICE = click.argument("device_id", metavar="ID")
_LISTED = ("id", "status", "model", "hw", "version", "mac")


@click.group("device")
def group() -> None:
    """Devices: give boards their identity and first firmware; the inventory."""


group.add_command(burn)


@group.command("provision")
@PKI
@click.option("--id", "device_id", help="Device id: a-z, 0-9 and '-'.")
@click.option("--csv", "csv_path", type=FILE, help="Many boards: id,mac,port,hw,wifi_ssid,…")
@click.option("--model", required=True, help="Device model; the image must be for it.")
@click.option("--hw", help="Hardware revision; not needed if the CSV has it.")
@click.option("--broker", required=True, metavar="HOST:PORT", help="MQTT broker.")
@click.option("--images", required=True, metavar="HOST:PORT", help="Image server.")
@click.option("--ntp", required=True, metavar="HOST:PORT", help="Time server.")
@click.option(
    "--watchdog-s",
    type=click.IntRange(settings.MIN_WATCHDOG_S, settings.MAX_WATCHDOG_S),
    default=30,
    show_default=True,
    help="Seconds after which a hanging device restarts.",
)
@click.option(
    "--profile",
    type=click.Choice(PROFILES),
    default=slot_image.DEFAULT_PROFILE,
    show_default=True,
    help="Lowest profile of image that the board runs.",
)
@click.option(
    "--heap-kb",
    type=click.IntRange(0, MOST_RESERVE_KB),
    help="Heap that the board reserves before it joins a network; an image may ask for more.",
)
@click.option("--image", "image_path", type=FILE, required=True, help="Signed slot image.")
@click.option("--cert", type=FILE, help="The device's own certificate chain, instead of a new one.")
@click.option("--key", type=FILE, help="The private key of --cert.")
@click.option(
    "--esp-secure-cert",
    "factory",
    type=FILE,
    metavar="DUMP|read",
    help="Keep the key of a module that Espressif provisioned; `read`: from the board.",
)
@click.option("--wifi-ssid", help="Wi-Fi network to join.")
@click.option("--wifi-key", type=FILE, help="File with its passphrase; without, an open network.")
@click.option(
    "--networks", "networks_path", type=FILE,
    help="File with Ethernet, several Wi-Fi networks, static addresses; see docs/provisioning.md.",
)  # fmt: skip
@click.option("--mac", help="The board's MAC address.")
@click.option("--port", "port_names", multiple=True, help="Serial port; may be repeated.")
@click.option("--micropython", type=FILE, help="MicroPython image, for --port.")
@click.option("--jobs", type=click.IntRange(1), help="Processes. Default: one for each core.")
@INVENTORY
@SOURCE
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True,
    help="The flash file; with --csv the folder for <id>/flash.bin.",
)  # fmt: skip
def device_provision(**options: Any) -> None:
    """Provision boards: identity, stage 1, a signed image in slot A, an inventory entry.

    One board (--id) to a flash file, or a list (--csv) to a folder with a flash file each and a
    sheet of labels. With --port the boards are on serial ports: they are checked, written and read
    back, and no flash file stays. Run it again, as it is, after whatever has cut it off.
    """
    request = Request(**options)
    _check_options(request)
    outcome = provision_boards(request)
    _show(request, outcome)
    if outcome.result.failed:
        raise click.exceptions.Exit(EXIT_REFUSED)


def _check_options(request: Request) -> None:
    """Raise UsageError for options that do not go together."""
    problems = {
        "one of --id and --csv is needed": (request.device_id is None) != request.many,
        "--cert and --key go together": (request.cert is None) != (request.key is None),
        "--wifi-key needs --wifi-ssid": bool(request.wifi_key) and request.wifi_ssid is None,
        "--networks and --wifi-ssid exclude each other":
            bool(request.networks_path) and request.wifi_ssid is not None,
        "--esp-secure-cert and --cert exclude each other": bool(request.factory and request.cert),
        "--cert and --mac are for one board": request.many and bool(request.cert or request.mac),
        "--esp-secure-cert DUMP is for one board: the CSV has a column `factory`":
            request.many and request.factory not in (None, ports.READ_FROM_BOARD),
        "--hw is needed": request.hw is None and not request.many,
        "one board needs one --port": not request.many and len(request.port_names) > 1,
    }  # fmt: skip
    for message, found in problems.items():
        if found:
            raise click.UsageError(message, click.get_current_context(silent=True))


def _show(request: Request, outcome: Outcome) -> None:
    """Results to stdout, failures and what is to be done next to stderr."""
    result = outcome.result
    for device_id, error in result.failed.items():
        note("error", f"{device_id}: {error}" if request.many else str(error), "red")
        if error.hint:
            note("hint", error.hint, "yellow")
    if request.many:
        echo(
            f"{request.output}: {len(result.made)} provisioned, {len(result.skipped)} done before, "
            f"{len(result.failed)} failed"
        )
    elif not result.failed:
        what = f"{request.device_id} ({request.model}, {request.hw}), {request.image_path.name}"
        before = ", provisioned before" if result.skipped else ""
        echo(f"{request.output}: {what} in slot A{before}")
    if outcome.sheet:
        echo(f"{outcome.sheet}: labels with the claim codes, which are nowhere else")
    if outcome.left:
        text = f"{outcome.left} boards are left: put the next ones in and run this again"
        note("hint", text, "yellow")


@group.command("list")
@PKI
@INVENTORY
@JSON
def device_list(pki_folder: Path, inventory_url: str | None, as_json: bool) -> None:
    """List the devices in the inventory."""
    rows = devices.list_devices(Inventory(location(inventory_url, pki_folder)))
    if as_json:
        echo_json(rows)
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in _LISTED:
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(row[name] or "–")) for name in _LISTED))
    Console(highlight=False).print(table)


@group.command("show")
@_DEVICE
@PKI
@INVENTORY
@JSON
def device_show(device_id: str, pki_folder: Path, inventory_url: str | None, as_json: bool) -> None:
    """Show what the inventory knows of a device, and its audit lines."""
    facts, history = devices.describe(Inventory(location(inventory_url, pki_folder)), device_id)
    if as_json:
        echo_json(facts | {"audit": history})
        return
    for name, value in facts.items():
        echo(f"{name:<12} {'–' if value is None else value}")
    for entry in history:
        echo(f"{'audit':<12} {entry['time'][:19]}  {entry['who']}  {entry['what']}")
        echo(f"{'':<12} {entry['result']}")


@group.command("label")
@click.argument("device_ids", metavar="ID...", nargs=-1, required=True)
@PKI
@INVENTORY
@click.option("-o", "--output", type=FILE, required=True, help="The PDF.")
def device_label(
    device_ids: tuple[str, ...], pki_folder: Path, inventory_url: str | None, output: Path
) -> None:
    """Make labels with new claim codes; the older label of each device is void."""
    ids = list(dict.fromkeys(device_ids))
    sheets.new_sheet(
        Inventory(location(inventory_url, pki_folder)), ids, output, sheets.new_number()
    )
    echo(f"{output}: {len(ids)} labels with the claim codes, which are nowhere else")


@group.command("remove")
@_DEVICE
@PKI
@INVENTORY
@click.option("--yes", is_flag=True, help="Do not ask.")
def device_remove(device_id: str, pki_folder: Path, inventory_url: str | None, yes: bool) -> None:
    """Take a device out of the inventory, so that its id and MAC can be provisioned again.

    For a board that is broken or was erased. Its certificate stays valid: the audit line has its
    number.
    """
    inventory = Inventory(location(inventory_url, pki_folder))
    serial = devices.describe(inventory, device_id)[0]["serial"]
    if not yes:
        echo(f"{device_id}, certificate {serial}, leaves the inventory.", err=True)
        if click.prompt(f"Type {device_id} to go on", err=True) != device_id:
            raise RefusedError("not confirmed: nothing has changed")
    devices.remove(inventory, device_id)
    echo(f"{device_id}: removed; its certificate {serial} is still valid")


@group.command("audit")
@PKI
@INVENTORY
@JSON
def device_audit(pki_folder: Path, inventory_url: str | None, as_json: bool) -> None:
    """Verify the chain of audit lines and print it, with the digest of the last to be kept."""
    lines = devices.audit_lines(Inventory(location(inventory_url, pki_folder)))
    if as_json:
        echo_json(lines)
        return
    for line in lines:
        echo(
            f"{line['number']:>6}  {line['time'][:19]}  {line['who']}  {line['what']} "
            f"{line['device']}"
        )
        echo(f"        {line['result']}")
    last = lines[-1]["digest"] if lines else audit.START
    echo(f"{len(lines)} lines, chain whole, last digest {last[:16]}")


@group.command("token")
@click.option("--key", type=FILE, required=True, help="Release key, PEM (RSA-3072).")
@click.option("--device", required=True, help="Device id.")
@click.option("--valid", type=click.IntRange(1, MAX_LIFETIME_S), default=3600, show_default=True,
              help="Seconds for which the device may take it.")  # fmt: skip
@click.option("-o", "--output", type=FILE, required=True, help="The token; mode 0600.")
def device_token(key: Path, device: str, valid: int, output: Path) -> None:
    """Sign a token that opens one device's console, once and until its next reset.

    It is made where the release key is, and sent with "release console". A device takes no token
    that is older than the last order or token that it accepted.
    """
    now = int(time.time())
    wire = sign_document(service_token.make_token(device, now, now + valid), key)
    service_token.open_token(wire, signing.key_digest(key))
    files.write_new_secret(output, wire)  # and reads it back
    echo(f"{output}: console of {device}, number {now}, valid until {utc(now + valid)}")
