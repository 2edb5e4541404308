"""Provision a device: everything that its flash holds when it leaves the bench.

A new flash file holds the partition table, a blank otadata, a platform image in ota_0, the
identity, a signed slot image in slot_a, the first boot-state record, and stage 1 on `vfs`. All
checks come first; the file appears whole or not at all, and an existing one is never replaced.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from signet import esp_image, files, filesystem, flash, identity, image, pki, signing
from signet.errors import RefusedError, SignetError, refusals_about
from trust.state import BootState

PLATFORM_VERSION = "v1.25.0"  # what the platform image of a virtual board calls itself
MIN_WATCHDOG_S = 5  # a TLS handshake can hold the event loop for more than a second
MAX_WATCHDOG_S = 300
_HARDWARE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,15}")
_PORT = re.compile("[0-9]{1,5}")
_MAX_PORT = 65535
_SLOT_A = 0
_SETTINGS_NAME = "settings.json"  # read by firmware/link.py


@dataclass(frozen=True)
class Settings:
    """The part of the provisioning record that the user chooses.

    broker, images, ntp: "host:port". watchdog_s: seconds after which a hanging device restarts.
    profile: one of trust.identity.PROFILES; the device runs no image below it.
    """

    id: str
    model: str
    hw: str
    broker: str
    images: str
    ntp: str
    watchdog_s: int
    profile: str = image.DEFAULT_PROFILE


@dataclass(frozen=True)
class Wifi:
    """The network to join: name, 1 to 32 bytes, and passphrase, 8 to 63 characters or none."""

    ssid: str
    key: str = ""


@dataclass(frozen=True)
class Credentials:
    """A device's certificate chain (leaf first, without the root) and private key, in PEM."""

    chain: bytes
    key: bytes


def provision(
    settings: Settings,
    pki_folder: Path,
    signed_image: Path,
    source: Path,
    output: Path,
    credentials: Credentials | None = None,
    wifi: Wifi | None = None,
) -> None:
    """Write the flash file of a new device, mode 0600.

    source: the project folder with stage 1 and the flash map. credentials: made elsewhere; without
    them a key and certificate are issued. wifi: kept on `vfs`, as a setting. Raises RefusedError,
    and writes nothing, if the image does not verify with the fleet's release key, is for another
    model or is too large, if the credentials do not fit together, or if `output` exists.
    """
    check_settings(settings)
    if wifi is not None:
        check_wifi(wifi)
    if output.exists() or output.is_symlink():
        raise RefusedError(
            f"{output}: exists, and a provisioned device is not overwritten",
            f"rm {output} first: its identity and its security floor go with it",
        )
    release_digest = signing.key_digest(pki_folder / "release.pub")
    content = files.read_file(signed_image, "slot image")
    with refusals_about(signed_image):
        descriptor = image.verify_image(content, [release_digest], settings.model, settings.profile)
    ca = files.read_file(pki_folder / "root-ca.pem", "root CA certificate")
    if credentials is None:
        credentials = Credentials(*pki.issue_device(pki_folder, settings.id))
    identity.check_device_credentials(credentials.chain, credentials.key, settings.id, ca)
    record = {
        "v": 1,
        **asdict(settings),
        "release": [release_digest.hex()],
        "fleet": [signing.key_digest(pki_folder / "fleet.pub").hex()],
    }
    chip = flash.Flash.blank(flash.load_layout(source / image.LAYOUT))
    with refusals_about(signed_image):
        chip.write("slot_a", content)
    chip.write("ota_0", esp_image.synthetic_app(PLATFORM_VERSION))
    chip.write("vfs", build_stage1(source, chip.size("vfs"), wifi))
    BootState(chip.device("bootstate"), fresh=True).provision(descriptor.counter, _SLOT_A)
    identity_len = chip.size("esp_secure_cert")
    chip.write(
        "esp_secure_cert",
        identity.build_identity(credentials.chain, credentials.key, ca, record, identity_len),
    )
    chip.save_new(output)


def build_stage1(source: Path, size: int, wifi: Wifi | None = None) -> bytes:
    """The `vfs` file system of `size` bytes: boot.py, main.py, lib/trust compiled, settings."""
    library = image.python_files(source, ("lib/trust",))
    if not library:
        raise SignetError(f"{source}/lib/trust: no Python files")
    contents = image.compile_sources(library)
    for name in ("boot.py", "main.py"):
        contents[name] = files.read_file(source / name, "stage 1 file")
    if wifi is not None:
        contents[_SETTINGS_NAME] = json.dumps({"wifi": asdict(wifi)}).encode()
    return filesystem.pack(contents, filesystem.VFS, size // filesystem.BLOCK_LEN)


def check_settings(settings: Settings) -> None:
    """Raise SignetError for a field that a device could not use."""
    pki.check_device_id(settings.id)
    image.check_profile(settings.profile)
    for name, value, pattern in (
        ("model", settings.model, image.MODEL),
        ("hardware revision", settings.hw, _HARDWARE),
    ):
        if not pattern.fullmatch(value):
            raise SignetError(f"{name} {value!r}, expected the form {pattern.pattern}")
    for name in ("broker", "images", "ntp"):
        address = getattr(settings, name)
        host, _, port = address.rpartition(":")
        if (
            not pki.HOST_NAME.fullmatch(host)
            or not _PORT.fullmatch(port)
            or not 1 <= int(port) <= _MAX_PORT
        ):
            raise SignetError(f"{name} {address!r}, expected host:port")
    if not MIN_WATCHDOG_S <= settings.watchdog_s <= MAX_WATCHDOG_S:
        raise SignetError(
            f"watchdog {settings.watchdog_s} s, expected {MIN_WATCHDOG_S} to {MAX_WATCHDOG_S}"
        )


def check_wifi(wifi: Wifi) -> None:
    """Raise SignetError for what no access point can have; never shows the passphrase."""
    if not 1 <= len(wifi.ssid.encode()) <= 32:
        raise SignetError(f"Wi-Fi name {wifi.ssid!r}, expected 1 to 32 bytes")
    if wifi.key and not (8 <= len(wifi.key) <= 63 and wifi.key.isascii()):
        raise SignetError(
            f"Wi-Fi passphrase of {len(wifi.key)} characters, expected 8 to 63 in ASCII, or none"
        )
