"""Make what the pure tests cannot: keys, signatures, and an identity partition.

Nothing here comes from the code under test.  What is to be accepted is signed by `espsecure
sign-data --version 2`; what is to be refused is signed by `cryptography`, in ways that espsecure
does not offer, and the orders, of which there are many; the identity partition is Espressif's
`configure_esp_secure_cert.py`'s.  The private keys live only as long as `write` takes.
"""

import base64
import csv
import datetime
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import slots
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

RSA_LEN = 384
BY_ESPSECURE = ("1.0.0", "1.1.0", "twin")
ORDER = {
    "v": 1,
    "number": slots.ISSUED,
    "expires": slots.ISSUED + slots.DAY,
    "device": slots.DEVICE,
    "model": slots.MODEL,
    "version": "1.1.0",
    "counter": 2,
    "size": slots.image_len("1.1.0"),
    "path": "/images/signet-test/1.1.0.img",
}
# name: fields that differ from ORDER; None leaves the field out.
ORDERS: dict[str, dict[str, object]] = {
    "good": {},
    "next": {"number": slots.ISSUED + 1},
    "next-1.2.0": {"number": slots.ISSUED + 1, "version": "1.2.0", "size": 4 * slots.BLOCK},
    "older": {"number": slots.ISSUED - 1},
    "expired": {"number": slots.NOW - 100, "expires": slots.NOW},
    "last-second": {"expires": slots.NOW + 1},
    "day-ahead": {"number": slots.NOW + slots.DAY, "expires": slots.NOW + 2 * slots.DAY},
    "far-ahead": {"number": slots.NOW + slots.DAY + 1, "expires": slots.NOW + 2 * slots.DAY},
    "farthest-ahead": {"number": 0xFFFFFFFF, "expires": 0xFFFFFFFF + slots.DAY},
    "30-days": {"expires": slots.ISSUED + 30 * slots.DAY},
    "long-lived": {"expires": slots.ISSUED + 30 * slots.DAY + 1},
    "other-device": {"device": "dev-0002"},
    "other-model": {"model": "signet-other"},
    "counter-0": {"version": "0.9.0", "counter": 0, "size": slots.image_len("counter-0")},
    "lower-counter": {"counter": 1},
    "other-version": {"version": "1.1.1"},
    "other-counter": {"counter": 3},
    "stale-build": {"version": "1.0.5", "size": slots.image_len("stale-build")},
    "image-other-model": {"size": slots.image_len("other-model")},
    "newer-platform": {"size": slots.image_len("newer-platform")},
    "longer-than-slot": {"size": slots.image_len("longer-than-slot")},
    "fills-slot": {"size": slots.image_len("fills-slot")},
    "two-blocks": {"size": 2 * slots.BLOCK},
    "odd-size": {"size": 5 * slots.BLOCK + 1},
    "larger-than-slot": {"size": (slots.SLOT_BLOCKS + 1) * slots.BLOCK},
    "negative-size": {"size": -slots.BLOCK},
    "version-2": {"v": 2},
    "no-version": {"v": None},
    "text-number": {"number": str(slots.ISSUED)},
    "fraction": {"counter": 2.5},
    "no-expiry": {"expires": None},
    "null-path": {"path": []},
    "relative-path": {"path": "images/1.1.0.img"},
    "url": {"path": "https://example.org/1.1.0.img"},
    "header-in-path": {"path": "/1.1.0.img HTTP/1.1\r\nX: y"},
    "wide-path": {"path": "/1.1.0\u00e9.img"},
    "empty-path": {"path": ""},
    "short-digest": {"digest": "ab" * 31},
    "long-digest": {"digest": "ab" * 33},
    "odd-digest": {"digest": "a" * 63},
    "text-digest": {
        "digest": "not hexadecimal, but as long as a SHA-256 digest in this notation"[:64]
    },
}
DIGEST_OF = {  # the image an order names; 1.1.0 where none is given
    "next-1.2.0": "1.2.0",
    "counter-0": "counter-0",
    "stale-build": "stale-build",
    "image-other-model": "other-model",
    "newer-platform": "newer-platform",
    "longer-than-slot": "longer-than-slot",
    "fills-slot": "fills-slot",
}
# name: see sign_padding
ALTERED_PADDING = {
    "padding-trailer": ("EM", RSA_LEN - 1, 0x70),  # 0xCC, as of ISO 9796-2
    "padding-top-bit": ("EM", 0, 0x80),
    "padding-first-byte": ("DB", 0, 0x01),
    "padding-last-byte": ("DB", RSA_LEN - 67, 0x80),
    "padding-separator": ("DB", RSA_LEN - 66, 0x03),
    "padding-no-separator": ("DB", RSA_LEN - 66, 0x01),
    "padding-salt": ("DB", RSA_LEN - 34, 0x01),
    "padding-hash": ("EM", RSA_LEN - 2, 0x01),
}
TOKEN = {
    "v": 1,
    "kind": "console",
    "number": slots.ISSUED,
    "expires": slots.ISSUED + 3600,
    "device": slots.DEVICE,
}
# name: fields that differ from TOKEN, as in ORDERS; signed by the release key.
TOKENS: dict[str, dict[str, object]] = {
    "token": {},
    "token-other-device": {"device": "dev-0002"},
    "token-expired": {"expires": slots.NOW},
    "token-far-ahead": {"number": slots.NOW + slots.DAY + 1, "expires": slots.NOW + 2 * slots.DAY},
    "token-long-lived": {"expires": slots.ISSUED + 30 * slots.DAY + 1},
    "token-other-kind": {"kind": "update"},
    "token-no-kind": {"kind": None},
    "token-text-number": {"number": str(slots.ISSUED)},
    "token-version-2": {"v": 2},
}
TEXTS = {  # signed like orders, and no orders
    "list": b"[1]",
    "text": b'"v"',
    "cut": b'{"v":1,"number":',
    "not-text": b"\x80\x81\x82",
    "empty-object": b"{}",
    "largest": b'{"v":2}'.ljust(1024),
}


