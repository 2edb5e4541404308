"""What the demo plays on: a folder, the servers, a virtual board, and all that can be seen of them.

Whatever the demo claims is taken from here: what the board reported to the broker, as an operator's
session received it; what is in the board's flash file; what the image server logged; what commands
printed and how they exited.
"""

import contextlib
import hashlib
import json
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from demo.transcript import NotHeldError, Transcript
from signet import files, locks
from signet.board.measure import drive
from signet.board.virtual.board import VirtualBoard
from signet.errors import SignetError
from signet.fleet.reports import WAIT_S, Report, Reports
from signet.fleet.serving import LOOPBACK, Fleet, free_port
from signet.fleet.session import EVERYTHING_DEVICES_SAY, OperatorSession
from signet.formats import documents
from signet.formats.flash import Flash
from signet.image import slot_image
from signet.pki import authority
from signet.release import publishing
from signet.sources import SOURCE
from trust import state as boot_state

DEVICE = "dev-0001"
OTHER_DEVICE = "dev-0002"  # with --host: for a real board or an emulator
MODEL = "signet-demo"
ORDER_S = 600
_FOR_PROGRAMS = ("Traceback", "  File", drive.MEMORY)  # lines of a console, not of a transcript
_MARKER = ".signet-demo"  # only a folder that a demo made is ever wiped


class Evidence(NamedTuple):
    """What boots: an update that is refused changes none of it."""

    active: str  # "a" or "b"
    status: str  # of that slot
    digest: str  # SHA-256 over that slot
    floor: int


