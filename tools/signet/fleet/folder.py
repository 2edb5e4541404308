"""The folder of a fleet's servers: what lies in it, and where they listen.

DIR/images/<model>/<version>.img  what the image server gives out
DIR/images.log, broker.log        one line of JSON a request; mosquitto's log. Older: .log.1
DIR/broker/                       mosquitto's configuration, access lists, and copies of its keys
DIR/broker/db/                    its sessions, and what it retains
DIR/fleet.json                    addresses, while the servers run
DIR/lock                          held by mosquitto: a second one, or one left over, is noticed
"""

from pathlib import Path

from signet import files
from signet.errors import SignetError
from signet.formats.documents import load_object

STATE_NAME = "fleet.json"
OWN_STATE = files.Kind("addresses of a fleet's servers", lambda head: head.startswith(b'{"pid":'))
# What a model and a version look like in a path: no separator, no leading dot, never empty.
SEGMENT = r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}"


def running_address(folder: Path, server: str) -> str:
    """Where a server of a fleet folder listens, "host:port"; SignetError if none runs there.

    server: "broker" (for devices), "images", "ntp", "operators" or "services" (of the broker).
    """
    state = folder / STATE_NAME
    if not state.exists():
        raise SignetError(
            f"{folder}: no servers run on this folder", f"signet fleet serve {folder}"
        )
    try:
        return str(load_object(files.read_file(state, "addresses"))[server])
    except (ValueError, KeyError) as error:
        raise SignetError(
            f"{state}: {error!r}, expected what `signet fleet serve` wrote: JSON with {server!r}",
            "stop the servers and start them again",
        ) from error
