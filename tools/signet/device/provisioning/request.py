"""What a user asked `signet device provision` for, as boards and jobs."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from cryptography import x509

from signet import files, locks
from signet.board.real_flash import build_board_flash
from signet.board.serial_device import check_name
from signet.device.flash_file import Credentials
from signet.device.networks import Ethernet, Networks, Wifi, read_networks
from signet.device.provisioning import boards_csv, ports
from signet.device.provisioning.batch import Job
from signet.device.provisioning.boards_csv import Board
from signet.device.provisioning.making import Task
from signet.device.settings import Settings
from signet.errors import SignetError, refusals_about
from signet.formats import secure_cert
from signet.pki import authority

FLASH_NAME = "flash.bin"


@dataclass(frozen=True)
class Request:
    """The options of the command, under their names there."""

    pki_folder: Path
    device_id: str | None
    csv_path: Path | None
    model: str
    hw: str | None
    broker: str
    images: str
    ntp: str
    watchdog_s: int
    profile: str
    heap_kb: int | None
    image_path: Path
    cert: Path | None
    key: Path | None
    factory: Path | None
    wifi_ssid: str | None
    wifi_key: Path | None
    networks_path: Path | None
    mac: str | None
    port_names: tuple[str, ...]
    micropython: Path | None
    jobs: int | None
    inventory_url: str | None
    source: Path
    output: Path

    @property
    def many(self) -> bool:
        return self.csv_path is not None

    @property
    def workers(self) -> int:
        return self.jobs or len(os.sched_getaffinity(0))

    def boards(self) -> list[Board]:
        """The boards asked for; the CSV is read and checked to its end, and so is --port."""
        for name in self.port_names:
            check_name(name)
        if self.csv_path is None:
            port = self.port_names[0] if self.port_names else None
            mac = boards_csv.parse_mac(self.mac) if self.mac else None
            return [Board(self.device_id or "", mac, port)]
        boards = boards_csv.read_boards(self.csv_path)
        if self.hw is None and not all(board.hw for board in boards):
            raise SignetError(f"{self.csv_path}: boards without hw", "add the column, or --hw")
        return boards

    def settings(self, board: Board) -> Settings:
        return Settings(
            board.id, self.model, board.hw or self.hw or "", self.broker, self.images, self.ntp,
            self.watchdog_s, self.profile, self.heap_kb, self._networks[0],
        )  # fmt: skip

    def make_jobs(self, boards: Sequence[Board]) -> list[Job]:
        """A job for each board, with a new serial number for its certificate."""
        jobs = [self._make_job(board) for board in boards]
        _check_unique(jobs)
        return jobs

    def _make_job(self, board: Board) -> Job:
        output = self.output / board.id / FLASH_NAME if self.many else self.output
        credentials = self._credentials
        serial = _serial_number(credentials.chain) if credentials else authority.new_serial()
        factory = board.factory or self.factory
        factory_key = None
        if factory not in (None, ports.READ_FROM_BOARD):
            with refusals_about(factory):
                factory_key = secure_cert.factory_key(files.read_file(factory, "dump"))
        task = Task(self.settings(board), output, serial, self._networks_of(board), credentials,
                    factory_key)  # fmt: skip
        return Job(task, board.mac, board.port)

    @cached_property
    def _credentials(self) -> Credentials | None:
        if self.cert is None or self.key is None:
            return None
        return Credentials(
            files.read_file(self.cert, "device certificate"),
            files.read_file(self.key, "device key"),
        )

    @cached_property
    def _networks(self) -> tuple[Ethernet | None, Networks]:
        """What is asked for all boards."""
        if self.networks_path is not None:
            return read_networks(self.networks_path)
        if self.wifi_ssid is None:
            return None, Networks()
        passphrase = files.read_file(self.wifi_key, "Wi-Fi passphrase") if self.wifi_key else b""
        key = passphrase.decode("utf-8", "replace").rstrip("\r\n")
        return None, Networks((Wifi(self.wifi_ssid, key),))

    def _networks_of(self, board: Board) -> Networks:
        """Those of a board: its row's own Wi-Fi, and its address in what is tried first."""
        ethernet, networks = self._networks
        if board.wifi is not None:
            if self.networks_path is not None:
                raise SignetError(f"{board.id}: wifi_ssid in {self.csv_path}, beside --networks")
            networks = Networks((board.wifi,))
        if board.addresses is None:
            return networks
        if ethernet is not None:
            return replace(networks, addresses=board.addresses)
        if not networks.wifi:
            raise SignetError(f"{board.id}: an address, and no network that it is in")
        first = replace(networks.wifi[0], addresses=board.addresses)
        return Networks((first, *networks.wifi[1:]))

    def on_ports(self, jobs: Sequence[Job]) -> bool:
        """Whether boards are on serial ports; SignetError if only some are."""
        if self.port_names:
            return True
        with_port = sum(job.port is not None for job in jobs)
        if with_port not in (0, len(jobs)):
            raise SignetError(f"{self.csv_path}: some boards have a port, others none")
        return with_port > 0

    def platform(self) -> ports.Platform:
        """What makes the flash of a real board: --micropython's boot loader and app in it."""
        if self.micropython is None:
            raise SignetError("a board on a port needs --micropython")
        micropython = self.micropython
        return lambda flash_file: bytes(build_board_flash(micropython, flash_file)[0].content)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second run off the same folder, which for many boards is made, mode 0700.

        The lock is on the folder itself and goes with the process, however it ends.
        """
        folder = self.output if self.many else self.output.parent
        try:
            if self.many:
                folder.mkdir(files.SECRET_FOLDER_MODE, parents=True, exist_ok=True)
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise SignetError(f"{folder}: {error.strerror}") from error
        try:
            if not locks.try_lock(handle):
                raise SignetError(f"{folder}: another run works in this folder")
            yield
        finally:
            os.close(handle)


def _serial_number(chain: bytes) -> int:
    try:
        return x509.load_pem_x509_certificates(chain)[0].serial_number
    except ValueError:
        return 0  # not a certificate: batch.check says so


def _check_unique(jobs: Sequence[Job]) -> None:
    """Raise SignetError if two boards of a run have one address in one network."""
    seen: dict[tuple[str | None, str], str] = {}
    for job in jobs:
        networks = job.task.networks
        places = [(wifi.ssid, wifi.addresses) for wifi in networks.wifi]
        for name, addresses in [(None, networks.addresses), *places]:
            if addresses is None:
                continue
            other = seen.setdefault((name, addresses[0]), job.id)
            if other != job.id:
                where = "Ethernet" if name is None else f"Wi-Fi {name!r}"
                raise SignetError(
                    f"{job.id}: {where}: {addresses[0]} is {other}'s already",
                    "the list has a column `address`, for the network that is tried first",
                )
