"""The bench of a project: its keys, its servers, and virtual boards that run its application.

What lasts is in `.signet` of the project, mode 0700: keys for development in `pki`, made once.
Fleet and boards lie in a folder of their own: `.signet` again for `signet dev`, a temporary one
for tests. Nothing of it is for devices that leave the bench.
"""

import contextlib
import hashlib
import itertools
from pathlib import Path
from typing import Self

from signet import files, project
from signet.app.board import OnLine, ProjectBoard
from signet.app.ports import Ports
from signet.device import flash_file
from signet.device.flash_file import Credentials, Template
from signet.device.settings import MIN_WATCHDOG_S, Settings
from signet.errors import RefusedError, SignetError
from signet.fleet.proxy import Proxy
from signet.fleet.reports import Reports
from signet.fleet.serving import LOOPBACK, Fleet
from signet.fleet.session import EVERYTHING_DEVICES_SAY, OperatorSession, split_address
from signet.formats.documents import Document
from signet.formats.flash import Flash
from signet.image import slot_image
from signet.pki import authority
from signet.project import Project
from signet.release import publishing
from signet.sources import SOURCE
from trust.image import BLOCK_LEN, Descriptor
from trust.state import BootState

PROFILE = "dev"
_SLOT_A = 0
_WATCHDOG_S = MIN_WATCHDOG_S + 1


def make_state_folder(project_: Project) -> Path:
    """`.signet` with keys in it, made if they are missing; the folder."""
    folder = project_.state
    try:
        folder.mkdir(files.SECRET_FOLDER_MODE, exist_ok=True)
        folder.chmod(files.SECRET_FOLDER_MODE)
    except OSError as error:
        raise SignetError(f"{folder}: {error.strerror}, expected a folder of Signet's") from error
    hosts = dict.fromkeys(["localhost", LOOPBACK, project_.servers.host])
    if not (folder / "pki").exists():
        try:
            authority.init_pki(folder / "pki", list(hosts))
        except RefusedError:  # another process was quicker
            if not (folder / "pki/release.key").exists():
                raise
    return folder


def build(project_: Project) -> bytes:
    """A signed dev image of a project as it is now."""
    built = project.build(project_, PROFILE)
    return slot_image.sign_image(built.content, project_.state / "pki/release.key", twice=False)


class Bench:
    """A project's servers, and the network between them and its boards: in a `with` statement."""

    def __init__(self, project_: Project, folder: Path, ports: Ports):
        """folder: where fleet and boards lie; the project's own, or a temporary one."""
        self.project = project_
        self.folder = folder
        self.pki = project_.state / "pki"
        self.fleet = Fleet(
            folder / "fleet", self.pki, project_.servers.host, ports.broker, ports.images,
            ports.ntp, ports.operators, ports.services,
        )  # fmt: skip
        addresses = self.fleet.addresses
        self.network = Proxy(
            {"broker": ports.broker, "images": ports.images},
            {"broker": ports.board_broker, "images": ports.board_images},
            split_address(addresses["broker"])[0],
        )
        # Broker, images and time, as boards know them.
        self._board_addresses = (
            f"{LOOPBACK}:{ports.board_broker}", f"{LOOPBACK}:{ports.board_images}",
            addresses["ntp"],
        )  # fmt: skip
        self.operator: OperatorSession  # once the servers run
        self._template: Template | None = None
        self._numbers = itertools.count(1)
        self._running = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.fleet)
            try:
                stack.enter_context(self.network)
            except OSError as error:
                raise SignetError(f"network of the boards: {error}") from error
            address = self.fleet.addresses["operators"]
            self.operator = stack.enter_context(
                OperatorSession(self.pki, address, EVERYTHING_DEVICES_SAY)
            )
            self._running = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    # Releases

    def next_version(self, running: str) -> str:
        """The project's version if a board that runs another can have it; else with +1, +2, …"""
        version = self.project.version
        folder = self.fleet.folder / "images" / self.project.model
        numbered = (f"{version}+{number}" for number in itertools.count(1))
        return next(
            name
            for name in itertools.chain([version], numbered)
            if name != running and not (folder / f"{name}.img").exists()
        )

    def publish(self, content: bytes, device: str) -> Document:
        """Order a device to install a signed image, which must have a version of its own."""
        broker = self.fleet.addresses["operators"]
        return publishing.release(self.pki, self.fleet.folder, broker, device, content)

    # Boards

    def take_number(self) -> int:
        """1, 2, … for the ids of boards that are made for a while."""
        return next(self._numbers)

    def make_board(
        self, device: str, folder: Path, content: bytes, on_line: OnLine | None = None
    ) -> ProjectBoard:
        """A virtual board in a folder, provisioned with a signed image; it is off.

        One that is there, of the same keys, ports and stage 1, keeps what it has but for its image.
        """
        folder.mkdir(files.SECRET_FOLDER_MODE, parents=True, exist_ok=True)
        flash, stamp = folder / "flash.bin", folder / "provisioned"
        settings = Settings(
            device, self.project.model, self.project.hardware, *self._board_addresses,
            _WATCHDOG_S, PROFILE,
        )  # fmt: skip
        template = self._prepare(folder, content)
        found = _stamp(template, settings)
        if flash.exists() and stamp.exists() and stamp.read_bytes() == found:
            load_image(flash, content)
        else:
            flash.unlink(missing_ok=True)
            credentials = Credentials(*authority.issue_device(self.pki, device))
            flash_file.build_flash(template, settings, credentials).save_new(flash)
            files.replace_file(stamp, found, files.OURS, files.SECRET_MODE)
        return ProjectBoard(folder, Reports(self.operator, device), self.network, on_line)

    def _prepare(self, folder: Path, content: bytes) -> Template:
        """What boards with this image have in common; kept for the last image."""
        if self._template is None or self._template.image != content:
            path = folder / "provisioned.img"
            files.replace_file(path, content, slot_image.FILE, files.SECRET_MODE)
            model = self.project.model
            self._template = flash_file.prepare(self.pki, path, SOURCE, model, PROFILE)
        return self._template


def _stamp(template: Template, settings: Settings) -> bytes:
    """What a board was provisioned with, but for image and certificate: its SHA-256."""
    parts = [repr(template.record(settings)), template.ca, *sorted(template.stage1.items())]
    return hashlib.sha256(repr(parts).encode()).hexdigest().encode()


def load_image(flash: Path, content: bytes) -> None:
    """Put a signed image into slot A of a board that is off, confirmed, as provisioning does."""
    chip = Flash.load(flash)
    chip.write("slot_a", content)
    chip.write("bootstate", b"")  # or an older record would be the newer one
    state = BootState(chip.device("bootstate"), fresh=True)
    state.provision(Descriptor(content[:BLOCK_LEN]).counter, _SLOT_A)
    files.replace_file(flash, bytes(chip.content), files.OURS, files.SECRET_MODE)
