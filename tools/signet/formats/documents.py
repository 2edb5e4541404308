"""Signed documents: update orders, and tokens for a console.

A document is JSON, padded with 0xFF to 4096 and signed as images are. On MQTT and in files the
padding and the rest of the signature sector are left out: JSON, then the signature block (1216
bytes). Orders and tokens have one sequence of numbers, which are Unix seconds.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from signet.errors import RefusedError
from signet.formats import signing

MAX_LEN = 1024  # bytes of JSON
MAX_LIFETIME_S = 30 * 86400  # devices refuse what is valid for longer
MAX_NUMBER = 0xFFFF_FFFF
_YEAR_10000 = 253_402_300_800

Document = dict[str, Any]


def sign_document(document: Document, key: Path) -> bytes:
    """Sign a document; returns it as it is sent: JSON and signature block.

    key: path of the private key, PEM. The result has been verified, as a device does.
    """
    text = json.dumps(document, separators=(",", ":")).encode()
    if len(text) > MAX_LEN:
        raise RefusedError(f"order of {len(text)} bytes, at most {MAX_LEN}")
    sector = signing.sign_bytes(text, key)[-signing.SECTOR_LEN :]
    wire = text + sector[: signing.BLOCK_LEN]
    if open_document(wire, signing.key_digest(key)) != document:
        raise RefusedError("the signed order reads back as another one")
    return wire


def open_document(wire: bytes, key_digest: bytes) -> Document:
    """The document in a file or message, verified; RefusedError if that key did not sign it.

    Raises ValueError if what was signed is not a JSON object.
    """
    text, block = wire[: -signing.BLOCK_LEN], wire[-signing.BLOCK_LEN :]
    signing.verify_bytes(signing.pad(text) + signing.pad(block), [key_digest])
    return load_object(text)


def load_object(data: bytes | str) -> dict[str, Any]:
    """The JSON object in a text; ValueError for whatever else there is.

    Also for what Python's reader does not call a ValueError: lists in lists, a thousand deep.
    """
    try:
        found = json.loads(data)
    except RecursionError as error:
        raise ValueError("JSON of too many levels") from error
    if not isinstance(found, dict):
        raise ValueError(f"JSON, but no object: a {type(found).__name__}")
    return found


def utc(unix_s: int) -> str:
    """A time in a document, for people; what no calendar has is shown as a number."""
    if not 0 <= unix_s < _YEAR_10000:
        return f"{unix_s} s after 1970"
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M:%S} UTC"
