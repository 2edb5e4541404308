"""The identity partition: made by Espressif's own tool, read back by the device's reader.

`configure_esp_secure_cert.py` (esp-secure-cert-tool) reads keys from files and leaves its work
behind, so it runs in a folder of its own, mode 0700, that is removed; no key is in an argument.
It rewrites what it is given: of a PEM file only the first certificate, of a key the traditional
form. So a chain is stored as several entries: type 1, subtype 0 for the device's certificate and
from subtype 1 on for its issuers.
"""

import csv
import datetime
import io
import json
import tempfile
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from signet import files
from signet.errors import RefusedError, SignetError
from signet.flash import BlockDevice
from signet.run import run_program
from trust import TrustError
from trust.identity import DEVICE_CERT, PROFILES, RECORD, Identity

MAX_RECORD_LEN = 1024
_MAX_CHAIN_LEN = 4
_COLUMNS = ("tlv_type", "tlv_subtype", "data_value", "data_type", "priv_key_type", "algorithm",
            "key_size", "efuse_id", "efuse_key")  # fmt: skip


def build_identity(chain: bytes, key: bytes, ca: bytes, record: dict[str, Any], size: int) -> bytes:
    """The content of an identity partition of `size` bytes.

    chain: device certificate and its issuers, without the root; key: the device's private key; ca:
    the CA that devices trust; all PEM. record: the provisioning record (docs/design.md,
    "Identity"). Raises SignetError if it does not fit, RefusedError if what is read back differs.
    """
    record_json = json.dumps(record, separators=(",", ":")).encode()
    if len(record_json) > MAX_RECORD_LEN:
        raise SignetError(
            f"provisioning record: {len(record_json)} bytes, expected at most {MAX_RECORD_LEN}"
        )
    with tempfile.TemporaryDirectory(prefix="signet-") as name:
        content = _run_tool(Path(name), _split_chain(chain), key, ca, record_json)
    if len(content) > size:
        raise SignetError(f"identity: {len(content)} bytes, the partition holds {size}")
    content = content.ljust(size, b"\xff")
    _read_back(content, chain, key, ca, record)
    return content


def _run_tool(folder: Path, chain: list[bytes], key: bytes, ca: bytes, record: bytes) -> bytes:
    extra = [(DEVICE_CERT, number, f"cert{number}.pem") for number in range(1, len(chain))]
    rows = io.StringIO()
    table = csv.DictWriter(rows, _COLUMNS)
    table.writeheader()
    for type_, subtype, name in (*extra, (RECORD, 0, "record.json")):
        table.writerow(
            {"tlv_type": type_, "tlv_subtype": subtype, "data_value": name, "data_type": "file"}
        )
    inputs = {"ca.pem": ca, "key.pem": key, "record.json": record}
    inputs |= {f"cert{number}.pem": certificate for number, certificate in enumerate(chain)}
    inputs["extra.csv"] = rows.getvalue().encode()
    for name, data in inputs.items():
        files.create_exclusive(folder / name, data, files.SECRET_MODE)
    run_program(
        "configure_esp_secure_cert.py", "--target_chip", "esp32", "--skip_flash",
        "--secure_cert_type", "cust_flash_tlv", "--ca-cert", "ca.pem", "--device-cert", "cert0.pem",
        "--private-key", "key.pem", "--priv_key_algo", "ECDSA", "256",
        "--esp_secure_cert_csv", "extra.csv",
        cwd=folder,
    )  # fmt: skip
    return files.read_file(
        folder / "esp_secure_cert_data/esp_secure_cert.bin", "identity partition"
    )


def _read_back(content: bytes, chain: bytes, key: bytes, ca: bytes, record: dict[str, Any]) -> None:
    """Refuse a partition from which a device would not read what was put in."""
    identity = Identity(BlockDevice(memoryview(bytearray(content))))
    try:
        found = identity.record()
        same = (
            _certificates(identity.certificate) == _certificates(chain)
            and _certificates(identity.ca) == _certificates(ca)
            and _private_number(identity.key) == _private_number(key)
        )
    except (TrustError, ValueError) as error:
        raise RefusedError(f"identity partition: cannot be read back: {error}") from error
    found["profile"] = PROFILES[found["profile"]]
    for name in ("release", "fleet"):
        found[name] = [digest.hex() for digest in found[name]]
    if not same or found != record:
        raise RefusedError("identity partition: what was read back differs from what was put in")


def check_device_credentials(chain_pem: bytes, key_pem: bytes, device_id: str, root: bytes) -> None:
    """Refuse credentials with which a device could not log in, before they are burned.

    chain_pem: leaf first, then its issuers up to but not including the root; root: the root CA's
    certificate, PEM. Raises RefusedError unless the key is the certificate's own and P-256, the CN
    is the id, the certificate may be a TLS client's, every certificate is valid today, and the
    chain ends at the root. (A board accepts a foreign key at load and fails at the first handshake:
    mbedTLS does not compare them.)
    """
    try:
        chain = x509.load_pem_x509_certificates(chain_pem)
        anchor = x509.load_pem_x509_certificate(root)
    except ValueError as error:
        raise RefusedError(f"device certificate: not PEM certificates: {error}") from error
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError) as error:  # TypeError: encrypted
        raise RefusedError("device key: not an unencrypted PEM private key") from error
    leaf = chain[0]
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise RefusedError("device key: expected a P-256 key")
    if key.public_key() != leaf.public_key():
        raise RefusedError("device key does not belong to the device certificate")
    found = [str(name.value) for name in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if found != [device_id]:
        raise RefusedError(f"device certificate: CN {found}, expected [{device_id!r}]")
    if not _is_for_clients(leaf):
        raise RefusedError("device certificate: its purposes do not include client authentication")
    _check_chain(chain, anchor)


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


def _split_chain(chain: bytes) -> list[bytes]:
    return [item.public_bytes(serialization.Encoding.PEM) for item in _certificates(chain)]


def _certificates(pem: bytes) -> list[x509.Certificate]:
    """All certificates of a PEM text; ValueError if it has none or a malformed one."""
    return x509.load_pem_x509_certificates(pem.rstrip(b"\0"))


def _private_number(pem: bytes) -> int:
    key = serialization.load_pem_private_key(pem.rstrip(b"\0"), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an EC key")
    return key.private_numbers().private_value
