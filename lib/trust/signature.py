"""Secure Boot v2 signature sectors, RSA-3072-PSS: the one form of all that is signed.

Guarantees that a sector was made over a given SHA-256 digest by one of the
trusted keys.  Does not hash the data: the caller passes the digest of what it
has read itself, never one that the sector claims.  Only the first of the three
blocks that the format has room for is used, as the ESP32's own ROM does; what
follows it must be erased, so that nothing can ride along unverified.

Layout: ESP-IDF `ets_secure_boot_sig_block_t` (Secure Boot v2, "Signature Block
Format").  Padding: EMSA-PSS-VERIFY, RFC 8017 section 9.1.2, with SHA-256, MGF1
with SHA-256 and a salt of 32 bytes.
"""

import binascii
from hashlib import sha256

from micropython import const

from . import TrustError

BLOCK_LEN = const(1216)

_RSA_LEN = const(384)  # 3072 bits
_KEY = const(36)  # n, e, R^2 mod n, M': what the key digest covers
_KEY_END = const(812)
_EXPONENT = const(420)
_SIGNATURE = const(812)
_CRC = const(1196)
_DB_LEN = const(351)  # emLen - hLen - 1
_SALT = const(319)  # offset of the salt in DB: 318 zeros and 0x01 before it


class SignatureError(TrustError):
    """The signature is malformed, by an unknown key, or not over this data."""


def verify(sector, digest, keys):
    """Return the digest of the trusted key that signed `digest`.

    sector: at least one signature block (1216 bytes); anything after it must be 0xFF.
    digest: SHA-256 over the data and its padding, 32 bytes.
    keys: trusted keys, SHA-256 over block[36:812] each, 32 bytes.
    Raises SignatureError in every other case.
    """
    if len(sector) < BLOCK_LEN:
        raise SignatureError("signature block: %d bytes, expected %d" % (len(sector), BLOCK_LEN))
    block = memoryview(sector)[:BLOCK_LEN]
    if block[0] != 0xE7:
        raise SignatureError("no signature: magic byte 0x%02x, expected 0xe7" % block[0])
    if block[1] != 2:
        raise SignatureError("signature version %d, expected 2 (RSA)" % block[1])
    if binascii.crc32(block[:_CRC]) != int.from_bytes(block[_CRC : _CRC + 4], "little"):
        raise SignatureError("signature block: wrong CRC")
    # Neither the CRC nor the signature covers these.
    if any(block[2:4]) or any(block[_CRC + 4 :]):
        raise SignatureError("signature block: reserved bytes, expected 0")
    for byte in memoryview(sector)[BLOCK_LEN:]:
        if byte != 0xFF:
            raise SignatureError("data after the signature block, expected 0xff")
    if bytes(block[4:_KEY]) != digest:
        raise SignatureError("signature is over other data: digest does not match")
    exponent = int.from_bytes(block[_EXPONENT : _EXPONENT + 4], "little")
    if exponent != 65537:
        raise SignatureError("key: exponent %d, expected 65537" % exponent)
    if not block[_KEY + _RSA_LEN - 1] & 0x80:
        raise SignatureError("key: modulus is not 3072 bits long")
    key_digest = sha256(block[_KEY:_KEY_END]).digest()
    if key_digest not in keys:
        raise SignatureError(
            "signed by an unknown key " + binascii.hexlify(key_digest[:8]).decode() + "…"
        )
    _verify_pss(
        int.from_bytes(block[_KEY : _KEY + _RSA_LEN], "little"),
        int.from_bytes(block[_SIGNATURE : _SIGNATURE + _RSA_LEN], "little"),
        digest,
    )
    return key_digest


def _verify_pss(n, signature, digest):
    """EMSA-PSS-VERIFY, RFC 8017 section 9.1.2, steps numbered as there."""
    if signature >= n:  # RSAVP1, section 5.2.2, step 1
        raise SignatureError("signature is not below the modulus")
    encoded = bytearray(pow(signature, 65537, n).to_bytes(_RSA_LEN, "big"))
    seed = bytes(encoded[_DB_LEN : _DB_LEN + 32])
    good = encoded[-1] == 0xBC and not encoded[0] & 0x80  # steps 4 and 6
    for counter in range(11):  # steps 7 and 8: MGF1, appendix B.2.1
        mask = sha256(seed + counter.to_bytes(4, "big")).digest()
        start = counter * 32
        for i in range(min(32, _DB_LEN - start)):
            encoded[start + i] ^= mask[i]
    encoded[0] &= 0x7F  # step 9: emBits is 3071
    for i in range(_SALT - 1):  # step 10
        if encoded[i]:
            good = False
    if encoded[_SALT - 1] != 1:
        good = False
    digest = sha256(b"\0" * 8 + digest + encoded[_SALT:_DB_LEN]).digest()  # steps 12 and 13
    if not good or digest != seed:
        raise SignatureError("signature does not verify (RSA-PSS)")
