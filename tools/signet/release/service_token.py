"""Field-service tokens: signed permission to open one device's console until its next reset.

A token is JSON, signed in the common form with the release key, and kept and sent as orders are:
JSON, then the signature block. Its number is the time of issue, in one sequence with update orders:
a device takes no number twice (firmware/service.py).
"""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from signet import files
from signet.errors import RefusedError, refusals_about
from signet.fleet import serving
from signet.fleet.session import OperatorSession
from signet.formats import signing
from signet.pki import authority
from signet.release.publishing import MAX_LIFETIME_S, sign_order

KIND = "console"

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)

Token = dict[str, Any]


def make_token(device: str, number: int, expires: int) -> Token:
    """The token for a device. number: time of issue. Both times are Unix seconds."""
    authority.check_device_id(device)
    return {"v": 1, "kind": KIND, "number": number, "expires": expires, "device": device}


def open_token(wire: bytes, key_digest: bytes) -> Token:
    """The token in a file or message, verified; RefusedError if it is none that this key signed."""
    text, block = wire[: -signing.BLOCK_LEN], wire[-signing.BLOCK_LEN :]
    signing.verify_bytes(signing.pad(text) + signing.pad(block), [key_digest])
    try:
        token: Token = json.loads(text)
    except ValueError as error:
        raise RefusedError("not a token: no JSON") from error
    if not isinstance(token, dict) or (token.get("v"), token.get("kind")) != (1, KIND):
        raise RefusedError(f"not a {KIND} token: {text[:80]!r}")
    return token


def send(pki_folder: Path, broker: str, device: str, wire: bytes) -> Token:
    """Send a token to its device; returns it once the broker has queued it.

    broker: "host:port". Raises RefusedError, and sends nothing, if the release key did not sign it,
    if it is for another device or has expired.
    """
    token = open_token(wire, signing.key_digest(pki_folder / "release.pub"))
    if token["device"] != device:
        raise RefusedError(f"token for device {token['device']!r}, not for {device!r}")
    now = int(time.time())
    if token["expires"] <= now:
        raise RefusedError(f"token expired at {_date(token['expires'])}, it is {_date(now)}")
    with OperatorSession(pki_folder, broker) as session:
        session.publish(f"signet/{device}/down/{KIND}", wire)
    return token


def _date(unix_s: int) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M:%S} UTC"


@click.command("token")
@click.option("--key", type=_FILE, required=True, help="Release key, PEM (RSA-3072).")
@click.option("--device", required=True, help="Device id.")
@click.option("--valid", type=click.IntRange(1, MAX_LIFETIME_S), default=3600, show_default=True,
              help="Seconds for which the device may take it.")  # fmt: skip
@click.option("-o", "--output", type=_FILE, required=True, help="The token; mode 0600.")
def device_token(key: Path, device: str, valid: int, output: Path) -> None:
    """Sign a token that opens one device's console, once and until its next reset.

    It is made where the release key is, and sent with "release console". A device takes no token
    that is older than the last order or token that it accepted.
    """
    now = int(time.time())
    token = make_token(device, now, now + valid)
    wire = sign_order(token, key)
    open_token(wire, signing.key_digest(key))
    files.write_new_secret(output, wire)  # and reads it back
    click.echo(f"{output}: console of {device}, number {now}, valid until {_date(now + valid)}")


@click.command("console")
@click.option("--pki", "pki_folder", type=_FOLDER, required=True, help="Folder of `pki init`.")
@click.option("--fleet", "folder", type=_FOLDER, required=True, help="Folder of `fleet serve`.")
@click.option("--broker", metavar="HOST:PORT", help="Default: the one that serves the folder.")
@click.option("--device", required=True, help="Device id.")
@click.option("--token", "path", type=_FILE, required=True, help="File of `device token`.")
def release_console(
    pki_folder: Path, folder: Path, broker: str | None, device: str, path: Path
) -> None:
    """Send a device the token that opens its console.

    The device reports it, restarts into the REPL, and the next reset shuts the console again. What
    it said is in its events: "console opens", or why not.
    """
    authority.check_device_id(device)  # or '+' and '/' would reach other topics
    broker = broker or serving.running_address(folder, "broker")
    with refusals_about(path):
        token = send(pki_folder, broker, device, files.read_file(path, "token"))
    click.echo(
        f"console of {device}: token {token['number']} sent, valid until {_date(token['expires'])}"
    )
