"""Make flash files, on all cores: the part of provisioning that needs no inventory and no board.

A task is done again as often as one likes and gives the same device: a flash file that is there
already, with the certificate that was meant, is checked to the last byte and kept.
"""

import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from signet import files
from signet.device import flash_file, identity
from signet.device.flash_file import Credentials, Template
from signet.device.networks import Networks
from signet.device.settings import Settings
from signet.errors import RefusedError, SignetError
from signet.formats import flash
from signet.pki import authority
from trust import TrustError
from trust.identity import Identity

_AHEAD = 4  # tasks that wait for a worker, for each


class Made(NamedTuple):
    """What the inventory learns of a certificate: its SHA-256, and that of its public key."""

    certificate: str
    public_key: str


@dataclass(frozen=True)
class Task:
    """One flash file to make. serial: of the certificate to be issued.

    credentials: made elsewhere, nothing is issued then. factory_key: the key that the module
    holds, as it is stored there; a certificate for it is issued.
    """

    settings: Settings
    output: Path
    serial: int
    networks: Networks = Networks()  # noqa: RUF009 (frozen)
    credentials: Credentials | None = field(default=None, repr=False)
    factory_key: bytes | None = field(default=None, repr=False)

    @property
    def public_key(self) -> str | None:
        """The hash of its key, if that was not made here and is known before."""
        if self.factory_key is not None:
            return identity.key_hash(identity.load_key(self.factory_key).public_key())
        if self.credentials is not None:
            return fingerprint(self.credentials.chain).public_key
        return None


def make(template: Template, pki_folder: Path, task: Task) -> Made:
    """Make the flash file of a device, mode 0600, or keep it.

    The file is on the disk, with its name, when this returns.
    """
    folder = task.output.parent
    try:
        if not folder.exists():
            folder.mkdir(files.SECRET_FOLDER_MODE)
            files.flush_folder(folder.parent)
        files.remove_leftovers(task.output)
        if task.output.exists() or task.output.is_symlink():
            return _keep(template, task)
        credentials = _credentials(pki_folder, task)
        chip = flash_file.build_flash(template, task.settings, credentials, task.networks)
        chip.save_new(task.output)
        files.flush_folder(task.output.parent)
    except OSError as error:
        raise SignetError(f"{task.output}: cannot write: {error.strerror}") from error
    return fingerprint(credentials.chain)


def _credentials(pki_folder: Path, task: Task) -> Credentials:
    if task.credentials is not None:
        return task.credentials
    if task.factory_key is None:
        return Credentials(*authority.issue_device(pki_folder, task.settings.id, task.serial))
    public_key = identity.load_key(task.factory_key).public_key()
    chain = authority.certify_device(pki_folder, task.settings.id, public_key, task.serial)
    return Credentials(chain, task.factory_key, kept=True)


def _keep(template: Template, task: Task) -> Made:
    """Check a flash file from a run that was cut off; RefusedError unless it is the one meant."""
    found = flash.Flash.load(task.output)
    reader = Identity(found.device("esp_secure_cert"))
    try:
        chain = reader.certificate
        certificate = identity.check_device_credentials(
            chain, reader.key, task.settings.id, template.device_ca
        )
        same = certificate.serial_number == task.serial
        stored = reader.entry(2)
    except TrustError as error:
        raise _not_ours(task) from error
    if same:
        credentials = Credentials(chain, stored, kept=True)
        expected = flash_file.build_flash(template, task.settings, credentials, task.networks)
        same = found.content == expected.content
    if not same or (task.factory_key is not None and stored != task.factory_key):
        raise _not_ours(task)
    files.flush_folder(task.output.parent)
    return fingerprint(chain)


def _not_ours(task: Task) -> RefusedError:
    return RefusedError(
        f"{task.output}: exists, and is not what these options make of {task.settings.id}",
        "go on with the image and options that the run was started with, or move it away",
    )


def fingerprint(chain: bytes) -> Made:
    """What the first certificate of a PEM chain is known by."""
    certificate = x509.load_pem_x509_certificates(chain)[0]
    digest = certificate.fingerprint(hashes.SHA256()).hex()
    return Made(digest, identity.public_key_hash(certificate))


Outcome = tuple[Task, Made | SignetError]


def make_all(
    template: Template, pki_folder: Path, tasks: Sequence[Task], workers: int
) -> Iterator[Outcome]:
    """Make every task's file; yields each with its fingerprint, or why it failed, as it ends.

    When the caller stops (Ctrl-C too), what runs is finished and yielded no more.
    """
    if min(workers, len(tasks)) <= 1:
        for task in tasks:
            yield task, _try_make(template, pki_folder, task)
        return
    # Spawned, not forked: the parent has threads (progress, database).
    context = multiprocessing.get_context("spawn")
    count = min(workers, len(tasks))
    with ProcessPoolExecutor(count, context, _start, (template, pki_folder)) as pool:
        waiting = iter(tasks)
        running: dict[Future[Made | SignetError], Task] = {}
        try:
            while True:
                for task in itertools.islice(waiting, count * _AHEAD - len(running)):
                    running[pool.submit(_work, task)] = task
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool as error:
            raise SignetError("a worker process was killed", "out of memory? --jobs 1") from error
        finally:
            for future in running:
                future.cancel()


_common: list[tuple[Template, Path]] = []  # of a worker process


def _start(template: Template, pki_folder: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    _common.append((template, pki_folder))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed cannot say so: a worker would wait for its next task forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _work(task: Task) -> Made | SignetError:
    return _try_make(*_common[0], task)


def _try_make(template: Template, pki_folder: Path, task: Task) -> Made | SignetError:
    try:
        return make(template, pki_folder, task)
    except SignetError as error:
        return error
