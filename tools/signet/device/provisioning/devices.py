"""The commands `signet device list`, `show`, `label`, `remove` and `audit`: over the inventory."""

import json
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from sqlalchemy import select

from signet.device.provisioning import audit, sheets
from signet.device.provisioning.audit import AuditLine
from signet.device.provisioning.inventory import Device, Inventory, find, location
from signet.errors import RefusedError
from signet.options import FILE, INVENTORY, JSON, PKI

_DEVICE = click.argument("device_id", metavar="ID")


@click.command("list")
@PKI
@INVENTORY
@JSON
def list_devices(pki_folder: Path, inventory_url: str | None, as_json: bool) -> None:
    """List the devices in the inventory."""
    with Inventory(location(inventory_url, pki_folder)).reading() as session:
        rows = [_facts(row) for row in session.scalars(select(Device).order_by(Device.id))]
    if as_json:
        click.echo(json.dumps(rows))
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("id", "status", "model", "hw", "version", "mac"):
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(*(row[name] or "–" for name in table_names(table)))
    Console(highlight=False).print(table)


def table_names(table: Table) -> list[str]:
    """The headers of a table."""
    return [str(column.header) for column in table.columns]


@click.command("show")
@_DEVICE
@PKI
@INVENTORY
@JSON
def show(device_id: str, pki_folder: Path, inventory_url: str | None, as_json: bool) -> None:
    """Show what the inventory knows of a device, and its audit lines."""
    with Inventory(location(inventory_url, pki_folder)).reading() as session:
        facts = _facts(find(session, device_id))
        lines = session.scalars(select(AuditLine).where(AuditLine.device == device_id))
        history = [_line(line) for line in lines]
    if as_json:
        click.echo(json.dumps(facts | {"audit": history}))
        return
    for name, value in facts.items():
        click.echo(f"{name:<12} {'–' if value is None else value}")
    for entry in history:
        click.echo(f"{'audit':<12} {entry['time'][:19]}  {entry['who']}  {entry['what']}")
        click.echo(f"{'':<12} {entry['result']}")


@click.command("label")
@click.argument("device_ids", metavar="ID...", nargs=-1, required=True)
@PKI
@INVENTORY
@click.option("-o", "--output", type=FILE, required=True, help="The PDF.")
def label(
    device_ids: tuple[str, ...], pki_folder: Path, inventory_url: str | None, output: Path
) -> None:
    """Make labels with new claim codes; the older label of each device is void."""
    ids = list(dict.fromkeys(device_ids))
    sheets.new_sheet(
        Inventory(location(inventory_url, pki_folder)), ids, output, sheets.new_number()
    )
    click.echo(f"{output}: {len(ids)} labels with the claim codes, which are nowhere else")


@click.command("remove")
@_DEVICE
@PKI
@INVENTORY
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(device_id: str, pki_folder: Path, inventory_url: str | None, yes: bool) -> None:
    """Take a device out of the inventory, so that its id and MAC can be provisioned again.

    For a board that is broken or was erased. Its certificate stays valid: the audit line has its
    number.
    """
    inventory = Inventory(location(inventory_url, pki_folder))
    with inventory.reading() as session:
        serial = find(session, device_id).serial
    if not yes:
        click.echo(f"{device_id}, certificate {serial}, leaves the inventory.", err=True)
        if click.prompt(f"Type {device_id} to go on", err=True) != device_id:
            raise RefusedError("not confirmed: nothing has changed")
    with inventory.changing() as session:
        session.delete(find(session, device_id))
        audit.append(session, "remove", device_id, f"removed: certificate {serial}")
    click.echo(f"{device_id}: removed; its certificate {serial} is still valid")


@click.command("audit")
@PKI
@INVENTORY
@JSON
def show_audit(pki_folder: Path, inventory_url: str | None, as_json: bool) -> None:
    """Verify the chain of audit lines and print it, with the digest of the last to be kept."""
    with Inventory(location(inventory_url, pki_folder)).reading() as session:
        lines = [_line(line) for line in audit.verify(session)]
    if as_json:
        click.echo(json.dumps(lines))
        return
    for line in lines:
        click.echo(f"{line['number']:>6}  {line['time'][:19]}  {line['who']}  {line['what']} "
                   f"{line['device']}\n        {line['result']}")  # fmt: skip
    last = lines[-1]["digest"] if lines else audit.START
    click.echo(f"{len(lines)} lines, chain whole, last digest {last[:16]}")


def _facts(row: Device) -> dict[str, Any]:
    return {column.name: getattr(row, column.name) for column in Device.__table__.columns}


def _line(line: AuditLine) -> dict[str, Any]:
    return {column.name: getattr(line, column.name) for column in AuditLine.__table__.columns}


COMMANDS = (list_devices, show, label, remove, show_audit)
