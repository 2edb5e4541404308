"""A fleet's keys and certificates: one folder of PEM files, made once.

    server-ca    signs `server`; burned into every device as the CA it trusts
    device-ca    signs device certificates
    operator-ca  signs `operator`
    service-ca   signs `service`
    server       broker and image server: serverAuth, the names from --host
    operator     the fleet operator's client certificate, CN "operator.signet"
    service      a back end's client certificate, CN "service.signet": it may read what devices say
    release      RSA-3072, signs images; belongs offline
    fleet        RSA-3072, signs update orders

The four CAs have no root in common: what a certificate may do is told by who issued it. So who has
one CA's key gets nothing of what the others give. Brokers that go by names can do so, because name
constraints in the CAs' own certificates keep their names apart: operators and services have a name
each, and the device CA none with a dot.

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

CA_DAYS = {"server": 25 * 365, "device": 20 * 365, "operator": 20 * 365, "service": 20 * 365}
DEVICE_DAYS = 15 * 365  # the life of a device in the field: it cannot renew by itself yet
SERVER_DAYS = 397  # what browsers accept; servers can be renewed at any time
CLIENT_DAYS = 397  # operator and service
CLOCK_SKEW = datetime.timedelta(hours=1)  # certificates are valid at once where clocks differ

SIGNING_KEY_BITS = 3072  # Secure Boot v2 knows this size only
SIGNING_KEY_EXPONENT = 65537


@dataclass(frozen=True)
class Authority:
    """A certificate authority that can sign."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def init_pki(folder: Path, hosts: list[str], crl_url: str | None = None) -> None:
    """Make the folder with all keys and certificates of a new fleet.

    hosts: DNS names and IP addresses of broker and image server, at least one. crl_url: where a
    list of revoked devices will be; it goes into the device CA's own certificate, and from there
    into each device's. Raises RefusedError if the folder exists and is not empty. The files appear
    together, by one rename.
    """
    server_names = [_general_name(host) for host in hosts]
    if not server_names:
        raise SignetError("no host name for the server certificate, expected at least one")
    crl = [] if crl_url is None else [_crl_place(crl_url)]
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise RefusedError(f"{folder}: exists, and keys are never overwritten",
                           "choose another folder, or move this one away")  # fmt: skip
    # Named before it is made: an interruption finds either nothing or what to remove.
    temporary = folder.parent / f".{folder.name}.{secrets.token_hex(4)}"
    try:
        temporary.mkdir(files.SECRET_FOLDER_MODE)
        _fill(temporary, server_names, crl)
        os.rename(temporary, folder)  # fails unless `folder` is missing or still empty
    except OSError as error:
        raise SignetError(f"{folder}: cannot create: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # gone already if it was renamed


def _fill(folder: Path, server_names: list[x509.GeneralName], crl: "_Extensions") -> None:
    authorities = {}
    for role, days in CA_DAYS.items():
        key = _new_key()
        extensions = _ca_extensions(role) + (crl if role == "device" else [])
        certificate = _certificate(
            _name(f"Signet {role} CA"), key.public_key(), days, None, key, extensions
        )
        authorities[role] = Authority(certificate, key)
        _save_pair(folder, f"{role}-ca", certificate, key)
    for role, subject, days, more in (
        ("server", "Signet server", SERVER_DAYS,
         [(x509.SubjectAlternativeName(server_names), False)]),
        ("operator", names.OPERATOR_NAME, CLIENT_DAYS, []),
        ("service", names.SERVICE_NAME, CLIENT_DAYS, []),
    ):  # fmt: skip
        issuer, key = authorities[role], _new_key()
        extensions = [*_leaf_extensions(_PURPOSES[role]), *more]
        certificate = _certificate(
            _name(subject), key.public_key(), days, issuer.certificate, issuer.key, extensions
        )
        _save_pair(folder, role, certificate, key)
    for name in ("release", "fleet"):
        signing_key = rsa.generate_private_key(SIGNING_KEY_EXPONENT, SIGNING_KEY_BITS)
        files.create_exclusive(folder / f"{name}.key", _key_pem(signing_key), files.SECRET_MODE)
        files.create_exclusive(folder / f"{name}.pub", _public_pem(signing_key.public_key()))


def anchor(folder: Path, role: str) -> Path:
    """The certificate of the CA for a role, "server", "device", "operator" or "service".

    SignetError if the folder has none.
    """
    path = folder / f"{role}-ca.pem"
    if not path.is_file():
        found = "an older fleet's root-ca.pem" if (folder / "root-ca.pem").exists() else "none"
        raise SignetError(
            f"{folder}: expected {path.name}, the CA of {role} certificates, found {found}",
            "signet pki init makes a fleet; boards of an older one have to be provisioned again",
        )
    return path


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
    # In the CA's own certificate it says where the list of what this CA revoked is: the same list.
    crl = [
        (each.value, False)
        for each in authority.certificate.extensions
        if isinstance(each.value, x509.CRLDistributionPoints)
    ]
    certificate = _certificate(
        _name(device_id), public_key, DEVICE_DAYS, authority.certificate, authority.key,
        [*_leaf_extensions(_PURPOSES["device"]), *crl], serial,
    )  # fmt: skip
    return _certificate_pem(certificate) + _certificate_pem(authority.certificate)


def load_device_ca(folder: Path) -> Authority:
    """The CA that signs device certificates; SignetError if it is missing or not a pair."""
    anchor(folder, "device")
    return _load_authority(folder, "device-ca")


def new_serial() -> int:
    """A random serial number for a certificate (RFC 5280, 4.1.2.2: at most 20 bytes)."""
    return x509.random_serial_number()


_Extensions = list[tuple[x509.ExtensionType, bool]]
_PURPOSES = {
    "server": ExtendedKeyUsageOID.SERVER_AUTH,
    "device": ExtendedKeyUsageOID.CLIENT_AUTH,
    "operator": ExtendedKeyUsageOID.CLIENT_AUTH,
    "service": ExtendedKeyUsageOID.CLIENT_AUTH,
}


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


def _ca_extensions(role: str) -> _Extensions:
    extensions: _Extensions = [
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (_key_usage(key_cert_sign=True, crl_sign=True), True),
        # OpenSSL holds a CA to the purpose of what it issues; mbedTLS looks at the leaf alone.
        (x509.ExtendedKeyUsage([_PURPOSES[role]]), False),
    ]
    if role in _NAMES:
        # RFC 5280 wants it critical, but mbedTLS does not load such a certificate, and a board
        # shows that of the device CA. OpenSSL goes by it either way.
        extensions.append((_NAMES[role], False))
    return extensions


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


def _crl_place(url: str) -> tuple[x509.ExtensionType, bool]:
    if not names.CRL_URL.fullmatch(url):
        raise SignetError(f"CRL URL {url!r}, expected http:// or https://, up to 128 characters")
    point = x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)
    return x509.CRLDistributionPoints([point]), False


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


# What names each can sign, whoever has its key. Of a client's names a broker takes the first CN. A
# subject has to begin with what is permitted. And OpenSSL takes a CN that could be a DNS name, with
# two labels or more, for one.
_NAMES = {
    "device": x509.NameConstraints(None, [x509.DNSName("")]),  # no DNS name
    "operator": x509.NameConstraints([x509.DirectoryName(_name(names.OPERATOR_NAME))], None),
    "service": x509.NameConstraints([x509.DirectoryName(_name(names.SERVICE_NAME))], None),
}
