"""What `make bench` measures: sizes of code, and what a virtual board does on real servers.

Times are compared within one run, the two sides in turn, the best of each: on a machine with other
work the ratio of the bests moves little, an average much.
"""

import contextlib
import functools
import random
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from demo.stage import DEVICE, MODEL, Stage
from demo.transcript import NotHeldError
from signet import files
from signet.board.virtual.board import HEAP, VirtualBoard
from signet.device import flash_file
from signet.device.settings import Settings
from signet.fleet.reports import WAIT_S
from signet.formats import documents, signing
from signet.image import mpy, slot_image, stage1
from signet.pki import authority
from signet.release import publishing
from signet.sources import SOURCE
from trust.image import Descriptor

BALLAST_KB = (0, 90, 180)  # by which the images of the update's heap are larger than the real one
_BENCH_APP = Path(__file__).with_name("board_app.py")
_BENCH_HEAP = "128wK"  # twice an ESP32's: the bench's own code and buffers are in it, too
_VERIFY_ROUNDS = 300
_DOWNLOAD_ROUNDS = 60
_UPDATE_ROUNDS = 5
_IDLE_SAMPLES = 3
_WATCHDOG_S = 30
_APP = "firmware.app"
_BUILT = int(time.time())  # one for all: a board refuses an image older than the one it runs


class Size(NamedTuple):
    """Bytes of .mpy by module; empty: what as many empty modules take."""

    modules: dict[str, int]
    empty: int

    @property
    def total(self) -> int:
        return sum(self.modules.values())


class Pair(NamedTuple):
    """Best times of the bare and of the real thing, in microseconds."""

    bare_us: int
    real_us: int


class Download(NamedTuple):
    """Best times of a download in microseconds: from the first block in flash on, and in all."""

    bare_us: int
    real_us: int
    all_bare_us: int
    all_real_us: int


class Board(NamedTuple):
    """What a board tells of itself. downloads: by bytes of the image, smallest first."""

    resident: Size
    verify: Pair
    downloads: dict[int, Download]


class Update(NamedTuple):
    """confirmed_s: from the order to the event. online_s: from power-on to the first state."""

    confirmed_s: float
    online_s: float
    restarts: int


class Heap(NamedTuple):
    """Live bytes after a collection. shims: before boot.py. idle: highest of a few samples.

    updates: (image size, idle before the order, highest sample until it was confirmed). names:
    those that MicroPython has not, before boot.py and idle. largest: least of a few samples of the
    largest free block, idle.
    """

    shims: int
    idle: int
    updates: list[tuple[int, int, int]]
    names: tuple[int, int]
    largest: int


def make_fleet(stage: Stage) -> None:
    """Keys, servers, and a folder for the board."""
    authority.init_pki(stage.pki, ["localhost", "127.0.0.1"])
    stage.start_servers()
    stage.flash.parent.mkdir()


def measure_stage1() -> Size:
    compiled = stage1.compile_modules(SOURCE)
    return Size({name: len(code) for name, code in compiled.items()}, _empty_len(compiled))


def measure_board(stage: Stage) -> Board:
    """What only code on the board can measure (board_app.py)."""
    content = _make_image(stage, "1.0.0", app=_BENCH_APP)
    served = [_make_update(stage, ballast_kb) for ballast_kb in (BALLAST_KB[0], BALLAST_KB[-1])]
    with _new_board(stage, content, heap=_BENCH_HEAP):
        resident = _resident(_ask_modules(stage), slot_image.inspect_image(content).files)
        verify = Pair(**_command(stage, "verify", rounds=_VERIFY_ROUNDS))
        orders = [_prepare(stage, content)[0] for content in served]
        times = _command(stage, "download", rounds=_DOWNLOAD_ROUNDS, orders=orders)
    downloads = {len(content): Download(*best) for content, best in zip(served, times, strict=True)}
    return Board(resident, verify, downloads)


def measure_update(stage: Stage) -> Update:
    """The update 1.0.0 to 1.1.0 of a new board, the fastest of a few."""
    old, new = _make_image(stage, "1.0.0"), _make_update(stage)
    rounds: list[Update] = []
    for _ in range(_UPDATE_ROUNDS):
        with _new_board(stage, old) as online_s:
            _, wire = _prepare(stage, new)
            mark, started = stage.mark, time.monotonic()
            publishing.publish(stage.operator, DEVICE, wire)
            stage.wait_for_update("confirmed", mark)
            elapsed_s = time.monotonic() - started
            rounds.append(Update(elapsed_s, online_s, len(stage.board.boots) - 1))
    return min(rounds)


def measure_heap(stage: Stage) -> Heap:
    """One board that takes three updates, each with a larger image; its heap all the while."""
    updates = []
    details: list[tuple[int, int]] = []  # before boot.py, then idle
    with _new_board(stage, _make_image(stage, "1.0.0"), record_heap=True):
        for ballast_kb in BALLAST_KB:
            new = _make_update(stage, ballast_kb)
            _, wire = _prepare(stage, new)
            idle = _measure_idle(stage)
            details = details or stage.board.heap_details()
            start, mark = len(stage.board.heap_samples()), stage.mark
            publishing.publish(stage.operator, DEVICE, wire)
            _sample_until_confirmed(stage, mark)
            samples = stage.board.heap_samples()
            updates.append((len(new), idle, max(used for _, used in samples[start:])))
            _wait_until_confirmed(stage, new, mark)
        shims = max(used for when, used in samples if when == "boot")
    names = details[0][0], details[-1][0]
    return Heap(shims, updates[0][1], updates, names, min(block for _, block in details[1:]))