def write(path: Path) -> None:
    """Write the vectors as JSON: {"kind/name": base64}, each on a line of its own."""
    keys = {name: rsa.generate_private_key(65537, 3072) for name in ("release", "fleet", "other")}
    vectors = {
        "keys": {name: key_digest(key) for name, key in keys.items()},
        "blocks": image_blocks(keys) | odd_blocks(keys["release"]),
        "orders": orders(keys),
        "identity": identity(keys),
    }
    odd = {
        "exponent-3": rsa.generate_private_key(3, 3072),
        "rsa-2048": rsa.generate_private_key(65537, 2048),
    }
    digest = slots.image_digest("1.0.0")
    for name, key in odd.items():
        vectors["keys"][name] = key_digest(key)
        vectors["blocks"][name] = block(key, digest)
    flat = {
        f"{kind}/{name}": base64.b64encode(data).decode()
        for kind, entries in vectors.items()
        for name, data in entries.items()
    }
    path.write_text(json.dumps(flat, indent=0))


def key_fields(key: rsa.RSAPrivateKey) -> bytes:
    """n, e, R, M' as ESP-IDF's `ets_rsa_pubkey_t` has them."""
    n, e = key.public_key().public_numbers().n, key.public_key().public_numbers().e
    r = pow(2, 16 * RSA_LEN, n)
    m = -pow(n, -1, 1 << 32) % (1 << 32)
    return struct.pack(
        "<384sI384sI", n.to_bytes(RSA_LEN, "little"), e, r.to_bytes(RSA_LEN, "little"), m
    )


def key_digest(key: rsa.RSAPrivateKey) -> bytes:
    return hashlib.sha256(key_fields(key)).digest()


def pss(salt_len: int = 32, mask: hashes.HashAlgorithm | None = None) -> padding.PSS:
    return padding.PSS(padding.MGF1(mask or hashes.SHA256()), salt_len)


def block(
    key: rsa.RSAPrivateKey,
    digest: bytes,
    form: padding.AsymmetricPadding | None = None,
    signature: bytes | None = None,
) -> bytes:
    """A signature block over a digest, by `cryptography`; with `signature` around that number."""
    if signature is None:
        signature = key.sign(digest, form or pss(), utils.Prehashed(hashes.SHA256()))
    body = b"\xe7\x02\0\0" + digest + key_fields(key) + signature[::-1].ljust(RSA_LEN, b"\0")
    return body + struct.pack("<I", zlib.crc32(body)) + bytes(16)


