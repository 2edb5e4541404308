"""The fleet's MQTT broker: a mosquitto process with a generated configuration.

TLS 1.2 or later, and three listeners: devices, operators and services, each with the CA that its
clients' certificates have to be from. The access list goes by names, which is the same: what a CA's
own certificate permits, OpenSSL holds it to (signet/pki/authority.py). An access list for each
listener would say it more plainly, but with one mosquitto 2.0 drops what is sent to a device that
is away. Revoked certificates are not looked for yet.

A device's client id is its certificate's common name, whatever it says itself: it has one session,
and no other device can take it over. Operators and services choose theirs, and can.

mosquitto never runs as root. Started by root, it runs as another account from its first
instruction on, in a folder that this account can look into but not change.
"""

import contextlib
import os
import pwd
import resource
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from signet import files, locks
from signet.errors import SignetError
from signet.fleet import logs
from signet.pki import authority, names
from signet.run import ending_with_us
from signet.sources import find_tool

MAX_DEVICES = 10_000  # connections at once; fewer where this process may open fewer files
MEMORY_LIMIT = 1 << 30  # bytes of heap; who wants more is disconnected
_MAX_OTHERS = 100  # operators; services
_OTHER_FILES = 256  # theirs, and the broker's own
_ACCOUNTS = "mosquitto", "nobody"
_START_S = 60  # it takes a second; several on a loaded machine
_STOP_S = 60
_POLL_S = 0.02
_MAX_QUOTE_LEN = 400
_CONFIG = "mosquitto.conf"
_KEY = "server.key"
_PASSABLE = 0o710  # the account's group goes through, and sees nothing
_ACCESS_LIST = f"""\
# A device says what is its own and hears what is its own: %u is its certificate's common name.
pattern write signet/%u/up/state
pattern write signet/%u/up/event
pattern write signet/%u/up/telemetry
pattern read signet/%u/down/+

# Names that no other CA can sign. The levels are those of a device's topics: with '/' in the name
# of one there were more.
user {names.OPERATOR_NAME}
topic read signet/+/up/+
topic write signet/+/down/+

user {names.SERVICE_NAME}
topic read signet/+/up/+
"""
# Paths are relative to the broker's folder: its account need not be able to enter those above.
_LISTENER = """\
listener {port} {bind}
cafile {role}-ca.pem
certfile server.pem
keyfile server.key
tls_version tlsv1.2
require_certificate true
use_identity_as_username true
max_connections {connections}
"""
# The largest message is an update order: 2,240 bytes and its topic. A board takes one message
# after the other, each when the one before is answered: so two are in flight to it, which it has
# room for whatever their size, and the others wait here. What waits for one board is bounded; what
# is beyond that, mosquitto drops with a line in its log. A session is kept for longer than an order
# can live. Memory: a connected device takes 21 KB, and its retained messages 24 KB at most.
# Subscriptions are the one thing of a device that has no bound but that of all memory.
_CONFIGURATION = """\
allow_anonymous false
acl_file access

{device}
use_username_as_clientid true
max_qos 1

{operator}
{service}
set_tcp_nodelay true
max_packet_size 8192
max_inflight_messages 2
max_queued_messages 1000
max_queued_bytes 2097152
persistent_client_expiration 35d
memory_limit {memory}

persistence true
persistence_location db/
autosave_interval 10

log_dest stderr
log_timestamp_format %Y-%m-%dT%H:%M:%S
log_type error
log_type warning
log_type notice
log_type information
"""
# A folder that is named by mistake may have files of these names.
_OWN = {
    "access": files.Kind("an access list of Signet's", lambda head: b"signet/%u/" in head),
    "mosquitto.conf": files.Kind("a configuration", lambda head: b"acl_file access\n" in head),
}
_PEM = files.Kind("a certificate or key", lambda head: head.startswith(b"-----BEGIN "))


