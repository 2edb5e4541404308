"""Provision real boards, one on each serial port, all ports at once.

For each board, in this order: what chip it is and what its flash holds; the inventory; its flash
file; written, read back; done; the flash file removed, because the private key is to be on the
board alone. Until then that file is what a run that was cut off goes on with, so a board that
was half written gets the same identity again.
"""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from signet import files
from signet.device.provisioning import batch, making
from signet.device.provisioning.batch import Bench, Job, Result
from signet.device.provisioning.inventory import DONE, Device
from signet.device.provisioning.serial_port import Port
from signet.errors import RefusedError, SignetError, refusals_about
from signet.formats import flash, secure_cert
from signet.pki import authority
from trust.identity import RECORD

Platform = Callable[[Path], bytes]  # the whole flash of a real board, from a device's flash file
READ_FROM_BOARD = Path("read")  # --esp-secure-cert read
_IDENTITY = "esp_secure_cert"


def assign(jobs: Sequence[Job], ports: Sequence[str]) -> tuple[list[Job], list[Job]]:
    """The next job for each port, and those that are left for other runs.

    A job that names its port waits for that one; the others take what is free.
    """
    names = list(dict.fromkeys([*ports, *(job.port for job in jobs if job.port)]))
    taken: dict[str, Job] = {}
    for job in jobs:
        if job.port:
            taken.setdefault(job.port, job)
    free = [name for name in names if name not in taken]
    for job in jobs:
        if not job.port and free:
            name = free.pop(0)
            taken[name] = replace(job, port=name)
    chosen = {job.id for job in taken.values()}
    return list(taken.values()), [job for job in jobs if job.id not in chosen]


def provision_on_ports(
    bench: Bench,
    jobs: Sequence[Job],
    platform: Platform,
    *,
    read_factory_key: bool = False,
    on_board: Callable[[str], None],
) -> Result:
    """Provision a job on each port; a board that fails does not stop the others."""
    result = Result()
    if not jobs:
        return result
    authority.load_device_ca(bench.pki_folder)
    batch.check_space(bench.template, jobs)
    work = functools.partial(_try_one, bench, platform, read_factory_key)
    with ThreadPoolExecutor(len(jobs)) as pool:
        for job, error in zip(jobs, pool.map(work, jobs), strict=True):
            if error is None:
                result.made.append(job.id)
            else:
                result.failed[job.id] = error
            on_board(job.id)
    return result


def _try_one(bench: Bench, platform: Platform, read_key: bool, job: Job) -> SignetError | None:
    """Provision one board; what went wrong before it was entered has changed nothing."""
    new: bool | None = None
    try:
        port = Port(job.port or "")
        chip = port.identify(bench.template.flash_len)
        if job.mac and job.mac != chip.mac:
            raise RefusedError(f"{port.name}: board {chip.mac}, the list says {job.mac}")
        job = replace(job, mac=chip.mac)
        job = _look_at_board(job, port.identity(), read_key)
        (job,), _ = batch.choose(bench.inventory, [job])  # its MAC, which nobody knew before
        new = bool(batch.enter(bench.inventory, bench.template, [job]))
        made = making.make(bench.template, bench.pki_folder, job.task)
        with bench.inventory.changing() as session:
            batch.claim_key(session, job, made)
        _write(bench, port, platform, job)
        with bench.inventory.changing() as session:
            batch.record_done(session, job, made)
        job.task.output.unlink()
    except SignetError as error:
        if new is not None:
            with bench.inventory.changing() as session:
                batch.record_failed(session, job, error, new)
        return error
    return None


def _look_at_board(job: Job, content: bytes, read_key: bool) -> Job:
    """Refuse a board that has an identity, but the one that a run before began to write."""
    begun = job.task.output.exists()
    if begun and flash.Flash.load(job.task.output).read(_IDENTITY) == content:
        return job
    with refusals_about(Path(job.port or "")):
        try:
            entries = secure_cert.unpack(content)
        except RefusedError:
            if begun:  # half written
                return job
            raise
        record = secure_cert.find(entries, RECORD)
        if record is not None:
            raise RefusedError(f"already provisioned: its record is {record.data[:160]!r}")
        if read_key:
            key = secure_cert.factory_key(content)
            return replace(job, task=replace(job.task, factory_key=key))
        if entries:
            raise RefusedError(
                "holds an identity from the factory",
                "--esp-secure-cert read keeps its key, and makes a certificate for it",
            )
    return job


def _write(bench: Bench, port: Port, platform: Platform, job: Job) -> None:
    partition = next(row for row in bench.template.layout if row.label == _IDENTITY)
    image = job.task.output.with_name(f".{job.task.output.name}.board")  # a leftover of making's
    content = platform(job.task.output)
    try:
        image.unlink(missing_ok=True)
        files.create_exclusive(image, content, files.SECRET_MODE)
        port.write(image, partition)
    finally:
        image.unlink(missing_ok=True)


def remove_written(bench: Bench, jobs: Sequence[Job]) -> None:
    """Remove flash files of boards that are done: a run was cut off just before it could."""
    with bench.inventory.reading() as session:
        for job in jobs:
            row = session.get(Device, job.id)
            if row is not None and row.status == DONE and row.port:
                job.task.output.unlink(missing_ok=True)
                files.remove_leftovers(job.task.output)
