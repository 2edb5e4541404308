"""Field-service tokens: signed permission to open one device's console until its next reset.

A token is a document that the release key signed. Its number is the time of issue, in one sequence
with update orders: a device takes no number twice (firmware/ondemand/service.py).
"""

from signet.errors import RefusedError
from signet.formats import documents, signing
from signet.formats.documents import Document
from signet.pki import names

KIND = "console"


def make_token(device: str, number: int, expires: int) -> Document:
    """The token for a device. number: time of issue. Both times are Unix seconds."""
    names.check_device_id(device)
    return {"v": 1, "kind": KIND, "number": number, "expires": expires, "device": device}


def open_token(wire: bytes, key_digest: bytes) -> Document:
    """The token in a file or message, verified; RefusedError if it is none that this key signed."""
    try:
        token = documents.open_document(wire, key_digest)
    except ValueError as error:
        raise RefusedError("not a token: no JSON") from error
    if not isinstance(token, dict) or (token.get("v"), token.get("kind")) != (1, KIND):
        text = wire[: -signing.BLOCK_LEN]
        raise RefusedError(f"not a {KIND} token: {text[:80]!r}")
    return token
