"""Provision boards: what the inventory allows, the flash files, and what the inventory learns.

A board passes through three lasting states, so a run that was cut off anywhere goes on when it is
started again with the same options:

    entered as `started`, with the serial number of its certificate   (one transaction for all)
    its flash file has its name                                       (making.py)
    `done`, with the certificate's hash and an audit line             (a transaction every second)

A board on a serial port is written and read back between the last two (ports.py).
"""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sqlalchemy.orm import Session

from signet.device import flash_file, identity, settings
from signet.device.flash_file import Template
from signet.device.provisioning import audit, making
from signet.device.provisioning.inventory import (
    DONE,
    STARTED,
    Device,
    Inventory,
    find_all,
    now,
    owner_of_key,
    owner_of_mac,
)
from signet.device.provisioning.making import Made, Task
from signet.errors import RefusedError, SignetError, listed
from signet.pki import authority

_COMMIT_S = 1.0
_FREE_MARGIN = 64 * 1024 * 1024  # for the inventory, the labels and everybody else


@dataclass(frozen=True)
class Job:
    """A board to provision. mac, port: as far as known."""

    task: Task
    mac: str | None = None
    port: str | None = None

    @property
    def id(self) -> str:
        return self.task.settings.id

    @property
    def flash(self) -> str:
        """The flash file's name as the inventory keeps it."""
        return str(self.task.output.resolve())


@dataclass
class Result:
    """What became of the boards of a run, by id; failures in the order in which they came."""

    made: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, SignetError] = field(default_factory=dict)


@dataclass(frozen=True)
class Bench:
    """What all boards of a run share."""

    template: Template
    pki_folder: Path
    inventory: Inventory


def check(template: Template, jobs: Sequence[Job]) -> None:
    """Refuse what no flash file could be made of, before the first one is."""
    for job in jobs:
        task = job.task
        try:
            settings.check_settings(task.settings)
            identity.encode_record(template.record(task.settings))
            template.check_networks(task.settings, task.networks)
            if task.credentials is not None:
                identity.check_device_credentials(
                    task.credentials.chain, task.credentials.key, job.id, template.device_ca
                )
            if task.factory_key is not None:
                identity.load_key(task.factory_key)
        except SignetError as error:
            about = f"{job.id}: " if len(jobs) > 1 else ""
            raise type(error)(f"{about}{error}", error.hint) from error


def choose(inventory: Inventory, jobs: Sequence[Job]) -> tuple[list[Job], list[str]]:
    """Hold jobs against the inventory: those to do, with their serial numbers, and ids done before.

    Raises RefusedError, naming every board, if an id, a MAC or a key belongs to another board, in
    the inventory or among the jobs: nothing has been changed by then.
    """
    todo: list[Job] = []
    done: list[str] = []
    problems: list[str] = []
    keys: dict[str, str] = {}
    with inventory.reading() as session:
        rows = find_all(session, [job.id for job in jobs])
        for job in jobs:
            row = rows.get(job.id)
            problem = _conflict(session, job, row) or _key_conflict(session, job, keys)
            if problem:
                problems.append(problem)
            elif row is not None and row.status == DONE:
                done.append(job.id)
            elif row is not None:
                todo.append(replace(job, task=replace(job.task, serial=int(row.serial, 16))))
            else:
                todo.append(job)
    if problems:
        raise RefusedError(listed(problems))
    for job in todo:
        if job.id not in rows:
            flash_file.check_free(job.task.output)
    return todo, done


def _conflict(session: Session, job: Job, row: Device | None) -> str | None:
    if row is not None and row.flash != job.flash:
        return f"{job.id}: already provisioned ({row.status}, {row.flash})"
    if row is not None and row.mac and job.mac and row.mac != job.mac:
        return f"{job.id}: already provisioned, with MAC {row.mac}, now {job.mac}"
    owner = owner_of_mac(session, job.mac) if job.mac else None
    if owner not in (None, job.id):
        return f"{job.id}: MAC {job.mac} is already provisioned, as {owner}"
    return None


def _key_conflict(session: Session, job: Job, keys: dict[str, str]) -> str | None:
    """keys: of other jobs, by hash, with their ids; this one's is added."""
    key = job.task.public_key
    if key is None:
        return None
    owner = owner_of_key(session, key) or keys.setdefault(key, job.id)
    return None if owner == job.id else _same_key(job.id, key, owner)


def _same_key(device_id: str, key: str, owner: str) -> str:
    return f"{device_id}: its private key is that of {owner} (public key's SHA-256 {key[:16]}…)"


