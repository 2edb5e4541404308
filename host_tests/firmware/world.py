"""A provisioned virtual board, real broker, real TLS, real image server: the whole of it."""

import hashlib
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from shutil import copyfile
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from host_tests.tool_helpers import REPO
from host_tests.vectors import block as sign_block
from host_tests.vectors import sign_order
from signet.board.virtual.board import VirtualBoard
from signet.device import flash_file
from signet.device.settings import Settings
from signet.fleet.proxy import Proxy
from signet.fleet.serving import Fleet
from signet.formats import flash
from signet.image import slot_image
from signet.release import publishing
from trust.state import BootState

DEVICE = "dev-0001"
MODEL = "signet-demo"
WAIT_S = 90  # reached by what hangs alone
BUILT = 1_790_000_000
WATCHDOG_S = 6
BLOCK = 4096
Report = dict[str, Any]

# An application that counts its wakes and sleeps, ten minutes if the configuration has no others.
SLEEPER = """
import machine


async def run(device):
    device.commands["echo"] = lambda device, args: args
    device.commands["crash"] = crash
    count = int(device.rtc or b"0")
    device.rtc = b"%d" % (count + 1)
    device.telemetry({"count": count})
    if device.config.get("connect", True):
        device.event("measured", count=count)
    await device.deep_sleep(**({"seconds": 600} | device.config))


def crash(device, args):
    while machine.reset_cause() == 4:
        pass
"""


def describe(version: str, counter: int = 1, model: str = MODEL, built: int = BUILT):
    return slot_image.Release(version, model, counter, (1, 25, 0), built)


def load_key(path: Path) -> rsa.RSAPrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


class World:
    """A board, its servers behind a counting proxy, and an operator who listens."""

    def __init__(self, folder: Path, keys: Path, fleet: Fleet, proxy: Proxy, operator, app=None):
        """app: source of an application in the place of firmware/app.py."""
        self.folder = folder
        self.fleet = fleet
        self.proxy = proxy
        self.operator = operator
        self.release_key = load_key(keys / "release.key")
        self.fleet_key = load_key(keys / "fleet.key")
        # So that a download is long enough to break in the middle of it.
        (folder / "data").mkdir()
        (folder / "data/ballast").write_bytes(random.Random(BUILT).randbytes(100_000))
        self.unsigned = self.build("1.0.0", app)
        self.number = int(time.time()) - 40_000
        (folder / "1.0.0.img").write_bytes(self.sign(self.unsigned))
        address = {name: f"localhost:{route.port}" for name, route in proxy.routes.items()}
        self.keys = keys
        self.settings = Settings(
            DEVICE, MODEL, "A1", address["broker"], address["images"],
            fleet.addresses["ntp"], WATCHDOG_S,
        )  # fmt: skip
        (folder / "board").mkdir()
        flash_file.provision(
            self.settings, keys, folder / "1.0.0.img", REPO, folder / "board/flash.bin"
        )
        copyfile(folder / "board/flash.bin", folder / "provisioned.bin")
        self.board = VirtualBoard(folder / "board")

    def build(self, version: str, app: str | None) -> bytes:
        path = None
        if app is not None:
            path = self.folder / "app.py"
            path.write_text(app)
        return slot_image.build_image(describe(version), REPO, path, self.folder / "data")

    def sign(self, content: bytes, key: Any = None) -> bytes:
        """Content padded to 4096, and the signature sector after it."""

        padded = content + b"\xff" * (-len(content) % BLOCK)
        signed = sign_block(key or self.release_key, hashlib.sha256(padded).digest())
        return padded + signed.ljust(BLOCK, b"\xff")

    def image(self, version: str, app: str | None = None, **fields: Any) -> bytes:
        """A signed image: the firmware of this checkout, or with another application."""
        payload = self.unsigned[BLOCK:]
        if app is not None:
            payload = self.build(version, app)[BLOCK:]
        return self.sign(
            slot_image.pack_descriptor(describe(version, **fields), len(payload)) + payload
        )

    def order(self, content: bytes, **changes: Any) -> dict[str, Any]:
        self.number += 1
        order = {
            "v": 1, "number": self.number, "expires": int(time.time()) + 600, "device": DEVICE,
            "model": MODEL, "version": "1.1.0", "counter": 1, "size": len(content),
            "digest": content[-BLOCK:][4:36].hex(), "path": "/images/signet-demo/next.img",
        }  # fmt: skip
        return order | changes

    def serve(self, content: bytes) -> None:
        path = self.fleet.folder / "images/signet-demo/next.img"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def send(self, order: dict[str, Any] | bytes, key: Any = None) -> int:
        """Publish an order; where the reports that follow start."""
        mark = len(self.operator.messages)
        if isinstance(order, dict):
            order = sign_order(key or self.fleet_key, json.dumps(order).encode())
        publishing.publish(self.operator, DEVICE, order)
        return mark

    def wait_for(self, wanted: Callable[[str, Report], Any], mark: int) -> Report:
        def is_wanted(message: Any) -> Any:
            return wanted(message.topic.rpartition("/")[2], message.json())

        report: Report = self.operator.wait_for(is_wanted, WAIT_S, mark).json()
        return report

    def wait_for_update(self, result: str, mark: int) -> Report:
        return self.wait_for(
            lambda kind, report: kind == "event" and report.get("result") == result, mark
        )

    def wait_for_state(self, mark: int, **fields: Any) -> Report:
        return self.wait_for(
            lambda kind, report: kind == "state" and fields.items() <= report.items(), mark
        )

    def command(self, name: str, **args: Any) -> Report:
        mark = len(self.operator.messages)
        message = json.dumps({"id": mark, "command": name, "args": args}).encode()
        self.operator.publish(f"signet/{DEVICE}/down/command", message)
        return self.wait_for(lambda _, report: report.get("id") == mark, mark)

    def facts(self) -> tuple[Any, ...]:
        """What boots and what may: active slot and its content, its status, the floor."""
        chip = self.chip()
        state = BootState(chip.device("bootstate"))
        slot = "ab"[state.active]
        return slot, chip.read(f"slot_{slot}"), state.status[state.active], state.floor

    def spare(self) -> tuple[bytes, int]:
        """The slot that does not run: its content, its status."""
        chip = self.chip()
        state = BootState(chip.device("bootstate"))
        slot = 1 - state.active
        return chip.read("slot_" + "ab"[slot]), state.status[slot]

    def order_number(self) -> int:
        return int(BootState(self.chip().device("bootstate")).order)

    def chip(self) -> flash.Flash:
        return flash.Flash.load(self.board.folder / "flash.bin")
