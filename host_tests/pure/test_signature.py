"""trust.signature against espsecure's sectors and cryptography's signatures."""

import slots

from trust import signature
from trust.signature import SignatureError

_KEY = 36
_SIGNATURE = 812
_CRC = 1196
_END = 1216


def refuse(reason, sector, digest=None, keys=None):
    slots.check_refused(
        reason,
        SignatureError,
        signature.verify,
        sector,
        digest or slots.image_digest("1.0.0"),
        [slots.key_digest("release")] if keys is None else keys,
    )


def altered(offset, mask=1, sealed=True):
    """The block of 1.0.0 with bits of one byte flipped; sealed: with a right CRC again."""
    block = bytearray(slots.block("1.0.0 by release"))
    block[offset] ^= mask
    return slots.reseal(block) if sealed else bytes(block)


def test_espsecure_block_is_accepted():
    release = slots.key_digest("release")
    for name in ("1.0.0", "1.1.0", "twin"):
        block = slots.block(name + " by release")
        digest = slots.image_digest(name)
        for sector in (block, slots.whole(block), memoryview(bytearray(slots.whole(block)))):
            assert signature.verify(sector, digest, [release]) == release


def test_which_of_several_keys_signed():
    digest = slots.image_digest("1.1.0")
    trusted = [slots.key_digest("fleet"), slots.key_digest("release")]
    for name in ("fleet", "release"):
        block = slots.block("1.1.0 by " + name)
        assert signature.verify(block, digest, trusted) == slots.key_digest(name)


def test_order_block_by_cryptography_is_accepted():
    wire = slots.order("good")
    data = wire[: -slots.SIGNATURE_LEN]
    digest = slots.sha256(data + b"\xff" * (4096 - len(data))).digest()
    block = wire[-slots.SIGNATURE_LEN :]
    assert signature.verify(block, digest, [slots.key_digest("fleet")])


def test_untrusted_keys():
    block = slots.block("1.1.0 by other")
    digest = slots.image_digest("1.1.0")
    for keys in ([slots.key_digest("release")], [], [b""], [slots.key_digest("other")[:31]]):
        refuse("signed by an unknown key", block, digest, keys)


def test_malformed_blocks():
    good = slots.block("1.0.0 by release")
    other = slots.block("1.1.0 by release")
    # name: (reason, sector)
    cases = {
        "nothing": ("signature block: 0 bytes, expected 1216", b""),
        "one byte short": ("signature block: 1215 bytes, expected 1216", good[:-1]),
        "erased": ("no signature: magic byte 0xff, expected 0xe7", b"\xff" * 4096),
        "zeros": ("no signature: magic byte 0x00, expected 0xe7", bytes(4096)),
        "magic": ("no signature: magic byte 0xe6, expected 0xe7", altered(0)),
        "version 3, ECDSA": ("signature version 3, expected 2", altered(1)),
        "CRC": ("wrong CRC", altered(_CRC, sealed=False)),
        "byte behind": ("data after the signature block", good + b"\0"),
        "last byte": ("data after the signature block", slots.whole(good)[:-1] + b"\xfe"),
        "second block": ("data after the signature block", slots.block("two-keys")),
        "block twice": ("data after the signature block", good + good),
        "other data": ("signature is over other data: digest does not match", other),
        "its digest field": ("signature is over other data", altered(4)),
        "other signature": ("does not verify", slots.reseal(good[:812] + other[812:])),
    }
    for name in cases:
        reason, sector = cases[name]
        refuse(reason, sector)


def test_any_flipped_bit_is_refused():
    block = bytearray(slots.block("1.0.0 by release"))
    digest, keys = slots.image_digest("1.0.0"), [slots.key_digest("release")]
    for offset in range(_CRC + 4):
        block[offset] ^= 1 << offset % 8
        slots.check_refused("signature", SignatureError, signature.verify, block, digest, keys)
        block[offset] ^= 1 << offset % 8
    assert signature.verify(block, digest, keys)


def test_altered_key_with_a_right_crc():
    for offset in (_KEY, _KEY + 383 - 1, _KEY + 388, _KEY + 388 + 383, _SIGNATURE - 4, 811):
        refuse("signed by an unknown key", altered(offset))
    refuse("exponent 65536, expected 65537", altered(420))
    refuse("modulus is not 3072 bits long", altered(_KEY + 383, 0x80))


def test_altered_signature_with_a_right_crc():
    for offset in range(_SIGNATURE, _CRC, 29):
        refuse("signature", altered(offset, 1 << offset % 8))


def test_weak_keys_are_refused_even_if_trusted():
    trusted = [slots.key_digest(name) for name in ("release", "exponent-3", "rsa-2048")]
    refuse("exponent 3, expected 65537", slots.block("exponent-3"), keys=trusted)
    refuse("modulus is not 3072 bits long", slots.block("rsa-2048"), keys=trusted)


def test_other_paddings_by_the_right_key():
    for name in ("salt-0", "salt-20", "salt-longest", "mask-sha1", "pkcs1", "hashed-twice"):
        refuse("does not verify (RSA-PSS)", slots.block(name))


def test_padding_with_one_byte_altered():
    """By the right key, over the right digest: each step of EMSA-PSS-VERIFY has to look."""
    names = ("trailer", "top-bit", "first-byte", "last-byte", "separator", "no-separator")
    for name in names + ("salt", "hash"):
        refuse("does not verify (RSA-PSS)", slots.block("padding-" + name))


def test_signatures_that_are_no_signature():
    for name in ("signature-0", "signature-1", "signature-n-1"):
        refuse("does not verify (RSA-PSS)", slots.block(name))
    # The same number to RSA as a good signature, written in another way.
    for name in ("signature-n", "signature-plus-n"):
        refuse("signature is not below the modulus", slots.block(name))


def test_nothing_rides_along_in_the_block():
    """Reserved bytes, that neither CRC nor signature covers or that anyone can seal again."""
    for offset in (2, 3):
        refuse("expected 0", altered(offset))
    for offset in range(_CRC + 4, _END):
        refuse("expected 0", altered(offset))
