"""The ports of a project's servers: chosen once, kept, and held while the servers run.

Boards have them burned in, so they stay the same. Of two projects with the same ports, a copied
folder perhaps, the second to start is told who the first one is.
"""

import contextlib
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from json import dumps
from pathlib import Path

from signet import files, locks
from signet.errors import SignetError
from signet.fleet.serving import LOOPBACK, free_port
from signet.formats.documents import load_object
from signet.project.manifest import Servers

NAME = "ports.json"
_KIND = files.Kind("the ports of a project", lambda head: head.startswith(b'{"ports":'))


@dataclass(frozen=True)
class Ports:
    """Where the servers listen; and board_…, on this machine alone: the network of virtual boards.

    ntp is UDP, all others are TCP.
    """

    broker: int
    operators: int
    services: int
    images: int
    ntp: int
    board_broker: int
    board_images: int


def choose(servers: Servers) -> Ports:
    """Those of the manifest, and free ones."""
    wanted = {field.name: getattr(servers, f"{field.name}_port", None) for field in fields(Ports)}
    taken = {port for port in wanted.values() if port}
    chosen = {}
    for name, port in wanted.items():
        while not port or (port in taken and not wanted[name]):
            port = free_port()
        taken.add(port)
        chosen[name] = port
    return Ports(**chosen)


def keep(path: Path, servers: Servers) -> Ports:
    """The ports in a file, which is made if it is missing; those of the manifest go before them."""
    known: dict[str, int] = {}
    if path.exists():
        try:
            known = load_object(files.read_file(path, "ports"))["ports"]
            ports = Ports(**known)
        except (ValueError, KeyError, TypeError) as error:
            raise SignetError(
                f"{path}: {error!r}, expected what Signet wrote: JSON with the ports",
                f"rm {path}: others are chosen then",
            ) from error
    else:
        ports = choose(servers)
    given = {
        name: getattr(servers, f"{name}_port", None) or port for name, port in asdict(ports).items()
    }
    if given != known:
        text = dumps({"ports": given}).encode() + b"\n"
        files.replace_file(path, text, _KIND, files.SECRET_MODE)
    return Ports(**given)


@contextlib.contextmanager
def hold(ports: Ports, host: str, project: Path, path: Path) -> Iterator[None]:
    """Have the ports for this process until the block ends; SignetError says who has one.

    host: where the servers listen. project: whoever wants them too is told. path: of the kept file.
    """
    with contextlib.ExitStack() as held:
        for name, port in asdict(ports).items():
            place = f"port {port} ({name}) of {project}"
            hint = f"end that one; or rm {path}, and others are chosen; or see [servers]"
            held.enter_context(
                locks.claim(
                    _lock_folder() / f"{port}{'-udp' if name == 'ntp' else ''}",
                    f"{place}: in use by another project", hint, f" for {project}",
                )
            )  # fmt: skip
            kind = socket.SOCK_DGRAM if name == "ntp" else socket.SOCK_STREAM
            where = LOOPBACK if name.startswith("board_") else host
            _check_free(where, port, kind, place, hint)
        yield


def _check_free(host: str, port: int, kind: socket.SocketKind, place: str, hint: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as probe:
        if kind == socket.SOCK_STREAM:  # what has closed lately is not in the way
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SignetError(f"{place}: {error.strerror}, by a program of others", hint) from error


def _lock_folder() -> Path:
    """A folder of this user for locks between his projects."""
    folder = Path(tempfile.gettempdir(), f"signet-ports-{os.getuid()}")
    try:
        folder.mkdir(files.SECRET_FOLDER_MODE, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise SignetError(f"{folder}: {error.strerror}, expected a folder for locks") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise SignetError(f"{folder}: not this user's, expected a folder for locks", f"rm {folder}")
    return folder