class Broker:
    """One mosquitto process on one folder; start and stop it as often as needed."""

    def __init__(
        self,
        folder: Path,
        pki: Path,
        bind: str,
        port: int,
        operators_port: int = 0,
        services_port: int = 0,
        configuration: str = _CONFIGURATION,
    ):
        """port: for devices. configuration: as the fleet's, with some of the {names} in it."""
        self.port = port
        self.operators_port = operators_port
        self.services_port = services_port
        self._folder = folder
        self._home = folder / "broker"
        self._pki = pki
        self._bind = bind
        self._configuration = configuration
        self.log = folder / "broker.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start mosquitto, from a thread that stays, and wait until it listens.

        Raises SignetError if it does not, with its own words, or if one runs on this folder.
        """
        program = find_tool("mosquitto")
        refusal = f"{self._folder}: a broker runs on it already"
        claimed = locks.claim(
            self._folder / "lock", refusal, "stop it first, or use another folder"
        )
        account = _choose_account() if os.geteuid() == 0 else None
        with claimed as lock, logs.open_log(self.log) as log, _entered(program.parent) as place:
            self._lay_out(account)
            logged = log.tell()
            self._process = subprocess.Popen(
                # Both are reached from here, whoever may enter the folders above them.
                [*ending_with_us(), f"/proc/self/fd/{place}/{program.name}", "-c", _CONFIG],
                cwd=self._home,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,  # Ctrl-C is for us: we stop it in order
                pass_fds=[lock.fileno(), place],  # locked for as long as mosquitto lives
                umask=0o077,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
            )  # fmt: skip
            locks.name_holder(lock, self._process.pid)
        end = time.monotonic() + _START_S
        while time.monotonic() < end:
            with self.log.open("rb") as file:
                file.seek(logged)
                said = file.read()
            if self._process.poll() is not None:
                hint = f"started by root, it runs as {account.pw_name}" if account else None
                raise SignetError(f"mosquitto ended at once: {_last_error(said)}", hint)
            if b" running\n" in said:
                return
            time.sleep(_POLL_S)
        self.stop()
        raise SignetError(f"mosquitto does not listen after {_START_S} s, see {self.log}")

    def stop(self) -> None:
        """Stop mosquitto; it saves its sessions and what is queued for them."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        (self._home / _KEY).unlink(missing_ok=True)

    def _lay_out(self, account: pwd.struct_passwd | None) -> None:
        """Write what mosquitto reads; what it writes has a folder of its own.

        account: whose process it will be; None if ours. Nothing is written by root where that
        account could put a link.
        """
        try:
            self._home.mkdir(mode=files.SECRET_FOLDER_MODE, exist_ok=True)
            database = self._home / "db"
            database.mkdir(mode=files.SECRET_FOLDER_MODE, exist_ok=True)
            if account:
                os.chown(self._home, 0, account.pw_gid)
                self._home.chmod(_PASSABLE)
                if database.stat().st_uid != account.pw_uid:
                    for path in (*database.iterdir(), database):
                        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
            for name, content in self._contents().items():
                kind = _OWN.get(name, _PEM)
                files.replace_file(self._home / name, content, kind, files.SECRET_MODE)
                if account:
                    os.chown(self._home / name, account.pw_uid, account.pw_gid)
        except OSError as error:
            raise SignetError(f"{self._home}: cannot lay out: {error.strerror}") from error

    def _contents(self) -> dict[str, bytes]:
        """Configuration, access lists, and copies of the certificates and the key."""
        ports = {
            "device": self.port, "operator": self.operators_port, "service": self.services_port
        }  # fmt: skip
        listeners = {
            role: _LISTENER.format(
                role=role, port=port, bind=self._bind,
                connections=_count_devices() if role == "device" else _MAX_OTHERS,
            )
            for role, port in ports.items()
        }  # fmt: skip
        text = self._configuration.format(
            port=self.port, bind=self._bind, memory=MEMORY_LIMIT, **listeners
        )
        contents = {_CONFIG: text.encode(), "access": _ACCESS_LIST.encode()}
        for role in ports:
            path = authority.anchor(self._pki, role)
            contents[path.name] = files.read_file(path, "CA certificate")
        for name in ("server.pem", _KEY):
            contents[name] = files.read_file(self._pki / name, "server's certificate or key")
        return contents


@contextlib.contextmanager
def _entered(folder: Path) -> Iterator[int]:
    """A descriptor of a folder, for a process that could not come to it by itself."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _choose_account() -> pwd.struct_passwd:
    """Whose process the broker is when root starts it."""
    for name in _ACCOUNTS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise SignetError(
        f"the broker never runs as root: expected an account {_ACCOUNTS}, found none",
        "start it as another user, or make one: adduser --system mosquitto",
    )


def _count_devices() -> int:
    """How many may be connected: operators get in even if each file is taken that we may open."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return MAX_DEVICES
    return max(1, min(MAX_DEVICES, most - _OTHER_FILES))


def _last_error(log: bytes) -> str:
    lines = log.decode(errors="replace").splitlines()
    telling = [line for line in lines if "rror" in line or "denied" in line]
    return "; ".join(telling)[-_MAX_QUOTE_LEN:] or "it gave no reason"
