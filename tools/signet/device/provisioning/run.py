"""Provision what was asked for: one board or a list of them, to files or to serial ports.

Stops at once, before anything is touched, if the list is wrong, a board is in the inventory
already, or keys, image or inventory are missing. After that a board that fails does not stop the
others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from signet.device import flash_file
from signet.device.provisioning import batch, ports, sheets
from signet.device.provisioning.batch import Bench, Job, Result
from signet.device.provisioning.inventory import Inventory, location
from signet.device.provisioning.progress import Progress
from signet.device.provisioning.request import Request
from signet.device.settings import check_settings


@dataclass(frozen=True)
class Outcome:
    """What became of the boards; how many wait for a port; the sheet of labels, if one was made."""

    result: Result
    left: int
    sheet: Path | None


def provision_boards(request: Request) -> Outcome:
    """Provision the boards of a request; what was done before is skipped."""
    boards = request.boards()
    if not request.many:
        check_settings(request.settings(boards[0]))
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
        result, left = _provision(request, bench, todo)
        result.skipped = done
        ports.remove_written(bench, jobs)
        ids = [job.id for job in jobs]
        sheet = sheets.label_unlabelled(inventory, ids, request.output) if request.many else None
    return Outcome(result, left, sheet)


def _provision(request: Request, bench: Bench, todo: Sequence[Job]) -> tuple[Result, int]:
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
