"""The identity partition: what goes into it, and whether it fits together.

A chain is stored as several entries: type 1, subtype 0 for the device's certificate and from
subtype 1 on for its issuers. Entries and their order are those of Espressif's
`configure_esp_secure_cert.py`, which the tests hold the bytes against; what is made is read back
with the device's own reader.
"""

import datetime
import hashlib
import json
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from signet.errors import RefusedError, SignetError
from signet.formats import secure_cert
from signet.formats.flash import BlockDevice
from signet.formats.secure_cert import Entry
from trust import TrustError
from trust.identity import CA_CERT, DEVICE_CERT, PRIVATE_KEY, PROFILES, RECORD, Identity

MAX_RECORD_LEN = 1024
_MAX_CHAIN_LEN = 4
# What a certificate's parts raise: they are read when one is asked for.
_UNREADABLE = (
    ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)  # fmt: skip


def build_identity(chain: bytes, key: bytes, ca: bytes, record: dict[str, Any], size: int) -> bytes:
    """The content of an identity partition of `size` bytes.

    chain: device certificate and its issuers; ca: the CA of servers, which devices trust; both PEM.
    key: the device's private key as it is to be stored (`stored_key`). record: the
    provisioning record (docs/design.md, "Identity"). Raises SignetError if it does not fit,
    RefusedError if what is read back differs.
    """
    certificates = [
        item.public_bytes(serialization.Encoding.PEM) + b"\0" for item in _certificates(chain)
    ]
    content = secure_cert.pack([
        Entry(CA_CERT, 0, _certificates(ca)[0].public_bytes(serialization.Encoding.PEM) + b"\0"),
        Entry(DEVICE_CERT, 0, certificates[0]),
        Entry(PRIVATE_KEY, 0, key),
        *(Entry(DEVICE_CERT, number, pem) for number, pem in enumerate(certificates[1:], 1)),
        Entry(RECORD, 0, encode_record(record)),
    ])  # fmt: skip
    if len(content) > size:
        raise SignetError(f"identity: {len(content)} bytes, the partition holds {size}")
    content = content.ljust(size, b"\xff")
    _read_back(content, chain, key, ca, record)
    return content


def encode_record(record: dict[str, Any]) -> bytes:
    """The provisioning record as it is stored; SignetError if it is too long."""
    data = json.dumps(record, separators=(",", ":")).encode()
    if len(data) > MAX_RECORD_LEN:
        raise SignetError(
            f"provisioning record: {len(data)} bytes, expected at most {MAX_RECORD_LEN}"
        )
    return data


def stored_key(pem: bytes) -> bytes:
    """A private key as Espressif's tool stores it: the traditional PEM form, and a NUL."""
    form = serialization.PrivateFormat.TraditionalOpenSSL
    plain = serialization.NoEncryption()
    return load_key(pem).private_bytes(serialization.Encoding.PEM, form, plain) + b"\0"


def public_key_hash(certificate: x509.Certificate) -> str:
    """What the inventory knows a device's key by: SHA-256 of its SubjectPublicKeyInfo, DER."""
    return key_hash(certificate.public_key())


def key_hash(key: CertificatePublicKeyTypes) -> str:
    """The same of a public key."""
    der = serialization.Encoding.DER
    info = key.public_bytes(der, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(info).hexdigest()


def load_key(data: bytes) -> ec.EllipticCurvePrivateKey:
    """The P-256 key in a PEM text, with or without a NUL, or in DER; else RefusedError."""
    try:
        if data.lstrip().startswith(b"-----"):
            key = serialization.load_pem_private_key(data.rstrip(b"\0"), password=None)
        else:
            key = serialization.load_der_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: encrypted
        raise RefusedError("device key: not an unencrypted PEM private key, nor DER") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise RefusedError("device key: expected a P-256 key")
    return key


def _read_back(content: bytes, chain: bytes, key: bytes, ca: bytes, record: dict[str, Any]) -> None:
    """Refuse a partition from which a device would not read what was put in."""
    identity = Identity(BlockDevice(memoryview(bytearray(content))))
    try:
        found = identity.record()
        same = (
            _certificates(identity.certificate) == _certificates(chain)
            and _certificates(identity.ca) == _certificates(ca)
            and load_key(identity.key).private_numbers() == load_key(key).private_numbers()
        )
    except (TrustError, ValueError, RefusedError) as error:
        raise RefusedError(f"identity partition: cannot be read back: {error}") from error
    found["profile"] = PROFILES[found["profile"]]
    for name in ("release", "fleet"):
        found[name] = [digest.hex() for digest in found[name]]
    if not same or found != record:
        raise RefusedError("identity partition: what was read back differs from what was put in")


def check_device_credentials(
    chain_pem: bytes, key_data: bytes, device_id: str, device_ca: bytes
) -> x509.Certificate:
    """The device's certificate, if a device can log in with it; to be called before it is burned.

    chain_pem: leaf first, then its issuers, with or without the device CA; key_data: PEM or DER;
    device_ca: its certificate, PEM. Raises RefusedError unless the key is the certificate's own and
    P-256, the CN is the id, the certificate may be a TLS client's, every certificate is valid
    today, and the chain ends at the device CA. (A board accepts a foreign key at load and
    fails at the first handshake: mbedTLS does not compare them.)
    """
    key = load_key(key_data)
    try:
        chain = x509.load_pem_x509_certificates(chain_pem)
        _check_leaf(chain[0], key, device_id)
        _check_chain(chain, x509.load_pem_x509_certificate(device_ca))
    except _UNREADABLE as error:
        raise RefusedError(f"device certificate: not PEM certificates: {error}") from error
    return chain[0]


def _check_leaf(leaf: x509.Certificate, key: ec.EllipticCurvePrivateKey, device_id: str) -> None:
    if key.public_key() != leaf.public_key():
        raise RefusedError("device key does not belong to the device certificate")
    found = [str(name.value) for name in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if found != [device_id]:
        raise RefusedError(f"device certificate: CN {found}, expected [{device_id!r}]")
    if not _is_for_clients(leaf):
        raise RefusedError("device certificate: its purposes do not include client authentication")


def _is_for_clients(certificate: x509.Certificate) -> bool:
    try:
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True  # RFC 5280, 4.2.1.12: then for any purpose
    return ExtendedKeyUsageOID.CLIENT_AUTH in purposes


def _check_chain(chain: list[x509.Certificate], anchor: x509.Certificate) -> None:
    if len(chain) > _MAX_CHAIN_LEN:
        raise RefusedError(f"device certificate: chain of {len(chain)}, at most {_MAX_CHAIN_LEN}")
    now = datetime.datetime.now(datetime.UTC)
    for number, certificate in enumerate(chain):
        name = certificate.subject.rfc4514_string()
        issuer = chain[number + 1] if number + 1 < len(chain) else anchor
        try:
            certificate.verify_directly_issued_by(issuer)
            limits = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
            raise RefusedError(
                f"device certificate: {name} was not issued by {issuer.subject.rfc4514_string()}"
            ) from error
        if not limits.ca:
            raise RefusedError(f"device certificate: issuer of {name} is not a CA")
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise RefusedError(
                f"device certificate: {name} is valid from {certificate.not_valid_before_utc} "
                f"to {certificate.not_valid_after_utc}, now is {now:%Y-%m-%d %H:%M}"
            )


def _certificates(pem: bytes) -> list[x509.Certificate]:
    """All certificates of a PEM text; ValueError if it has none or a malformed one."""
    return x509.load_pem_x509_certificates(pem.rstrip(b"\0"))
