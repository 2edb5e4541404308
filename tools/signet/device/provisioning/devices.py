"""What the inventory says: devices and audit lines as plain facts; and how a device leaves it."""

from typing import Any

from sqlalchemy import select

from signet.device.provisioning import audit
from signet.device.provisioning.audit import AuditLine
from signet.device.provisioning.inventory import Device, Inventory, find

Facts = dict[str, Any]  # by column of the table


def list_devices(inventory: Inventory) -> list[Facts]:
    """All devices, by id."""
    with inventory.reading() as session:
        return [_facts(row) for row in session.scalars(select(Device).order_by(Device.id))]


def describe(inventory: Inventory, device_id: str) -> tuple[Facts, list[Facts]]:
    """A device and its audit lines; RefusedError if there is no such device."""
    with inventory.reading() as session:
        lines = session.scalars(select(AuditLine).where(AuditLine.device == device_id))
        return _facts(find(session, device_id)), [_facts(line) for line in lines]


def remove(inventory: Inventory, device_id: str) -> None:
    """Take a device out of the inventory; its certificate stays valid."""
    with inventory.changing() as session:
        device = find(session, device_id)
        session.delete(device)
        audit.append(session, "remove", device_id, f"removed: certificate {device.serial}")


def audit_lines(inventory: Inventory) -> list[Facts]:
    """All audit lines; RefusedError if their chain is not whole."""
    with inventory.reading() as session:
        return [_facts(line) for line in audit.verify(session)]


def _facts(row: Device | AuditLine) -> Facts:
    return {column.name: getattr(row, column.name) for column in row.__table__.columns}
