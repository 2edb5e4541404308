"""What `make bench-mqtt` measures: the client on MicroPython, a broker, a peer that discards.

Everything goes over mutual TLS, from .mpy files that are built as an image's are.
"""

import contextlib
import json
import os
import socket
import ssl
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from demo.transcript import NotHeldError
from signet.fleet.broker import Broker
from signet.fleet.image_server import server_context
from signet.fleet.serving import LOOPBACK
from signet.image import mpy
from signet.pki import authority
from signet.sources import SOURCE, find_tool

CORE = ("__init__", "deadline", "codec", "link", "connect", "setup", "check", "client")
# Other clients: the file by which one is known, in the folder PEERS=… of `make bench-mqtt`.
PEERS = {
    "umqtt.simple": "umqtt/simple.py",
    "mqtt_as": "mqtt_as/__init__.py",
    "mqtt_as 5": "mqtt_as/__init__.py",
}
_PEER_FOLDERS = ("umqtt", "mqtt_as")
_HEAP = "64wK"  # an ESP32's first heap segment, scaled by the size of a word
_ROUNDS = 25
_ROUND_TRIPS = 100
_STARTS = 9
_MOST_WK = 64
_LARGE = 4096  # of the large message, as in mqtt_small.py
_REPEATS = 3  # of the smallest heap that was found, for it to count
_RUN_S = 60
_CONNACK = b"\x20\x02\x00\x00"
# Mosquitto's own defaults, but that it drops nothing which a subscriber is slow to take.
_CONFIGURATION = """\
listener {port} {bind}
cafile device-ca.pem
certfile server.pem
keyfile server.key
require_certificate true
use_identity_as_username true
max_queued_messages 0
set_tcp_nodelay true

log_dest stderr
log_type error
log_type information
"""


class Rate(NamedTuple):
    """Messages a second."""

    ours: float
    bare: float

    @property
    def ratio(self) -> float:
        return round(self.ours / self.bare, 3)


class Times(NamedTuple):
    """What one process measured. rtt, rtt_bare: medians in ms."""

    qos0: Rate
    qos0_coalesced: float  # the floor's rate without TCP_NODELAY
    sequential: Rate
    window: Rate
    receive: Rate
    receive_umqtt: float | None  # umqtt.simple's rate, if its source is there
    rtt: float
    rtt_bare: float


class Start(NamedTuple):
    """Best of a few, in ms."""

    ours: float
    bare: float


class Heap(NamedTuple):
    """Live bytes after a collection, above the empty interpreter; least `-X heapsize`, in wK.

    bare: an open TLS connection. publish, receive: a message of 4 KB goes out; and comes back.
    """

    connected: int
    bare: int
    publish_wk: int
    receive_wk: int


class Peer(NamedTuple):
    """What another client takes: live bytes as in Heap, least heap, bytes of .mpy."""

    connected: int
    publish_wk: int
    receive_wk: int
    mpy_bytes: int