def image_blocks(keys: dict[str, rsa.RSAPrivateKey]) -> dict[str, bytes]:
    blocks = {}
    for name in slots.IMAGES:
        digest = slots.image_digest(name)
        blocks[f"{name} by release"] = block(keys["release"], digest)
    for name in ("fleet", "other"):
        digest = slots.image_digest("1.1.0")
        blocks[f"1.1.0 by {name}"] = block(keys[name], digest)
    with tempfile.TemporaryDirectory(prefix="signet-") as folder, ThreadPoolExecutor(2) as pool:
        paths = {name: Path(folder, name) for name in keys}
        for name, key in keys.items():
            paths[name].write_bytes(private_pem(key))
        jobs = {
            f"{name} by release": pool.submit(espsecure, image_data(name), [paths["release"]])
            for name in BY_ESPSECURE
        }
        jobs["two-keys"] = pool.submit(
            espsecure, image_data("1.0.0"), [paths["release"], paths["other"]]
        )
        sectors = {name: job.result() for name, job in jobs.items()}
    for name in jobs:
        if name == "two-keys":
            continue
        # What `block` makes is what espsecure makes: only signature and CRC may differ.
        if sectors[name][:812] != blocks[name][:812] or sectors[name][1200:1216] != bytes(16):
            raise ValueError(f"{name}: espsecure lays a signature block out in another way")
        if sectors[name][1216:] != b"\xff" * 2880:
            raise ValueError(f"{name}: espsecure left something behind the signature block")
        blocks[name] = sectors[name][:1216]
    blocks["two-keys"] = sectors["two-keys"]
    return blocks


def image_data(name: str) -> bytes:
    return b"".join(map(slots.whole, slots.data_blocks(name)))


def espsecure(data: bytes, keys: list[Path]) -> bytes:
    """The signature sector that espsecure appends."""
    with tempfile.TemporaryDirectory(prefix="signet-") as folder:
        unsigned, signed = Path(folder, "unsigned"), Path(folder, "signed")
        unsigned.write_bytes(data)
        files = [option for key in keys for option in ("--keyfile", key)]
        run_tool("espsecure", "sign-data", "--version", "2", *files, "--output", signed, unsigned)
        return signed.read_bytes()[len(data) :]


def odd_blocks(key: rsa.RSAPrivateKey) -> dict[str, bytes]:
    """Blocks over image 1.0.0 by the right key, and each with a signature that must not verify."""
    digest = slots.image_digest("1.0.0")
    modulus = key.public_key().public_numbers().n
    forms: dict[str, Callable[[], bytes]] = {
        "salt-0": lambda: block(key, digest, pss(0)),
        "salt-20": lambda: block(key, digest, pss(20)),
        "salt-longest": lambda: block(key, digest, pss(RSA_LEN - 34)),
        "mask-sha1": lambda: block(key, digest, pss(32, hashes.SHA1())),
        "pkcs1": lambda: block(key, digest, padding.PKCS1v15()),
        "hashed-twice": lambda: block(
            key, digest, signature=key.sign(digest, pss(), hashes.SHA256())
        ),
        "signature-0": lambda: block(key, digest, signature=bytes(RSA_LEN)),
        "signature-1": lambda: block(key, digest, signature=(1).to_bytes(RSA_LEN, "big")),
        "signature-n-1": lambda: block(
            key, digest, signature=(modulus - 1).to_bytes(RSA_LEN, "big")
        ),
        "signature-n": lambda: block(key, digest, signature=modulus.to_bytes(RSA_LEN, "big")),
        "signature-plus-n": lambda: block(key, digest, signature=above_modulus(key, digest)),
    }
    blocks = {name: make() for name, make in forms.items()}
    for name, alter in ALTERED_PADDING.items():
        blocks[name] = block(key, digest, signature=sign_padding(key, digest, alter))
    key.public_key().verify(
        sign_padding(key, digest, ("", 0, 0)), digest, pss(), utils.Prehashed(hashes.SHA256())
    )
    return blocks


def sign_padding(key: rsa.RSAPrivateKey, digest: bytes, alter: tuple[str, int, int]) -> bytes:
    """EMSA-PSS-ENCODE (RFC 8017, section 9.1.1) with one byte altered, and RSASP1 of that.

    alter: where ("DB": before the mask, "EM": after it), offset, bits to flip.
    """
    where, offset, bits = alter
    numbers = key.private_numbers()
    modulus = numbers.public_numbers.n
    while True:  # until it is a number that the key can sign
        salt = os.urandom(32)
        h = hashlib.sha256(bytes(8) + digest + salt).digest()
        db = bytearray(bytes(RSA_LEN - 66) + b"\x01" + salt)
        if where == "DB":
            db[offset] ^= bits
        seeds = (h + counter.to_bytes(4, "big") for counter in range(11))
        mask = b"".join(hashlib.sha256(seed).digest() for seed in seeds)
        em = bytearray(a ^ b for a, b in zip(db, mask, strict=False))
        em[0] &= 0x7F
        em += h + b"\xbc"
        if where == "EM":
            em[offset] ^= bits
        if (number := int.from_bytes(em, "big")) < modulus:
            return pow(number, numbers.d, modulus).to_bytes(RSA_LEN, "big")


