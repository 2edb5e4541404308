"""What the user chooses about a device, and its provisioning record tells."""

import re
from dataclasses import dataclass

from signet.device.networks import Ethernet, check_ethernet
from signet.errors import SignetError
from signet.image import slot_image
from signet.image.budget import MOST_RESERVE_KB
from signet.pki import names

MIN_WATCHDOG_S = 5  # a TLS handshake can hold the event loop for more than a second
MAX_WATCHDOG_S = 300
HARDWARE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,15}")
_PORT = re.compile("[0-9]{1,5}")
_MAX_PORT = 65535


@dataclass(frozen=True)
class Settings:
    """The part of the provisioning record that the user chooses.

    broker, images, ntp: "host:port". watchdog_s: seconds after which a hanging device restarts.
    profile: one of trust.identity.PROFILES; the device runs no image below it.
    heap_kb: heap that it reserves at least; None leaves it to the firmware.
    ethernet: the wiring of its PHY, if it has one.
    """

    id: str
    model: str
    hw: str
    broker: str
    images: str
    ntp: str
    watchdog_s: int
    profile: str = slot_image.DEFAULT_PROFILE
    heap_kb: int | None = None
    ethernet: Ethernet | None = None


def check_settings(settings: Settings) -> None:
    """Raise SignetError for a field that a device could not use."""
    names.check_device_id(settings.id)
    slot_image.check_profile(settings.profile)
    for name, value, pattern in (
        ("model", settings.model, slot_image.MODEL),
        ("hardware revision", settings.hw, HARDWARE),
    ):
        if not pattern.fullmatch(value):
            raise SignetError(f"{name} {value!r}, expected the form {pattern.pattern}")
    for name in ("broker", "images", "ntp"):
        address = getattr(settings, name)
        host, _, port = address.rpartition(":")
        if (
            not names.HOST_NAME.fullmatch(host)
            or not _PORT.fullmatch(port)
            or not 1 <= int(port) <= _MAX_PORT
        ):
            raise SignetError(f"{name} {address!r}, expected host:port")
    if not MIN_WATCHDOG_S <= settings.watchdog_s <= MAX_WATCHDOG_S:
        raise SignetError(
            f"watchdog {settings.watchdog_s} s, expected {MIN_WATCHDOG_S} to {MAX_WATCHDOG_S}"
        )
    if settings.heap_kb is not None and not 0 <= settings.heap_kb <= MOST_RESERVE_KB:
        raise SignetError(f"heap of {settings.heap_kb} KB, expected 0 to {MOST_RESERVE_KB}")
    if settings.ethernet is not None:
        check_ethernet(settings.ethernet)