class Stage:
    """All parts together; to be used in a `with` statement, which ends what was started."""

    def __init__(
        self,
        folder: Path,
        transcript: Transcript,
        host: str | None = None,
        wifi: str | None = None,
        bind: str = LOOPBACK,
    ):
        """host: this machine, as OTHER_DEVICE is to know it; without, there is no such device.
        wifi: the open network that it joins. bind: where servers listen."""
        self.host = host
        self.wifi = wifi
        self.folder = folder
        self.pki = folder / "pki"
        self.flash = folder / "board/flash.bin"
        self.show = transcript
        # They are burned into the board before the servers start.
        broker, images, ntp = (free_port() for _ in range(3))
        self.fleet = Fleet(folder / "fleet", self.pki, bind, broker, images, ntp)
        self.board = VirtualBoard(folder / "board", on_line=self._show_console)
        self._shows_console = True
        self.operator: OperatorSession  # these two once the servers run
        self.reports: Reports
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> "Stage":
        return self

    def __exit__(self, *_: object) -> None:
        self._shows_console = False  # the transcript is over
        self._cleanup.close()

    def start_servers(self) -> None:
        self._cleanup.enter_context(self.fleet)
        self.operator = self._cleanup.enter_context(
            OperatorSession(self.pki, self.fleet.addresses["operators"], EVERYTHING_DEVICES_SAY)
        )
        self.reports = Reports(self.operator, DEVICE)
        self._cleanup.callback(self.board.power_off)

    # Claims

    def check(self, claim: str, is_so: object) -> None:
        """Show a claim that holds; NotHeldError if it does not."""
        if not is_so:
            raise NotHeldError(f"not so: {claim}")
        self.show.held(claim)

    def signet(self, *args: str | Path, code: int = 0) -> str:
        """Run the program `signet`; what it printed. NotHeldError unless it exits with `code`."""
        words = [str(arg) for arg in args]
        self.show.command(shlex.join(["signet", *words]))
        done = subprocess.run(
            [sys.executable, "-m", "signet", *words], capture_output=True, text=True, check=False
        )
        if done.returncode != code:
            raise NotHeldError(f"exit code {done.returncode}, expected {code}: {done.stderr}")
        return done.stdout if code == 0 else done.stderr

    # What the board reports

    @property
    def mark(self) -> int:
        return self.reports.mark

    def wait_for_update(self, result: str, after: int) -> Report:
        """An event about an update, shown."""
        report = self.reports.wait_for_update(result, after)
        reason = f": {report['reason']}" if report.get("reason") else ""
        self.show.said(f"{DEVICE} reports: {result}{reason}")
        return report

    def ask_version(self) -> str:
        """What the running application answers to the command `identify`."""
        return str(self.reports.ask("identify", {})["result"]["version"])

    # Images and orders

    def make_image(self, release_: slot_image.Release, app: Path | None = None) -> bytes:
        """Build and sign an image of this checkout, without a word."""
        return slot_image.sign_image(
            slot_image.build_image(release_, SOURCE, app), self.pki / "release.key"
        )

    def make_order(self, content: bytes) -> documents.Document:
        now = int(time.time())
        number = publishing.next_number(self.fleet.folder, now)
        return publishing.make_order(content, DEVICE, number, now + ORDER_S)

    def send(self, order: documents.Document, content: bytes) -> None:
        """Put content where the order says its image is; sign the order, good or bad; publish."""
        path = self.fleet.folder / str(order["path"]).lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace_file(path, content, files.OURS)
        wire = documents.sign_document(order, self.pki / "fleet.key")
        publishing.publish(self.operator, DEVICE, wire)
        self.show.said("order {number}: install {version}, counter {counter}".format(**order))

    def holds(self, slot: str, content: bytes) -> bool:
        """Whether slot "a" or "b" of the flash file begins with an image."""
        return Flash.load(self.flash).read(f"slot_{slot}").startswith(content)

    def requests(self) -> list[Report]:
        """The image server's log, but for the questions for the time, one at each start."""
        log = self.fleet.folder / "images.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [entry for entry in map(json.loads, lines) if entry["path"] != "/"]

    # What is in the flash file

    def evidence(self) -> Evidence:
        chip = Flash.load(self.flash)
        state = boot_state.BootState(chip.device("bootstate"))
        active = "ab"[state.active]
        return Evidence(
            active,
            boot_state.NAMES[state.status[state.active]],
            hashlib.sha256(chip.read(f"slot_{active}")).hexdigest(),
            state.floor,
        )

    def status(self, name: str) -> str:
        """Status of slot "a" or "b" in the boot state."""
        state = boot_state.BootState(Flash.load(self.flash).device("bootstate"))
        return str(boot_state.NAMES[state.status["ab".index(name)]])

    # Intruders

    def answers_without_certificate(self, port: int, request: bytes) -> bool:
        """Whether a server says anything to a client that trusts it and has no certificate."""
        context = ssl.create_default_context(cafile=self.pki / "server-ca.pem")
        try:
            with (
                socket.create_connection((LOOPBACK, port), WAIT_S) as raw,
                context.wrap_socket(raw, server_hostname=LOOPBACK) as sock,
            ):
                sock.sendall(request)
                return bool(sock.recv(1))
        except OSError:
            return False

    def open_as_device(self, device: str) -> OperatorSession:
        """A session with the certificate of another device, issued for the occasion."""
        folder = self.folder / device
        folder.mkdir()
        shutil.copy(self.pki / "server-ca.pem", folder)
        chain, key = authority.issue_device(self.pki, device)
        (folder / "operator.pem").write_bytes(chain)
        files.write_new_secret(folder / "operator.key", key)
        return OperatorSession(folder, self.fleet.addresses["broker"])

    def _show_console(self, stamped: str) -> None:
        stamp, _, line = stamped.partition(" ")
        if self._shows_console and not line.startswith(_FOR_PROGRAMS):
            self.show.said(f"{stamp[11:19]} | {line}")


@contextlib.contextmanager
def claim_folder(folder: Path) -> Iterator[None]:
    """Wipe the folder and keep it for this process.

    SignetError if a demo runs there, or if there is anything that no demo made.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARKER).exists():
        raise SignetError(f"{folder}: exists, and was not made by a demo", "choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        # The broker's lock, too: a broker outlives a demo that was killed.
        for lock in (folder.with_name(f"{folder.name}.lock"), folder / "fleet/lock"):
            if lock.parent.exists():
                refusal = f"{folder}: a demo runs there already"
                hint = "end it with Ctrl-C in its terminal, or wait"
                stack.enter_context(locks.claim(lock, refusal, hint))
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / _MARKER).touch()
        yield