def _empty_len(names: Iterable[str]) -> int:
    """Bytes of .mpy that modules of these names take without any content."""
    with tempfile.NamedTemporaryFile(prefix="signet-bench-", suffix=".py") as empty:
        compiled = mpy.compile_sources(dict.fromkeys(names, Path(empty.name)))
    return sum(map(len, compiled.values()))


def _resident(loaded: list[str], packed: dict[str, int]) -> Size:
    """The loaded modules that come from the slot, but for the application.

    loaded: names in sys.modules. packed: size by path in the slot. Stage 1 is not in the slot.
    """
    by_module = {_module_name(path): size for path, size in packed.items()}
    found = {name: by_module[name] for name in loaded if name in by_module and name != _APP}
    if not {"firmware.agent", "mqtt.client"} <= set(found):
        raise NotHeldError(f"an idle agent has loaded {', '.join(found) or 'nothing'}")
    return Size(found, _empty_len(name + ".py" for name in found))


def _module_name(path: str) -> str:
    """By which a board imports a file of its slot."""
    path = path.removeprefix("/").removesuffix(".mpy")
    return path.removesuffix("/__init__").replace("/", ".")


def _make_update(stage: Stage, ballast_kb: int = 0) -> bytes:
    """1.1.0, and 1.2.0 and so on, the larger ones."""
    number = BALLAST_KB.index(ballast_kb) + 1
    return _make_image(stage, f"1.{number}.0", 1 + number, ballast_kb)


@functools.cache
def _make_image(
    stage: Stage, version: str, counter: int = 1, ballast_kb: int = 0, app: Path | None = None
) -> bytes:
    """A signed image of this checkout, with so many KB of data."""
    data = None
    if ballast_kb:
        data = stage.folder / f"data-{ballast_kb}"
        data.mkdir()
        ballast = random.Random(ballast_kb).randbytes(ballast_kb * 1024)
        (data / "ballast").write_bytes(ballast)
    described = slot_image.Release(version, MODEL, counter, slot_image.DEFAULT_PLATFORM, _BUILT)
    unsigned = slot_image.build_image(described, SOURCE, app, data)
    return slot_image.sign_image(unsigned, stage.pki / "release.key")


@contextlib.contextmanager
def _new_board(
    stage: Stage, content: bytes, heap: str = HEAP, record_heap: bool = False
) -> Iterator[float]:
    """A new board with this image, connected; gives the seconds from power-on to its first state.

    heap: an ESP32's, unless the bench itself needs room on the board.
    """
    signed = stage.folder / "provisioned.img"
    files.replace_file(signed, content, files.OURS)
    stage.flash.unlink(missing_ok=True)
    address = stage.fleet.addresses
    settings = Settings(
        DEVICE, MODEL, "A1", address["broker"], address["images"], address["ntp"], _WATCHDOG_S
    )
    flash_file.provision(settings, stage.pki, signed, SOURCE, stage.flash)
    mark, started = stage.mark, time.monotonic()
    with VirtualBoard(stage.flash.parent, heap=heap) as stage.board:
        stage.board.power_on(record_heap=record_heap)
        _wait_until_confirmed(stage, content, mark)
        yield time.monotonic() - started


def _prepare(stage: Stage, content: bytes) -> tuple[documents.Document, bytes]:
    """Serve an image, and make the order for it: as it is and as it is sent."""
    publishing.store_image(
        stage.fleet.folder, content, signing.key_digest(stage.pki / "release.pub")
    )
    order = stage.make_order(content)
    return order, documents.sign_document(order, stage.pki / "fleet.key")


def _wait_until_confirmed(stage: Stage, content: bytes, mark: int) -> None:
    version = Descriptor(content).version
    stage.reports.wait_for_state(mark, version=version, status="confirmed")


def _command(stage: Stage, name: str, **args: Any) -> Any:
    """Have the bench's application do something; what it answers."""
    answer = stage.reports.ask(name, args)
    if not answer["ok"]:
        raise NotHeldError(f"the board could not {name}: {answer['reason']}")
    return answer["result"]


def _ask_modules(stage: Stage) -> list[str]:
    mark = stage.mark
    _command(stage, "modules")
    wanted = stage.reports.wait_for("its modules", lambda _, report: "modules" in report, mark)
    loaded: list[str] = wanted["modules"]
    return loaded


def _measure_idle(stage: Stage) -> int:
    return max(stage.board.measure_heap() for _ in range(_IDLE_SAMPLES))


def _sample_until_confirmed(stage: Stage, mark: int) -> None:
    """Ask for the heap again and again; the board logs it at every flash operation besides."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        stage.board.measure_heap()
        if any(m.json().get("result") == "confirmed" for m in stage.operator.messages[mark:]):
            return
    raise NotHeldError(f"the board did not confirm an update within {WAIT_S} s")
