"""The files of a provisioning run, the command lines over them, and what has to come of it."""

import os
import subprocess
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from host_tests.provisioning.label_reader import read_labels
from host_tests.tool_helpers import mode
from signet.device.provisioning import audit, inventory, labels
from signet.device.provisioning.inventory import DONE, Device, Inventory
from signet.formats import flash
from trust.identity import Identity

BOARDS = 6


class Bench:
    """The files of a run, and the command lines over them."""

    def __init__(self, folder: Path, keys: Path, project: Path, image: Path):
        self.folder, self.keys, self.csv = folder, keys, folder / "boards.csv"
        self.boards, self.database = folder / "boards", folder / "inventory.db"
        self.options = [
            *("device", "provision", "--pki", str(keys), "--model", "signet-demo", "--hw", "A1"),
            *("--broker", "localhost:8883", "--images", "localhost:8443"),
            *("--ntp", "localhost:123", "--image", str(image), "--source", str(project)),
            *("--inventory", str(self.database)),
        ]
        self.write_csv(BOARDS)

    def write_csv(self, count: int) -> None:
        rows = [f"dev-{n:04},24:0a:c4:00:{n >> 8:02x}:{n & 255:02x}" for n in range(count)]
        self.csv.write_text("\n".join(["id,mac", *rows]) + "\n")

    def command(self, *more: str | Path, many: bool = True) -> list[str]:
        place = ["--csv", str(self.csv), "-o", str(self.boards)] if many else []
        return [*self.options, *place, *map(str, more)]

    def run(self, *more: str | Path, many: bool = True) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "signet", *self.command(*more, many=many)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    def devices(self) -> dict[str, Device]:
        with Inventory(inventory.location(str(self.database), self.keys)).reading() as session:
            rows = session.query(Device).all()
            session.expunge_all()
        return {row.id: row for row in rows}

    def audit(self) -> list[audit.AuditLine]:
        with Inventory(inventory.location(str(self.database), self.keys)).reading() as session:
            lines = audit.verify(session)
            session.expunge_all()
        return lines


def certificate_of(path: Path) -> x509.Certificate:
    reader = Identity(flash.Flash.load(path).device("esp_secure_cert"))
    return x509.load_pem_x509_certificates(reader.certificate)[0]


def check_whole(bench: Bench, count: int = BOARDS) -> None:
    """Every board is done, once, with one certificate and one valid label; nothing is left over."""
    devices = bench.devices()
    assert sorted(devices) == [f"dev-{n:04}" for n in range(count)]
    for row in devices.values():
        path = bench.boards / row.id / "flash.bin"
        certificate = certificate_of(path)
        assert row.status == DONE
        assert certificate.serial_number == int(row.serial, 16)
        assert certificate.fingerprint(hashes.SHA256()).hex() == row.certificate
        assert mode(path) == 0o600
        assert os.listdir(path.parent) == ["flash.bin"]
    done = [line.device for line in bench.audit() if line.what == "provision"]
    assert sorted(done) == sorted(devices)
    sheets = sorted(bench.boards.glob("*.pdf"))
    assert sorted(os.listdir(bench.boards)) == sorted([*devices, *(path.name for path in sheets)])
    found = [text.split(":") for path in sheets for text in read_labels(path.read_bytes())]
    assert sorted(item[2] for item in found) == sorted(devices)
    for _, _, device_id, code in found:
        assert devices[device_id].claim == labels.claim_hash(device_id, code)
