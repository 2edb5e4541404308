"""The command `signet device provision`: it parses, chooses what is to be done, and reports.

One board or a list of them; to files, for virtual boards, or to serial ports. Stops at once, before
anything is touched, if the list is wrong, a board is in the inventory already, or keys, image or
inventory are missing. After that a board that fails does not stop the others.
"""

from pathlib import Path
from typing import Any

import click

from signet.device import flash_file
from signet.device.provisioning import batch, ports, sheets
from signet.device.provisioning.batch import Bench, Result
from signet.device.provisioning.inventory import Inventory, location
from signet.device.provisioning.progress import Progress, note
from signet.device.provisioning.request import Request
from signet.errors import EXIT_REFUSED
from signet.image import slot_image
from signet.options import FILE, INVENTORY, PKI, SOURCE
from trust.identity import PROFILES


@click.group("device")
def device_group() -> None:
    """Devices: give boards their identity and first firmware; the inventory."""


@device_group.command("provision")
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
    type=click.IntRange(flash_file.MIN_WATCHDOG_S, flash_file.MAX_WATCHDOG_S),
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
    request.check_options()
    boards = request.boards()
    if not request.many:
        flash_file.check_settings(request.settings(boards[0]))
    inventory = Inventory(location(request.inventory_url, request.pki_folder))
    template = flash_file.prepare(
        request.pki_folder, request.image_path, request.source, request.model, request.profile
    )
    bench = Bench(template, request.pki_folder, inventory)
    jobs = request.make_jobs(boards)
    batch.check(template, jobs)
    batch.choose(inventory, jobs)  # refused before a folder is made
    with request.lock():
        todo, done = batch.choose(inventory, jobs)
        result, left = _run(request, bench, todo)
        result.skipped = done
        ports.remove_written(bench, jobs)
        ids = [job.id for job in jobs]
        sheet = sheets.label_unlabelled(inventory, ids, request.output) if request.many else None
    _show(request, result, left, sheet)
    if result.failed:
        raise click.exceptions.Exit(EXIT_REFUSED)


def _run(request: Request, bench: Bench, todo: list[batch.Job]) -> tuple[Result, int]:
    """Provision what is to be done; the result, and how many boards wait for a port."""
    with Progress(len(todo)) as progress:
        if not request.on_ports(todo):
            return batch.make_files(bench, todo, request.workers, progress.step), 0
        chosen, left = ports.assign(todo, request.port_names)
        result = ports.provision_on_ports(
            bench, chosen, request.platform(),
            read_factory_key=request.factory == ports.READ_FROM_BOARD, on_board=progress.step,
        )  # fmt: skip
        return result, len(left)


def _show(request: Request, result: Result, left: int, sheet: Path | None) -> None:
    """Results to stdout, failures and what is to be done next to stderr."""
    for device_id, error in result.failed.items():
        note("error", f"{device_id}: {error}" if request.many else str(error), "red")
        if error.hint:
            note("hint", error.hint, "yellow")
    if request.many:
        click.echo(
            f"{request.output}: {len(result.made)} provisioned, {len(result.skipped)} done before, "
            f"{len(result.failed)} failed"
        )
    elif not result.failed:
        what = f"{request.device_id} ({request.model}, {request.hw}), {request.image_path.name}"
        before = ", provisioned before" if result.skipped else ""
        click.echo(f"{request.output}: {what} in slot A{before}")
    if sheet:
        click.echo(f"{sheet}: labels with the claim codes, which are nowhere else")
    if left:
        note("hint", f"{left} boards are left: put the next ones in and run this again", "yellow")
