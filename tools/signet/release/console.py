"""Send a device the token that opens its console."""

import time
from pathlib import Path

from signet.device import service_token
from signet.errors import RefusedError
from signet.fleet.session import OperatorSession
from signet.formats import signing
from signet.formats.documents import Document, utc


def send(pki_folder: Path, broker: str, device: str, wire: bytes) -> Document:
    """Send a token to its device; returns it once the broker has queued it.

    broker: "host:port". Raises RefusedError, and sends nothing, if the release key did not sign it,
    if it is for another device or has expired.
    """
    token = service_token.open_token(wire, signing.key_digest(pki_folder / "release.pub"))
    if token["device"] != device:
        raise RefusedError(f"token for device {token['device']!r}, not for {device!r}")
    now = int(time.time())
    if token["expires"] <= now:
        raise RefusedError(f"token expired at {utc(token['expires'])}, it is {utc(now)}")
    with OperatorSession(pki_folder, broker) as session:
        session.publish(f"signet/{device}/down/{service_token.KIND}", wire)
    return token
