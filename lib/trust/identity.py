"""The device's identity: a reader of Espressif's esp_secure_cert partition.

Certificates, private key and the provisioning record that Signet keeps in user
entry 51.  Each entry carries a CRC, which is checked before the entry is used;
the partition is written once, by provisioning, and never by the firmware.

Format: esp_secure_cert_mgr, `esp_secure_cert_tlv_config.h`: a 12-byte header,
data padded to 16, and a CRC-32 over both; the list ends where flash is erased.
"""

import binascii
import json
import struct

from micropython import const

from . import TrustError, block_count

PROFILES = ("dev", "production", "sealed")  # of images and boards, by their number

CA_CERT = const(0)
DEVICE_CERT = const(1)
PRIVATE_KEY = const(2)
RECORD = const(51)

_MAGIC = const(0xBA5EBA11)
_BLOCK_LEN = const(4096)
_HEADER_LEN = const(12)
_MAX_ENTRIES = const(32)
_MAX_CHAIN = const(4)
_FIELDS = const(
    ("id", "model", "profile", "broker", "images", "ntp", "release", "fleet", "watchdog_s")
)


class IdentityError(TrustError):
    """The identity partition is missing something or is damaged."""


class Identity:
    """Entries of an identity partition.

    device: a block device whose `readblocks` takes an offset.
    """

    def __init__(self, device):
        self._device = device
        self._size = block_count(device) * _BLOCK_LEN

    def _read(self, offset, length):
        buf = bytearray(length)
        self._device.readblocks(offset // _BLOCK_LEN, buf, offset % _BLOCK_LEN)
        return buf

    def entry(self, kind, subtype=0):
        """The data of an entry (bytes, as stored), its CRC checked.

        Raises IdentityError if there is none or if it is damaged.
        """
        data = self._find(kind, subtype)
        if data is None:
            raise IdentityError("identity: no entry of type %d" % kind)
        return data

    def _find(self, kind, subtype):
        offset = 0
        for _ in range(_MAX_ENTRIES):
            if offset + _HEADER_LEN > self._size:
                break
            magic, flags, type_, found, length = struct.unpack(
                "<IBxxxBBH", self._read(offset, _HEADER_LEN)
            )
            if magic != _MAGIC:
                break
            crc_at = offset + _HEADER_LEN + (length + 15 & ~15)
            if crc_at + 4 > self._size:
                raise IdentityError("identity: entry of type %d runs past the partition" % type_)
            if type_ == kind and found == subtype:
                raw = self._read(offset, crc_at - offset + 4)
                # The IDF starts its CRC register at 0; binascii's seed is the complement.
                if binascii.crc32(memoryview(raw)[:-4], 0xFFFFFFFF) != int.from_bytes(
                    raw[-4:], "little"
                ):
                    raise IdentityError("identity: entry of type %d has a wrong CRC" % type_)
                if flags:
                    raise IdentityError(
                        "identity: entry of type %d has flags 0x%02x, expected a plain one"
                        % (type_, flags)
                    )
                return bytes(raw[_HEADER_LEN : _HEADER_LEN + length])
            offset = crc_at + 4
        return None

    @property
    def certificate(self):
        """Device certificate and its issuers without the root, PEM."""
        chain = self.entry(DEVICE_CERT).rstrip(b"\0")
        for subtype in range(1, _MAX_CHAIN):
            issuer = self._find(DEVICE_CERT, subtype)
            if issuer is None:
                break
            chain += issuer.rstrip(b"\0")
        return chain

    @property
    def key(self):
        """Private key, PEM."""
        return self.entry(PRIVATE_KEY).rstrip(b"\0")

    @property
    def ca(self):
        """Certificate of the CA that broker and image server must chain to, PEM."""
        return self.entry(CA_CERT).rstrip(b"\0")

    def record(self):
        """The provisioning record (docs/design.md, "Identity").

        Key digests as bytes, the profile as its number in `PROFILES`.
        """
        try:
            record = json.loads(self.entry(RECORD).rstrip(b"\0"))
        except ValueError:
            raise IdentityError("provisioning record: not JSON")
        if not isinstance(record, dict) or record.get("v") != 1:
            raise IdentityError("provisioning record: expected version 1")
        for field in _FIELDS:
            if field not in record:
                raise IdentityError("provisioning record: no %r" % field)
        if record["profile"] not in PROFILES:
            raise IdentityError("provisioning record: profile %r, not known" % record["profile"])
        record["profile"] = PROFILES.index(record["profile"])
        for field in ("release", "fleet"):
            try:
                digests = [binascii.unhexlify(digest) for digest in record[field]]
            except (TypeError, ValueError):
                digests = []
            if not digests or any(len(digest) != 32 for digest in digests):
                raise IdentityError("provisioning record: %r needs SHA-256 digests" % field)
            record[field] = digests
        return record
