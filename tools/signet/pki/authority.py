"""A fleet's keys and certificates: one folder of PEM files, made once.

    root-ca     signs all below; burned into every device as the CA it trusts
    device-ca   signs device certificates and nothing else (path length 0)
    server      broker and image server: serverAuth, the names from --host
    operator    the fleet operator's client certificate, CN "operator:demo"
    release     RSA-3072, signs images; belongs offline
    fleet       RSA-3072, signs update orders

`<name>.pem` is a certificate, `<name>.pub` a bare public key, `<name>.key` a private key with mode
0600. `init_pki` makes the folder whole or not at all; nothing here ever overwrites a file. The
private key of a device is made in memory and handed to the caller.
"""

import datetime
import ipaddress
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from signet import files
from signet.errors import RefusedError, SignetError
from signet.pki import names

ROOT_CA_DAYS = 25 * 365
DEVICE_CA_DAYS = 20 * 365
DEVICE_DAYS = 15 * 365  # the life of a device in the field: it cannot renew by itself yet
SERVER_DAYS = 397  # what browsers accept; servers can be renewed at any time
OPERATOR_DAYS = 397
CLOCK_SKEW = datetime.timedelta(hours=1)  # certificates are valid at once where clocks differ

SIGNING_KEY_BITS = 3072  # Secure Boot v2 knows this size only
SIGNING_KEY_EXPONENT = 65537


@dataclass(frozen=True)
class Authority:
    """A certificate authority that can sign."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def init_pki(folder: Path, hosts: list[str]) -> None:
    """Make the folder with all keys and certificates of a new fleet.

    hosts: DNS names and IP addresses of broker and image server, at least one. Raises RefusedError
    if the folder exists and is not empty. The files appear together, by one rename.
    """
    server_names = [_general_name(host) for host in hosts]
    if not server_names:
        raise SignetError("no host name for the server certificate, expected at least one")
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise RefusedError(f"{folder}: exists, and keys are never overwritten",
                           "choose another folder, or move this one away")  # fmt: skip
    # Named before it is made: an interruption finds either nothing or what to remove.
    temporary = folder.parent / f".{folder.name}.{secrets.token_hex(4)}"
    try:
        temporary.mkdir(files.SECRET_FOLDER_MODE)
        _fill(temporary, server_names)
        os.rename(temporary, folder)  # fails unless `folder` is missing or still empty
    except OSError as error:
        raise SignetError(f"{folder}: cannot create: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # gone already if it was renamed


def _fill(folder: Path, server_names: list[x509.GeneralName]) -> None:
    root_key = _new_key()
    root = Authority(
        _certificate(_name("Signet root CA"), root_key.public_key(), ROOT_CA_DAYS, None, root_key,
                     _ca_extensions(path_length=1)),
        root_key,
    )  # fmt: skip
    _save_pair(folder, "root-ca", root.certificate, root_key)
    for name, subject, days, extensions in (
        ("device-ca", "Signet device CA", DEVICE_CA_DAYS, _ca_extensions(path_length=0)),
        ("server", "Signet server", SERVER_DAYS,
         [*_leaf_extensions(ExtendedKeyUsageOID.SERVER_AUTH),
          (x509.SubjectAlternativeName(server_names), False)]),
        ("operator", names.OPERATOR_NAME, OPERATOR_DAYS,
         _leaf_extensions(ExtendedKeyUsageOID.CLIENT_AUTH)),
    ):  # fmt: skip
        key = _new_key()
        certificate = _certificate(
            _name(subject),
            key.public_key(),
            days,
            root.certificate,
            root.key,
            extensions,
        )
        _save_pair(folder, name, certificate, key)
    for name in ("release", "fleet"):
        signing_key = rsa.generate_private_key(SIGNING_KEY_EXPONENT, SIGNING_KEY_BITS)
        files.create_exclusive(folder / f"{name}.key", _key_pem(signing_key), files.SECRET_MODE)
        files.create_exclusive(folder / f"{name}.pub", _public_pem(signing_key.public_key()))


def issue_device(folder: Path, device_id: str, serial: int | None = None) -> tuple[bytes, bytes]:
    """Make a device's key and certificate: (chain PEM: leaf, device CA; key PEM).

    The key (P-256) exists only in what is returned. serial: of the certificate; None draws one.
    Raises SignetError if the id has a wrong form or the folder lacks its device CA.
    """
    names.check_device_id(device_id)
    key = _new_key()
    return certify_device(folder, device_id, key.public_key(), serial), _key_pem(key)


def certify_device(
    folder: Path, device_id: str, public_key: ec.EllipticCurvePublicKey, serial: int | None = None
) -> bytes:
    """A certificate for a device's key, wherever that was made: chain PEM: leaf, device CA."""
    names.check_device_id(device_id)
    authority = load_device_ca(folder)
    certificate = _certificate(
        _name(device_id), public_key, DEVICE_DAYS, authority.certificate, authority.key,
        _leaf_extensions(ExtendedKeyUsageOID.CLIENT_AUTH), serial,
    )  # fmt: skip
    return _certificate_pem(certificate) + _certificate_pem(authority.certificate)


def load_device_ca(folder: Path) -> Authority:
    """The CA that signs device certificates; SignetError if it is missing or not a pair."""
    return _load_authority(folder, "device-ca")


def new_serial() -> int:
    """A random serial number for a certificate (RFC 5280, 4.1.2.2: at most 20 bytes)."""
    return x509.random_serial_number()


_Extensions = list[tuple[x509.ExtensionType, bool]]


def _certificate(
    subject: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    days: int,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
    extensions: _Extensions,
    serial: int | None = None,
) -> x509.Certificate:
    """Sign a certificate; without an issuer it is self-signed. Never outlives its issuer."""
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    end = now + datetime.timedelta(days=days)
    if issuer is not None:
        end = min(end, issuer.not_valid_after_utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(public_key)
        .serial_number(new_serial() if serial is None else serial)
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256())


def _ca_extensions(path_length: int) -> _Extensions:
    return [
        (x509.BasicConstraints(ca=True, path_length=path_length), True),
        (_key_usage(key_cert_sign=True, crl_sign=True), True),
    ]


def _leaf_extensions(purpose: x509.ObjectIdentifier) -> _Extensions:
    return [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(digital_signature=True), True),
        (x509.ExtendedKeyUsage([purpose]), False),
    ]


def _key_usage(**used: bool) -> x509.KeyUsage:
    every = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
             "key_agreement", "key_cert_sign", "crl_sign", "encipher_only",
             "decipher_only")  # fmt: skip
    return x509.KeyUsage(**{name: used.get(name, False) for name in every})


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if not names.HOST_NAME.fullmatch(host):
            raise SignetError(f"host {host!r}, expected a DNS name or an IP address") from None
        return x509.DNSName(host)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _load_authority(folder: Path, name: str) -> Authority:
    pem = files.read_file(folder / f"{name}.pem", "CA certificate")
    key_pem = files.read_file(folder / f"{name}.key", "CA key")
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError) as error:
        raise SignetError(f"{folder}: {name} is not a certificate with its key, in PEM") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SignetError(f"{folder / name}.key: expected an EC key")
    if key.public_key() != certificate.public_key():
        raise SignetError(f"{folder / name}.key: not the key of {name}.pem")
    return Authority(certificate, key)


def _save_pair(
    folder: Path,
    name: str,
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
) -> None:
    files.create_exclusive(folder / f"{name}.key", _key_pem(key), files.SECRET_MODE)
    files.create_exclusive(folder / f"{name}.pem", _certificate_pem(certificate))


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _public_pem(key: rsa.RSAPublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
