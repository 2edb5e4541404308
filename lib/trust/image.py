"""Slot images: a descriptor, a ROMFS archive and a signature sector.

    [descriptor 4096][payload n * 4096][signature sector 4096]

The same bytes in the file, on the wire and in flash.  `verify` reads all of it
from the device and returns the descriptor, or raises; there is no other way to
a descriptor that may be believed.  `Descriptor(block)` alone only parses: the
updater uses it to refuse early, before anything was written, what `verify`
would refuse after the download.
"""

import struct
from hashlib import sha256

from micropython import const

from . import TrustError, block_count, signature

BLOCK_LEN = const(4096)
DESCRIPTOR_LEN = const(100)

_MAGIC = const(b"SGNTSLOT")
_FORMAT = const(2)  # 1 had a littlefs file system
_LAST_PROFILE = const(2)
_STRUCT = const("<8sHHIIIQ32s32sI")


class ImageError(TrustError):
    """The image is malformed, or not one that this board may run."""


class Descriptor:
    """The first 100 bytes of an image (docs/design.md, "Slot image").

    profile: number in `identity.PROFILES`; a board runs none below its own.
    payload_len: bytes of archive and fill, a multiple of 4096.
    counter: security counter; a board never runs one below its floor.
    platform: least MicroPython version, major << 16 | minor << 8 | patch.
    build_time: Unix seconds.  version, model: printable ASCII.
    heap: KB of heap to reserve at start; 0 leaves it to the board.
    digest: SHA-256 of descriptor and payload, 32 bytes; None until `verify` set it.
    """

    digest = None

    def __init__(self, block):
        """Parse the first 100 bytes or more of an image; ImageError if they are malformed."""
        if len(block) < DESCRIPTOR_LEN:
            raise ImageError("descriptor: %d bytes, expected %d" % (len(block), DESCRIPTOR_LEN))
        (
            magic,
            format_,
            self.profile,
            self.payload_len,
            self.counter,
            self.platform,
            self.build_time,
            version,
            model,
            self.heap,
        ) = struct.unpack_from(_STRUCT, block)
        if magic != _MAGIC:
            raise ImageError("not a slot image: magic %r, expected %r" % (magic, _MAGIC))
        if format_ != _FORMAT:
            raise ImageError("image format %d, expected %d" % (format_, _FORMAT))
        if self.profile > _LAST_PROFILE:
            raise ImageError("profile %d, expected 0 to %d" % (self.profile, _LAST_PROFILE))
        if not self.payload_len or self.payload_len % BLOCK_LEN:
            raise ImageError("payload length %d, expected n * 4096" % self.payload_len)
        self.version = _text(version, "version")
        self.model = _text(model, "model")

    @property
    def image_len(self):
        """Bytes of the whole image: descriptor, payload, signature sector."""
        return self.payload_len + 2 * BLOCK_LEN

    def check(self, slot_len, record, floor, platform):
        """Raise ImageError unless the board may run the image.

        slot_len: bytes.  record: the provisioning record, of which model and profile
        count.  floor: least security counter.  platform: version tuple of the running
        MicroPython, `sys.implementation.version`.
        """
        if self.image_len > slot_len:
            raise ImageError("image of %d bytes, slot holds %d" % (self.image_len, slot_len))
        if self.model != record["model"]:
            raise ImageError("image for model %r, this is a %r" % (self.model, record["model"]))
        if self.profile < record["profile"]:
            from .identity import PROFILES  # here: an update has no memory for it otherwise

            raise ImageError(
                "%s image, this is a %s board"
                % (PROFILES[self.profile], PROFILES[record["profile"]])
            )
        if self.counter < floor:
            raise ImageError("security counter %d is below the floor %d" % (self.counter, floor))
        if platform[0] << 16 | platform[1] << 8 | platform[2] < self.platform:
            raise ImageError(
                "needs MicroPython %d.%d.%d, this is %d.%d.%d"
                % (
                    self.platform >> 16,
                    self.platform >> 8 & 0xFF,
                    self.platform & 0xFF,
                    platform[0],
                    platform[1],
                    platform[2],
                )
            )


def _text(field, name):
    text = field.rstrip(b"\0")
    for byte in text:
        if not 0x20 < byte < 0x7F:
            raise ImageError("%s %r: expected printable ASCII" % (name, field))
    if not text:
        raise ImageError("%s is empty" % name)
    return text.decode()


def verify(device, record, floor, platform):
    """Verify the image in a slot and return its Descriptor.

    Reads every block of the image once.  Raises ImageError or SignatureError.
    The arguments are those of `Descriptor.check`; the record's release keys are trusted.
    """
    block = bytearray(BLOCK_LEN)
    device.readblocks(0, block)
    descriptor = Descriptor(block)
    descriptor.check(block_count(device) * BLOCK_LEN, record, floor, platform)
    hasher = sha256(block)
    last = descriptor.payload_len // BLOCK_LEN + 1
    for number in range(1, last):
        device.readblocks(number, block)
        hasher.update(block)
    device.readblocks(last, block)
    descriptor.digest = hasher.digest()
    signature.verify(block, descriptor.digest, record["release"])
    return descriptor