def claim_key(session: Session, job: Job, made: Made) -> None:
    """Enter the key that was made for a board; RefusedError, and its file goes, if another has it.

    No two keys that were made are the same, unless random numbers were: those of a copied machine.
    """
    owner = owner_of_key(session, made.public_key)
    if owner is not None and owner != job.id:
        job.task.output.unlink()
        raise RefusedError(
            _same_key(job.id, made.public_key, owner),
            "was this machine, or the board's flash, copied from another?",
        )
    session.get_one(Device, job.id).public_key = made.public_key


def enter(inventory: Inventory, template: Template, jobs: Sequence[Job]) -> set[str]:
    """Enter jobs as started, before anything is signed; returns the ids that are new.

    Raises RefusedError, and none is entered, if a key belongs to another board.
    """
    with inventory.changing() as session:
        keys: dict[str, str] = {}
        problems = [_key_conflict(session, job, keys) for job in jobs]
        if any(problems):
            raise RefusedError(listed([problem for problem in problems if problem]))
        rows = find_all(session, [job.id for job in jobs])
        new = [job for job in jobs if job.id not in rows]
        for job in new:
            settings = job.task.settings
            session.add(
                Device(
                    id=job.id, status=STARTED, serial=f"{job.task.serial:040x}", mac=job.mac,
                    public_key=job.task.public_key,
                    model=settings.model, hw=settings.hw, profile=settings.profile,
                    version=template.descriptor.version, flash=job.flash, port=job.port,
                    started_at=now(),
                )
            )  # fmt: skip
        for job in jobs:
            row = rows.get(job.id)
            if row is not None:
                row.mac, row.port = job.mac or row.mac, job.port or row.port
    return {job.id for job in new}


def record_done(session: Session, job: Job, made: Made) -> None:
    """A board is done: its row and the audit line."""
    row = session.get_one(Device, job.id)
    row.status, row.certificate, row.done_at = DONE, made.certificate, now()
    audit.append(
        session, "provision", job.id, f"done: certificate {row.serial}, image {row.version}"
    )


def record_failed(session: Session, job: Job, error: SignetError, new: bool) -> None:
    """A board failed. If nothing of it exists it leaves the inventory; else it stays started."""
    if new and not job.task.output.exists():
        session.delete(session.get_one(Device, job.id))
    audit.append(session, "provision", job.id, f"failed: {error}")


def make_files(
    bench: Bench, jobs: Sequence[Job], workers: int, on_board: Callable[[str], None]
) -> Result:
    """Make the flash files of virtual boards, on `workers` cores. on_board: told of each id."""
    result = Result()
    if not jobs:
        return result
    check_space(bench.template, jobs)
    authority.load_device_ca(bench.pki_folder)
    new = enter(bench.inventory, bench.template, jobs)
    by_id = {job.id: job for job in jobs}
    tasks = [job.task for job in jobs]
    outcomes = making.make_all(bench.template, bench.pki_folder, tasks, workers)
    for portion in _by_time(outcomes):
        with bench.inventory.changing() as session:
            for task, outcome in portion:
                job = by_id[task.settings.id]
                try:
                    if isinstance(outcome, SignetError):
                        raise outcome
                    claim_key(session, job, outcome)
                    record_done(session, job, outcome)
                    result.made.append(job.id)
                except SignetError as error:
                    record_failed(session, job, error, job.id in new)
                    result.failed[job.id] = error
        for task, _ in portion:
            on_board(task.settings.id)
    return result


def _by_time(outcomes: Iterator[making.Outcome]) -> Iterator[list[making.Outcome]]:
    """Outcomes in portions of about a second: a transaction for each board would wait for disks."""
    portion: list[making.Outcome] = []
    due = time.monotonic() + _COMMIT_S
    for outcome in outcomes:
        portion.append(outcome)
        if time.monotonic() >= due:
            yield portion
            portion, due = [], time.monotonic() + _COMMIT_S
    if portion:
        yield portion


def check_space(template: Template, jobs: Sequence[Job]) -> None:
    """Raise SignetError unless the disk holds the flash files that are still to be made."""
    missing = sum(not job.task.output.exists() for job in jobs) * template.flash_len
    folder = next(path for path in jobs[0].task.output.resolve().parents if path.exists())
    free = shutil.disk_usage(folder).free
    if missing + _FREE_MARGIN > free:
        raise SignetError(
            f"{folder}: {free >> 20} MB free, {len(jobs)} boards need {missing >> 20} MB",
            "provision fewer at a time; a board that is written to its chip leaves no file",
        )
