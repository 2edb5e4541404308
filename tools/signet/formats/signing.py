"""Sign bytes and check signatures: Secure Boot v2, RSA-3072-PSS.

Signing is done by `espsecure sign-data --version 2`, checking by the device's own verifier
(`trust.signature`); what was just signed is checked by both. A private key is never read here,
only its path is passed on, except to derive its public half.
"""

import hashlib
import struct
import tempfile
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from signet import files
from signet.errors import RefusedError, SignetError
from signet.run import run_program
from trust import signature as trust_signature

SECTOR_LEN = 4096
BLOCK_LEN = 1216
_KEY_BITS = 3072
_EXPONENT = 65537
_KEY_FIELDS = slice(36, 812)  # of a signature block: n, e, R, M'


def pad(data: bytes) -> bytes:
    """The data with 0xFF up to a multiple of 4096, as it is signed."""
    return data + b"\xff" * (-len(data) % SECTOR_LEN)


def sign_bytes(data: bytes, key: Path, twice: bool = True) -> bytes:
    """Return the data, padded to 4096, and the signature sector (4096 bytes) after it.

    key: a PEM file with an RSA-3072 private key. twice: checked by espsecure, too, which takes as
    long as to sign; what is for the developer's own board can do without. Raises SignetError if the
    key cannot be used, and RefusedError if what espsecure wrote does not verify, with our verifier
    or with its own.
    """
    digest = key_digest(key)
    with tempfile.TemporaryDirectory(prefix="signet-") as folder:
        unsigned, signed = Path(folder, "unsigned"), Path(folder, "signed")
        unsigned.write_bytes(data)
        options = ("--version", "2", "--keyfile", key)
        run_program("espsecure", "sign-data", *options, "--output", signed, unsigned)
        result = signed.read_bytes()
        if twice:
            run_program("espsecure", "verify-signature", *options, signed)
    if result[:-SECTOR_LEN] != pad(data):
        raise RefusedError("espsecure changed the data that it signed")
    verify_bytes(result, [digest])
    return result


def verify_bytes(signed: bytes, key_digests: list[bytes]) -> bytes:
    """Return the data of signed bytes (padding included), verified with one of the trusted keys."""
    data, sector = signed[:-SECTOR_LEN], signed[-SECTOR_LEN:]
    try:
        trust_signature.verify(sector, hashlib.sha256(data).digest(), key_digests)
    except trust_signature.SignatureError as error:
        raise RefusedError(str(error)) from error
    return data


def block_key_digest(block: bytes) -> bytes:
    """The digest of the key that a signature block carries; it says nothing about trust."""
    return hashlib.sha256(block[_KEY_FIELDS]).digest()


def key_digest(path: Path) -> bytes:
    """SHA-256 over a key as a signature block holds it: what devices and eFuses are told to trust.

    path: PEM file, public or private, RSA-3072 with e = 65537; SignetError for every other.
    """
    return pem_digest(files.read_file(path, "key"), str(path))


def pem_digest(pem: bytes, name: str) -> bytes:
    """`key_digest` of a key that is not in a file; errors call it `name`."""
    numbers = _load_public(pem, name).public_numbers()
    r = (1 << (2 * _KEY_BITS)) % numbers.n  # Montgomery constants, ESP-IDF "Secure Boot v2"
    m = -pow(numbers.n, -1, 1 << 32) % (1 << 32)
    fields = struct.pack("<384sI384sI", _little(numbers.n), numbers.e, _little(r), m)
    return hashlib.sha256(fields).digest()


def _load_public(pem: bytes, name: str) -> rsa.RSAPublicKey:
    try:
        if b"PRIVATE KEY-----" in pem:
            # Who signs with it checks the private numbers: that takes longer than all else here.
            key: object = serialization.load_pem_private_key(
                pem, password=None, unsafe_skip_rsa_key_validation=True
            ).public_key()
        else:
            key = serialization.load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SignetError(f"{name}: not an unencrypted PEM key") from error
    if not isinstance(key, rsa.RSAPublicKey):
        raise SignetError(f"{name}: expected an RSA-{_KEY_BITS} key, found another kind")
    if key.key_size != _KEY_BITS or key.public_numbers().e != _EXPONENT:
        raise SignetError(
            f"{name}: expected RSA-{_KEY_BITS} with e = {_EXPONENT}, "
            f"found RSA-{key.key_size} with e = {key.public_numbers().e}"
        )
    return key


def _little(number: int) -> bytes:
    return number.to_bytes(_KEY_BITS // 8, "little")
