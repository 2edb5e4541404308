"""Provision a device: everything that its flash holds when it leaves the bench.

A new flash file holds the partition table, a blank otadata, a platform image in ota_0, the
identity, a signed slot image in slot_a, the first boot-state record, and stage 1 on `vfs`. All
checks come first; the file appears whole or not at all, and an existing one is never replaced.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from signet import files
from signet.device import identity
from signet.device.networks import Networks, check_networks
from signet.device.settings import Settings, check_settings
from signet.errors import RefusedError, SignetError, refusals_about
from signet.formats import esp_image, filesystem, flash, signing
from signet.image import slot_image
from signet.image.stage1 import compile_stage1
from signet.pki import authority
from trust.image import Descriptor
from trust.state import BootState

PLATFORM_VERSION = "v1.25.0"  # what the platform image of a virtual board calls itself
_SLOT_A = 0
_MAX_BLANKS = 8  # of 4 MB each
_SETTINGS_NAME = "settings.json"  # read by firmware/ondemand/link.py
_NO_NETWORKS = Networks()
# What firmware has that knows more than one network of Wi-Fi.
_KNOWS_NETWORKS = "/firmware/ondemand/ethernet.mpy"


@dataclass(frozen=True)
class Credentials:
    """A device's certificate chain (PEM; leaf first, up to the device CA) and private key.

    key: PEM, to be stored as Espressif's tool does. kept: instead, the key as a module that was
    provisioned at the factory holds it; it is stored byte for byte.
    """

    chain: bytes
    key: bytes
    kept: bool = False


@dataclass(frozen=True)
class Template:
    """What all devices of a run have in common: checked, compiled and laid out once."""

    layout: tuple[flash.Partition, ...]
    image: bytes
    descriptor: Descriptor
    stage1: dict[str, bytes]
    ca: bytes  # of servers: what boards trust
    device_ca: bytes
    release: str
    fleet: str
    knows_networks: bool  # the image does: more than one of Wi-Fi by DHCP
    _blanks: dict[Networks, bytes] = field(default_factory=dict, repr=False)

    @property
    def flash_len(self) -> int:
        """Bytes of a device's flash."""
        return len(self.blank(_NO_NETWORKS).content)

    def record(self, settings: Settings) -> dict[str, Any]:
        """The provisioning record of a device (docs/design.md, "Identity")."""
        chosen = {name: value for name, value in asdict(settings).items() if value is not None}
        if settings.ethernet is not None:
            chosen["ethernet"] = settings.ethernet.record()
        return {"v": 1, **chosen, "release": [self.release], "fleet": [self.fleet]}

    def check_networks(self, settings: Settings, networks: Networks) -> None:
        """Raise SignetError for networks that cannot be, or that the image does not know."""
        check_networks(networks)
        if networks.addresses and settings.ethernet is None:
            raise SignetError("an address of Ethernet, and no wiring of it")
        if not self.knows_networks and not (networks.is_plain and settings.ethernet is None):
            raise RefusedError(
                f"image {self.descriptor.version}: its firmware knows one Wi-Fi network, by DHCP",
                "build it with this version of Signet",
            )

    def blank(self, networks: Networks) -> flash.Flash:
        """The flash of a device but for its identity; kept, for a few choices of networks."""
        if networks not in self._blanks:
            if len(self._blanks) >= _MAX_BLANKS:
                self._blanks.clear()
            self._blanks[networks] = bytes(self._lay_out(networks).content)
        return flash.Flash(bytearray(self._blanks[networks]), self.layout)

    def _lay_out(self, networks: Networks) -> flash.Flash:
        chip = flash.Flash.blank(self.layout)
        chip.write("slot_a", self.image)
        chip.write("ota_0", esp_image.synthetic_app(PLATFORM_VERSION))
        chip.write("vfs", pack_stage1(self.stage1, chip.size("vfs"), networks))
        BootState(chip.device("bootstate"), fresh=True).provision(self.descriptor.counter, _SLOT_A)
        return chip


def prepare(
    pki_folder: Path, signed_image: Path, source: Path, model: str, profile: str
) -> Template:
    """Check and make all that does not depend on the single device.

    source: the project folder with stage 1 and the flash map. Raises RefusedError if the image
    does not verify with the fleet's release key, is for another model, below the boards' profile
    or too large.
    """
    release_digest = signing.key_digest(pki_folder / "release.pub")
    content = files.read_file(signed_image, "slot image")
    with refusals_about(signed_image):
        descriptor = slot_image.verify_image(content, [release_digest], model, profile)
    template = Template(
        layout=flash.load_layout(source / slot_image.LAYOUT),
        image=content,
        descriptor=descriptor,
        stage1=compile_stage1(source),
        ca=files.read_file(authority.anchor(pki_folder, "server"), "server CA's certificate"),
        device_ca=files.read_file(
            authority.anchor(pki_folder, "device"), "device CA's certificate"
        ),
        release=release_digest.hex(),
        fleet=signing.key_digest(pki_folder / "fleet.pub").hex(),
        knows_networks=_KNOWS_NETWORKS in slot_image.inspect_image(content).files,
    )
    with refusals_about(signed_image):
        template.blank(_NO_NETWORKS)
    return template


def build_flash(
    template: Template,
    settings: Settings,
    credentials: Credentials,
    networks: Networks = _NO_NETWORKS,
) -> flash.Flash:
    """The whole flash of a device. Raises RefusedError if the credentials do not fit together."""
    check_settings(settings)
    template.check_networks(settings, networks)
    chain, key = credentials.chain, credentials.key
    identity.check_device_credentials(chain, key, settings.id, template.device_ca)
    chip = template.blank(networks)
    stored = key if credentials.kept else identity.stored_key(key)
    size = chip.size("esp_secure_cert")
    record = template.record(settings)
    chip.write("esp_secure_cert", identity.build_identity(chain, stored, template.ca, record, size))
    return chip


def provision(
    settings: Settings,
    pki_folder: Path,
    signed_image: Path,
    source: Path,
    output: Path,
    credentials: Credentials | None = None,
    networks: Networks = _NO_NETWORKS,
) -> None:
    """Write the flash file of one new device, mode 0600, without an inventory.

    credentials: made elsewhere; without them a key and certificate are issued. networks: kept on
    `vfs`, as settings. Raises as `prepare` and `build_flash` do, and RefusedError if `output`
    exists; nothing is written then.
    """
    check_settings(settings)
    check_networks(networks)
    check_free(output)
    template = prepare(pki_folder, signed_image, source, settings.model, settings.profile)
    if credentials is None:
        credentials = Credentials(*authority.issue_device(pki_folder, settings.id))
    build_flash(template, settings, credentials, networks).save_new(output)


def check_free(output: Path) -> None:
    """Raise RefusedError if there is a flash file of this name."""
    if output.exists() or output.is_symlink():
        raise RefusedError(
            f"{output}: exists, and a provisioned device is not overwritten",
            f"rm {output} first: its identity and its security floor go with it",
        )


def pack_stage1(stage1: dict[str, bytes], size: int, networks: Networks = _NO_NETWORKS) -> bytes:
    """The `vfs` file system of `size` bytes: stage 1 and the settings."""
    contents = dict(stage1)
    settings = networks.settings()
    if settings is not None:
        contents[_SETTINGS_NAME] = settings
    return filesystem.pack(contents, size // filesystem.BLOCK_LEN)
