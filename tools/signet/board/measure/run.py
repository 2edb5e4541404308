"""What a drive of a board needs: a copy of its flash, a board that runs on it, servers.

The board is an emulated chip or a virtual board. Its servers live as long as the run, in a folder
of their own, at the addresses that its identity names.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from signet import files, locks
from signet.board import emulator, real_flash
from signet.board.emulated import EmulatedBoard
from signet.board.measure.drive import Board, Drive, Plan, Report
from signet.board.measure.figures import Run
from signet.board.virtual.board import VirtualBoard
from signet.errors import RefusedError, SignetError, refusals_about
from signet.fleet.serving import LOOPBACK, Fleet
from signet.fleet.session import split_address
from signet.formats import signing
from signet.formats.flash import Flash
from signet.image import slot_image
from trust.identity import Identity

_SERVERS = ("broker", "images", "ntp")


def measure(path: Path, plan: Plan, work: Path) -> Run:
    """Drive the board whose flash is the file `path`, or the virtual board in the folder `path`.

    work: an empty folder for copy, console and servers' files. A step that does not hold ends the
    run, which says so; SignetError if it cannot begin.
    """
    virtual = path.is_dir()
    flash = path / "flash.bin" if virtual else path
    chip = Flash.load(flash)
    described = _describe_virtual(chip) if virtual else str(real_flash.check_file(flash))
    record = Identity(chip.device("esp_secure_cert")).record()
    broker, images, ntp = (_port(record, name, virtual) for name in _SERVERS)
    key = signing.key_digest(plan.pki / "release.pub")
    releases = [
        (_read_image(image, key), end)
        for image, end in ((plan.image, "confirmed"), (plan.bad, "rolled-back"))
        if image
    ]
    copy = _copy(flash, work)
    board: Board = VirtualBoard(copy.parent) if virtual else EmulatedBoard(copy, plan.more)
    run = Run(described, not virtual, f"{datetime.now(UTC):%Y-%m-%d}", plan.application)
    with Fleet(work / "fleet", plan.pki, LOOPBACK, broker, images, ntp) as fleet:
        drive = Drive(board, fleet, plan, str(record["id"]), run)
        try:
            drive.play(releases)
        finally:
            drive.end()
    return run


@contextlib.contextmanager
def work_folder(path: Path | None) -> Iterator[Path]:
    """A new folder, which stays, or a temporary one without `path`."""
    if path is None:
        with tempfile.TemporaryDirectory(prefix="signet-measure-") as folder:
            yield Path(folder)
        return
    try:
        path.mkdir(mode=files.SECRET_FOLDER_MODE, parents=True)
    except OSError as error:
        raise SignetError(f"{path}: {error.strerror}, expected a new folder") from error
    yield path


def _describe_virtual(chip: Flash) -> str:
    boot = real_flash.check_device(chip, slot_image.DEFAULT_PLATFORM)
    return f"{boot.record['id']} ({boot.record['model']}), {boot.version}, a virtual board"


def _read_image(path: Path, key_digest: bytes) -> bytes:
    """A signed image, verified before anything is started."""
    content = files.read_file(path, "image")
    with refusals_about(path):
        slot_image.verify_image(content, [key_digest])
    return content


def _port(record: Report, name: str, virtual: bool) -> int:
    """Where the board expects a server; RefusedError if that is not on this machine."""
    host, port = split_address(record[name])
    here = ("localhost", LOOPBACK) if virtual else (emulator.HOST,)
    if host not in here:
        raise RefusedError(
            f"its {name} is {record[name]}, expected {here[0]}:…, "
            f"as {'a virtual board' if virtual else 'the emulator'} knows this machine",
            f"signet device provision --{name} {here[0]}:PORT",
        )
    return port


def _copy(flash: Path, work: Path) -> Path:
    """A copy of a flash file that no board runs on."""
    copy = work / "board/flash.bin"
    copy.parent.mkdir(mode=files.SECRET_FOLDER_MODE)
    with flash.open("rb") as source:
        if not locks.try_lock(source.fileno()):
            raise RefusedError(f"{flash}: a board runs on it already")
        shutil.copyfile(flash, copy)
    os.chmod(copy, files.SECRET_MODE)  # the device's key is in it
    return copy