def above_modulus(key: rsa.RSAPrivateKey, digest: bytes) -> bytes:
    """A good signature plus the modulus: the same number to RSA, and another text."""
    modulus = key.public_key().public_numbers().n
    while True:  # the salt differs each time; some signatures leave room, as n is below 2^3072
        signature = int.from_bytes(key.sign(digest, pss(), utils.Prehashed(hashes.SHA256())), "big")
        if signature + modulus < 1 << 8 * RSA_LEN:
            return (signature + modulus).to_bytes(RSA_LEN, "big")


def orders(keys: dict[str, rsa.RSAPrivateKey]) -> dict[str, bytes]:
    """Orders as they are sent: JSON, and the signature block over the JSON padded to 4096."""
    texts = dict(TEXTS)
    for name, changes in ORDERS.items():
        digest = slots.image_digest(DIGEST_OF.get(name, "1.1.0")).hex()
        fields = ORDER | {"digest": digest} | changes
        fields = {field: value for field, value in fields.items() if value is not None}
        texts[name] = json.dumps(fields, separators=(",", ":")).encode()
    signed = {name: sign_order(keys["fleet"], text) for name, text in texts.items()}
    for name, changes in TOKENS.items():
        fields = {field: value for field, value in (TOKEN | changes).items() if value is not None}
        text = json.dumps(fields, separators=(",", ":")).encode()
        signed[name] = sign_order(keys["release"], text)
    token = json.dumps(TOKEN, separators=(",", ":")).encode()
    signed["token-by-fleet"] = sign_order(keys["fleet"], token)
    signed["by-release"] = sign_order(keys["release"], texts["good"])
    signed["by-other"] = sign_order(keys["other"], texts["good"])
    return signed


def sign_order(key: rsa.RSAPrivateKey, text: bytes) -> bytes:
    return text + block(key, hashlib.sha256(text.ljust(slots.BLOCK, b"\xff")).digest())


def identity(keys: dict[str, rsa.RSAPrivateKey]) -> dict[str, bytes]:
    """An identity partition by Espressif's tool, as far as it is written, and what went in."""
    record = slots.DEFAULT_RECORD | {
        name: [key_digest(keys[name]).hex()] for name in ("release", "fleet")
    }
    root_key, ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    root = certificate("root", root_key, "root", root_key)
    issuer = certificate("device CA", ca_key, "root", root_key)
    leaf = certificate(slots.DEVICE, key, "device CA", ca_key)
    files = {
        "ca": root,
        "leaf": leaf,
        "issuer": issuer,
        "key": private_pem(key),
        "record": json.dumps(record, separators=(",", ":")).encode(),
    }
    with tempfile.TemporaryDirectory(prefix="signet-") as name:
        folder = Path(name)
        for file, data in files.items():
            (folder / file).write_bytes(data)
        with (folder / "extra.csv").open("w", newline="") as table:
            rows = csv.writer(table)
            rows.writerow(["tlv_type", "tlv_subtype", "data_value", "data_type", "priv_key_type",
                           "algorithm", "key_size", "efuse_id", "efuse_key"])  # fmt: skip
            rows.writerow(["1", "1", "issuer", "file", "", "", "", "", ""])
            rows.writerow(["51", "0", "record", "file", "", "", "", "", ""])
        run_tool(
            "configure_esp_secure_cert.py", "--target_chip", "esp32", "--skip_flash",
            "--secure_cert_type", "cust_flash_tlv", "--ca-cert", "ca", "--device-cert", "leaf",
            "--private-key", "key", "--priv_key_algo", "ECDSA", "256",
            "--esp_secure_cert_csv", "extra.csv", cwd=folder,
        )  # fmt: skip
        written = (folder / "esp_secure_cert_data/esp_secure_cert.bin").read_bytes()
    return files | {"partition": written.rstrip(b"\xff")}


def certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, issuer_key: ec.EllipticCurvePrivateKey
) -> bytes:
    start = datetime.datetime(2025, 1, 1)
    made = (
        x509.CertificateBuilder()
        .subject_name(common_name(name))
        .issuer_name(common_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .sign(issuer_key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


def common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def private_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def run_tool(name: str, *args: str | Path, cwd: Path | None = None) -> None:
    command = [str(Path(sys.executable).parent / name), *map(str, args)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise RuntimeError(f"{name} failed: {done.stdout}{done.stderr}")