class Lab:
    """A folder with keys and code, a broker, and a TLS peer that discards what comes.

    To be used in a `with` statement, which ends what was started.
    """

    def __init__(self, folder: Path, libraries: Path = SOURCE / "lib", peers: Path | None = None):
        """peers: a folder with the sources of other clients, as the names in PEERS have them."""
        self._code = folder / "code"
        self._environment = os.environ | {"MICROPYPATH": f".frozen:{self._code}"}
        keys = folder / "pki"
        authority.init_pki(keys, [LOOPBACK])
        certificate, key = authority.issue_device(keys, "dev-0001")
        (folder / "device.pem").write_bytes(certificate)
        (folder / "device.key").write_bytes(key)
        self._context = server_context(keys)
        self._discard = socket.create_server((LOOPBACK, 0))
        with socket.create_server((LOOPBACK, 0)) as free:
            port = int(free.getsockname()[1])
        self._broker = Broker(folder, keys, LOOPBACK, port, configuration=_CONFIGURATION)
        self.settings: dict[str, Any] = {
            "host": LOOPBACK,
            "port": port,
            "discard_port": self._discard.getsockname()[1],
            "certificate": str(folder / "device.pem"),
            "key": str(folder / "device.key"),
            "ca": str(keys / "server-ca.pem"),
        }
        sources = {"deadline.py": libraries / "deadline.py"}
        for path in (*(libraries / "mqtt").glob("*.py"), *(libraries / "mtls").glob("*.py")):
            sources[f"{path.parent.name}/{path.name}"] = path
        for name in ("mqtt_app.py", "mqtt_small.py", "mqtt_peers.py"):
            sources[name] = Path(__file__).with_name(name)
        self.peers = mpy.python_files(peers, _PEER_FOLDERS) if peers else {}
        self.add_code(sources | self.peers)

    def __enter__(self) -> "Lab":
        self._broker.start()
        threading.Thread(target=self._serve_discard, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._discard.close()
        self._broker.stop()

    def add_code(self, sources: dict[str, Path]) -> None:
        """Compile modules for `run` to find."""
        for name, code in mpy.compile_sources(sources).items():
            path = self._code / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(code)

    def run(self, module: str, heap: str = _HEAP, **settings: Any) -> Any:
        """The result of a module under MicroPython; NotHeldError if it fails."""
        command = [str(find_tool("micropython")), "-X", f"heapsize={heap}", "-m", module]
        try:
            done = subprocess.run(
                command, input=json.dumps(self.settings | settings) + "\n", timeout=_RUN_S,
                capture_output=True, encoding="utf-8", errors="replace", env=self._environment,
                cwd=self._code,  # which is on sys.path, first
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise NotHeldError(f"{module}: did not end within {_RUN_S} s") from None
        lines = done.stdout.splitlines()
        if done.returncode or not lines:
            last = (done.stderr.splitlines() or lines or ["it said nothing"])[-1]
            raise NotHeldError(f"{module}: exit code {done.returncode}: {last}")
        try:
            return json.loads(lines[-1])
        except ValueError:
            raise NotHeldError(f"{module}: {lines[-1]}") from None

    def _serve_discard(self) -> None:
        """One connection after the other; after its CONNECT, no record is even decrypted.

        So it is faster than whoever writes to it.
        """
        buf = bytearray(1 << 20)
        with contextlib.suppress(OSError):  # the listener, closed at the end
            while True:
                raw = self._discard.accept()[0]
                with contextlib.suppress(OSError), _accept(self._context, raw) as connection:
                    while connection.recv_into(buf):
                        pass


@contextlib.contextmanager
def _accept(context: ssl.SSLContext, raw: socket.socket) -> Iterator[socket.socket]:
    """The plain socket below a TLS connection that was told CONNACK."""
    with context.wrap_socket(raw, server_side=True) as secure:
        secure.recv(256)
        secure.sendall(_CONNACK)
        with socket.socket(fileno=secure.detach()) as below:
            yield below


def measure_code(lab: Lab) -> dict[str, int]:
    """Bytes of .mpy by module of lib/mqtt, and of lib/deadline.py, which it needs.

    NotHeldError if a client at QoS 1 needs a module that is not counted as core.
    """
    name = "lib/deadline.py"
    sources = mpy.python_files(SOURCE, ["lib/mqtt"]) | {name: SOURCE / name}
    extra = {name.removeprefix("mqtt.") for name in lab.run("mqtt_small", mode="loaded")}
    extra.difference_update(CORE)
    if extra:
        raise NotHeldError(f"a client at QoS 1 has loaded {', '.join(sorted(extra))}")
    return {Path(name).stem: len(code) for name, code in mpy.compile_sources(sources).items()}


def measure_times(lab: Lab) -> Times:
    """All that is compared within one process (mqtt_app.py)."""
    with_umqtt = PEERS["umqtt.simple"] in lab.peers
    result = lab.run("mqtt_app", rounds=_ROUNDS, round_trips=_ROUND_TRIPS, umqtt=with_umqtt)
    nodelay, coalesced, qos0 = _per_second(result["qos0"])
    qos1, sequential, window = _per_second(result["qos1"])
    receive_bare, receive, *peers = _per_second(result["receive"])
    return Times(
        Rate(qos0, nodelay),
        coalesced,
        Rate(sequential, qos1),
        Rate(window, qos1),
        Rate(receive, receive_bare),
        peers[0] if peers else None,
        statistics.median(result["rtt"]) / 1000,
        statistics.median(result["rtt_bare"]) / 1000,
    )


def measure_start(lab: Lab) -> Start:
    """From the start of the process to the CONNACK."""
    best = {"start": float("inf"), "start_bare": float("inf")}
    for _ in range(_STARTS):
        for mode in best:
            began = time.time_ns()
            ended = lab.run("mqtt_small", mode=mode)
            best[mode] = min(best[mode], (ended - began) / 1e6)
    return Start(best["start"], best["start_bare"])


def measure_heap(lab: Lab) -> Heap:
    return Heap(
        lab.run("mqtt_small", mode="live"),
        lab.run("mqtt_small", mode="live_bare"),
        _smallest_wk(lab, "mqtt_small", "publish"),
        _smallest_wk(lab, "mqtt_small", "receive"),
    )


def measure_peers(lab: Lab) -> dict[str, Peer]:
    """The other clients whose sources are there, by name."""
    found = {}
    for name, path in PEERS.items():
        if path in lab.peers:
            mode = name.replace(".", "_").replace(" ", "_")
            folder = path.partition("/")[0]
            sources = {key: file for key, file in lab.peers.items() if key.startswith(folder)}
            found[name] = Peer(
                lab.run("mqtt_peers", client=mode, mode="live"),
                _smallest_wk(lab, "mqtt_peers", "publish", client=mode),
                _smallest_wk(lab, "mqtt_peers", "receive", client=mode),
                sum(len(code) for code in mpy.compile_sources(sources).values()),
            )
    return found


def _smallest_wk(lab: Lab, module: str, mode: str, **settings: Any) -> int:
    """Least heap in which the work is done; NotHeldError if it needs more than an ESP32's."""
    settings["mode"] = mode
    if not _fits(lab, module, _MOST_WK, settings):
        lab.run(module, f"{_MOST_WK}wK", **settings)  # says why
    too_small, enough = 0, _MOST_WK
    while enough - too_small > 1:
        middle = (too_small + enough) // 2
        if _fits(lab, module, middle, settings):
            enough = middle
        else:
            too_small = middle
    while not all(_fits(lab, module, enough, settings) for _ in range(_REPEATS)):
        enough += 1
    return enough


def _fits(lab: Lab, module: str, size_wk: int, settings: dict[str, Any]) -> bool:
    with contextlib.suppress(NotHeldError):
        return bool(lab.run(module, f"{size_wk}wK", **settings) == _LARGE)
    return False


def _per_second(measured: list[int]) -> list[float]:
    """Rates, of a number of messages and the times that they took in µs."""
    count, *times = measured
    return [count * 1e6 / taken for taken in times]
