"""Label sheets and the inventory: which boards get a label, and which codes count.

The sheet is on the disk before its codes count: a run that is cut off between the two leaves a
sheet that no device knows; the next run removes it and makes another.
"""

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from sqlalchemy import select

from signet import files
from signet.device.provisioning import audit, labels
from signet.device.provisioning.inventory import DONE, Device, Inventory, find_all
from signet.device.provisioning.labels import Label
from signet.errors import RefusedError

_PREFIX = "labels-"


def new_sheet(inventory: Inventory, device_ids: Sequence[str], path: Path, number: str) -> None:
    """Write a sheet with a new claim code for each device; the older label of each is void.

    Raises RefusedError, and nothing has changed, if a device is not done or `path` exists.
    """
    with _removed_after_failure(path), inventory.changing() as session:
        rows = find_all(session, device_ids)
        missing = [item for item in device_ids if item not in rows or rows[item].status != DONE]
        if missing:
            raise RefusedError(f"not provisioned: {', '.join(missing[:10])}")
        made = [
            Label(item, rows[item].model, rows[item].hw, labels.new_code()) for item in device_ids
        ]
        for label in made:
            row = rows[label.id]
            what = "new label, the older one is void" if row.claim else "label"
            row.claim, row.sheet = labels.claim_hash(label.id, label.code), number
            audit.append(session, "label", label.id, f"{what}: sheet {number}")
        files.write_new_secret(path, labels.make_sheet(made, number))
        files.flush_folder(path.parent)


@contextlib.contextmanager
def _removed_after_failure(path: Path) -> Iterator[None]:
    """No sheet is left whose codes do not count; one that was there before stays."""
    if path.exists():
        raise RefusedError(f"{path}: exists, and is not overwritten")
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def new_number() -> str:
    """A random number for a sheet."""
    return secrets.token_hex(4)


def sheet_path(folder: Path, number: str) -> Path:
    return folder / f"{_PREFIX}{number}.pdf"


def label_unlabelled(inventory: Inventory, device_ids: Sequence[str], folder: Path) -> Path | None:
    """A sheet in `folder` for those of the devices that are done and have no label yet."""
    _remove_void(inventory, folder)
    with inventory.reading() as session:
        rows = find_all(session, device_ids)
        missing = [
            item for item in device_ids
            if item in rows and rows[item].status == DONE and rows[item].claim is None
        ]  # fmt: skip
    if not missing:
        return None
    number = new_number()
    path = sheet_path(folder, number)
    new_sheet(inventory, missing, path, number)
    return path


def _remove_void(inventory: Inventory, folder: Path) -> None:
    """Remove sheets of a run that was cut off before their codes counted."""
    with inventory.reading() as session:
        known = set(session.scalars(select(Device.sheet).distinct()))
    for path in folder.glob(f"{_PREFIX}????????.pdf"):
        if path.stem.removeprefix(_PREFIX) not in known:
            path.unlink()
