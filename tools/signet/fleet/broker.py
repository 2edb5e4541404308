"""The fleet's MQTT broker: a mosquitto process with a generated configuration.

TLS 1.2 or later on the only listener, a client certificate that chains to the fleet's root CA, its
common name as the user name, and an access list by user name. Revoked certificates are not looked
for yet. Client ids are not bound to identities: mosquitto lets any client with a valid certificate
take over the session of a client id that it knows, and what is queued there is lost (never read:
the access list still goes by the certificate). Only ids that cannot be guessed prevent that.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

from signet import files, locks
from signet.errors import SignetError
from signet.pki.names import OPERATOR_NAME
from signet.project import TOOLCHAIN
from signet.run import ending_with_us

_START_S = 60  # it takes a second; several on a loaded machine
_STOP_S = 60
_POLL_S = 0.02
_MAX_QUOTE_LEN = 400
_ACCESS_LIST = f"""\
# A device says what is its own and hears what is its own: %u is its certificate's common name.
pattern write signet/%u/up/#
pattern read signet/%u/down/#

user {OPERATOR_NAME}
topic read signet/+/up/#
topic write signet/+/down/#
"""
# The largest message is an update order: 2,240 bytes and its topic. A board takes one message
# after the other, each when the one before is answered: so two are in flight to it, which it has
# room for whatever their size, and the others wait here. What waits for one board is bounded; what
# is beyond that, mosquitto drops with a line in its log.
# Denied publications and subscriptions appear in the log at level debug only.
_CONFIGURATION = """\
listener {port} {bind}
cafile {pki}/root-ca.pem
certfile {pki}/server.pem
keyfile {pki}/server.key
tls_version tlsv1.2
require_certificate true
use_identity_as_username true
allow_anonymous false
acl_file {folder}/broker/access

set_tcp_nodelay true
max_packet_size 8192
max_inflight_messages 2
max_queued_messages 1000
max_queued_bytes 2097152

persistence true
persistence_location {folder}/broker/
autosave_interval 10

log_dest file {folder}/broker.log
log_timestamp_format %Y-%m-%dT%H:%M:%S
log_type all
"""
# A folder that is named by mistake may have files of these names.
_OWN_ACCESS = files.Kind("an access list of Signet's", lambda head: b"signet/%u/" in head)
_OWN_CONFIGURATION = files.Kind("a configuration of Signet's", lambda head: b"\nacl_file " in head)


class Broker:
    """One mosquitto process on one folder; start and stop it as often as needed."""

    def __init__(
        self, folder: Path, pki: Path, bind: str, port: int, configuration: str = _CONFIGURATION
    ):
        """configuration: as the fleet's, with the same {names} in it."""
        self.port = port
        self._folder = folder
        self._pki = pki
        self._bind = bind
        self._configuration = configuration
        self._log = folder / "broker.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start mosquitto, from a thread that stays, and wait until it listens.

        Raises SignetError if it does not, with its own words, or if one runs on this folder.
        """
        program = _find_mosquitto()
        refusal = f"{self._folder}: a broker runs on it already"
        claimed = locks.claim(
            self._folder / "lock", refusal, "stop it first, or use another folder"
        )
        with claimed as lock, self._log.open("ab") as log:
            configuration = self._write_configuration()
            logged = log.tell()
            self._process = subprocess.Popen(
                [*ending_with_us(), program, "-c", configuration],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,  # Ctrl-C is for us: we stop it in order
                pass_fds=[lock.fileno()],  # locked for as long as mosquitto lives
            )  # fmt: skip
            locks.name_holder(lock, self._process.pid)
        end = time.monotonic() + _START_S
        while time.monotonic() < end:
            said = self._log.read_bytes()[logged:]
            if self._process.poll() is not None:
                raise SignetError(f"mosquitto ended at once: {_last_error(said)}")
            if b" running\n" in said:
                return
            time.sleep(_POLL_S)
        self.stop()
        raise SignetError(f"mosquitto does not listen after {_START_S} s, see {self._log}")

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

    def _write_configuration(self) -> Path:
        broker = self._folder / "broker"
        broker.mkdir(mode=files.SECRET_FOLDER_MODE, exist_ok=True)
        text = self._configuration.format(
            port=self.port, bind=self._bind, pki=self._pki.resolve(), folder=self._folder.resolve()
        )
        if os.geteuid() == 0:
            text += "user root\n"  # or it becomes a user who cannot read the server's key
        files.replace_file(broker / "access", _ACCESS_LIST.encode(), _OWN_ACCESS)
        os.chmod(broker / "access", files.SECRET_MODE)  # mosquitto asks for it
        files.replace_file(broker / "mosquitto.conf", text.encode(), _OWN_CONFIGURATION)
        return broker / "mosquitto.conf"


def _find_mosquitto() -> Path:
    """The one that `make setup` put beside the tools, else the one on PATH."""
    ours = TOOLCHAIN / "mosquitto"
    found = (
        ours if ours.exists() else shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
    )
    if found is None:
        raise SignetError("mosquitto: program not found", "make setup installs it")
    return Path(found)


def _last_error(log: bytes) -> str:
    lines = [line for line in log.decode(errors="replace").splitlines() if "rror" in line]
    return "; ".join(lines)[-_MAX_QUOTE_LEN:] or "it gave no reason"
