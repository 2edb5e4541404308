"""The whole flash of a real board: made of a MicroPython and a device, and checked before use.

A published MicroPython brings boot loader and app; a flash file of `signet device provision` brings
partition table, identity, boot state, slots and `vfs`. Everything else is erased: `otadata`, so
that the boot loader starts ota_0, and `nvs`, which MicroPython fills itself.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from signet import files
from signet.errors import RefusedError, SignetError, refusals_about
from signet.formats import esp_image, filesystem
from signet.formats.flash import BOOT_LOADER_OFFSET, BlockDevice, Flash, table_offset
from signet.image import stage1
from trust import Boot, TrustError
from trust.boot import select
from trust.state import BootState

_DEVICE_PARTITIONS = ("esp_secure_cert", "bootstate", "slot_a", "slot_b", "vfs")
_STAGE1 = ("/boot.py", "/main.mpy", "/lib/romfs/__init__.mpy", f"/{stage1.ARCHIVE}")


@dataclass(frozen=True)
class Board:
    """What boots on a chip: the device's id and model, image and slot, and the MicroPython."""

    id: str
    model: str
    version: str
    slot: str
    micropython: str

    def __str__(self) -> str:
        return (
            f"{self.id} ({self.model}), {self.version} in slot {self.slot}, "
            f"MicroPython {self.micropython}"
        )


def build_board_flash(micropython: Path, device: Path) -> tuple[Flash, Board]:
    """The flash of a real board; RefusedError names the file that is not what it should be.

    micropython: a published image. device: a flash file of `signet device provision`.
    """
    provisioned = Flash.load(device)
    with refusals_about(micropython):
        stock = esp_image.parse_micropython(
            files.read_file(micropython, "MicroPython image"), provisioned.partitions
        )
    with refusals_about(device):
        check_device(provisioned, stock.version)
    board = Flash.blank(provisioned.partitions, stock.boot_loader)
    board.write("ota_0", stock.app)
    for label in _DEVICE_PARTITIONS:
        board.write(label, provisioned.read(label))
    return board, check_board(board)


def check_file(path: Path) -> Board:
    """`check_board` of a flash file; refusals name it."""
    chip = Flash.load(path)
    with refusals_about(path):
        return check_board(chip)


def check_board(chip: Flash) -> Board:
    """Check a whole flash as boot loader and stage 1 do, and say what boots; or RefusedError."""
    content, table = chip.content, table_offset(chip.partitions)
    if bytes(content[BOOT_LOADER_OFFSET:table]).strip(b"\xff") == b"":
        raise RefusedError(
            f"no boot loader at {BOOT_LOADER_OFFSET:#x}: the flash of a virtual board",
            "signet board image makes a real board's of it",
        )
    esp_image.check_image(content, "boot loader", BOOT_LOADER_OFFSET, table)
    ota_0 = next((row for row in chip.partitions if row.label == "ota_0"), None)
    if ota_0 is None:
        raise RefusedError("no partition ota_0")
    esp_image.check_image(content, "app", ota_0.offset, ota_0.end)
    platform = esp_image.read_version(content[ota_0.offset : ota_0.end])
    boot = check_device(chip, platform)
    _check_ethernet(boot.record.get("ethernet"), bytes(content[ota_0.offset : ota_0.end]))
    return Board(
        str(boot.record["id"]), str(boot.record["model"]), boot.version, "ab"[boot.running],
        ".".join(map(str, platform)),
    )  # fmt: skip


def _check_ethernet(wiring: Any, app: bytes) -> None:
    """Raise RefusedError if a device has Ethernet, and a MicroPython has not: the names tell."""
    phy = wiring.get("phy_type") if isinstance(wiring, dict) else None
    if phy and f"PHY_{phy}".encode() not in app:
        raise RefusedError(
            f"this MicroPython has no network.PHY_{phy}, which the device's Ethernet needs",
            "ESP32_GENERIC and ESP32_GENERIC-OTA have it, D2WD builds have not",
        )


def check_device(chip: Flash, platform: tuple[int, int, int]) -> Boot:
    """Stage 1 is there, and would run a slot under this MicroPython; what it would run.

    It decides on a copy: a boot spends tries, and this is none. Raises RefusedError.
    """

    def copy(label: str) -> BlockDevice:
        return BlockDevice(memoryview(bytearray(chip.read(label))))

    try:
        boot: Boot = select(
            copy("esp_secure_cert"), BootState(copy("bootstate")),
            (copy("slot_a"), copy("slot_b")), platform,
        )[0]  # fmt: skip
    except TrustError as error:
        raise RefusedError(
            f"it would not boot: {error}", "signet device provision makes one that does"
        ) from error
    except SignetError as error:  # no such partition
        raise RefusedError(f"not a Signet device: {error}") from error
    missing = set(_STAGE1) - filesystem.list_files(chip.read("vfs")).keys()
    if missing:
        raise RefusedError(f"stage 1 is not on vfs: no {', '.join(sorted(missing))}")
    return boot
