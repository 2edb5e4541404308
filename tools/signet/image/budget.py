"""What an application takes of a board's heap, and whether a board has that.

A stock ESP32 gives MicroPython 56,000 bytes. The agent has most of it; an application that needs
more gets a second piece, of a size that is chosen (firmware/ondemand/reserve.py), and whatever
that takes, Wi-Fi and TLS do not have. So there are two limits, one for each side.

The figures of a board are measured, and so are the prices: heap before and after an import, on an
emulated ESP32, for 14 modules of this project and two that are nothing but functions or classes.
They are within 12 % of each. `make qemu-check` gives those of a board anew.
"""

from dataclasses import dataclass
from pathlib import Path

from signet.errors import RefusedError
from signet.formats import mpy_file
from signet.image import mpy, names

FIRST_SEGMENT = 56_000
MOST_RESERVE_KB = 48  # a larger piece of the heap cannot be cut out of an ESP32's memory
DEFAULT_RESERVE_KB = 16  # `_HEAP_KB` of firmware/ondemand/start.py
_ENOUGH_FOR_NETWORK = 24 * 1024
LEAST_FOR_NETWORK = 12 * 1024  # below it, connections fail for lack of memory

_APP = "firmware/app.py"
_AGENT = "firmware/agent.py"
_COMES_AND_GOES = "firmware/ondemand/"
_KB = 1024
_RESERVE_STEP_KB = 4
_RESERVE_MORE = 5 * _KB // 2  # what the IDF loses beside what was asked for: 1.1 to 2.1 KB
# What an order, an update or a new connection takes for a moment, and a heap in pieces wastes.
_WORK = 12 * _KB

# Bytes of heap.
_PER_CODE_BYTE = 1.25  # of what a .mpy file has behind its table of names
_PER_FUNCTION = 60  # method, class body, lambda, comprehension, module
_PER_NAME = 20  # that neither MicroPython nor the agent has


@dataclass(frozen=True)
class Board:
    """A board with a stock MicroPython, measured; bytes.

    live: heap of the agent, connected, without an application, after a collection.
    network: free IDF heap beside a connection, in an update too, with nothing reserved.
    """

    micropython: tuple[int, int, int]
    live: int
    network: int


BOARDS = (
    Board((1, 25, 0), live=43_700, network=68_000),
    Board((1, 26, 0), live=45_300, network=66_000),
)


@dataclass(frozen=True)
class Cost:
    """Bytes of heap that an application takes; names: how many new ones."""

    code: int
    names: int
    data: int

    @property
    def total(self) -> int:
        return self.code + self.names * _PER_NAME + self.data


@dataclass(frozen=True)
class Room:
    """An application on a board; bytes. left: of the heap. network: of the IDF's heap."""

    board: Board
    reserve_kb: int
    left: int
    network: int

    @property
    def fits(self) -> bool:
        return self.left >= 0 and self.network >= LEAST_FOR_NETWORK


def application_cost(sources: dict[str, Path], files: dict[str, bytes], data_kb: int) -> Cost:
    """What the application in a slot takes: firmware/app.py, and what only that imports.

    sources: path in the slot and file of everything in it (`slot_image.slot_sources`). files: what
    mpy-cross made of them.
    """
    reached = _reached(sources, _APP) - _reached(sources, _AGENT, _APP)
    own = {name: files[name] for path in reached if (name := _compiled_name(path)) in files}
    others = {name: files[name] for name in files.keys() - own.keys()}
    code = 0
    for content in own.values():
        parsed = mpy_file.parse(content)
        code += round(parsed.code_len * _PER_CODE_BYTE) + len(parsed.functions) * _PER_FUNCTION
    return Cost(code, len(names.own_names(own) - names.own_names(others)), data_kb * _KB)


def _reached(sources: dict[str, Path], start: str, without: str = "") -> set[str]:
    """The files of a slot that one file imports, and theirs, but for what comes and goes."""
    resident = {
        name: path
        for name, path in sources.items()
        if name != without and not name.startswith(_COMES_AND_GOES)
    }
    return mpy.reached(resident, [start])


def _compiled_name(path: str) -> str:
    return path.removesuffix(".py") + ".mpy"


def rooms(cost: Cost, reserve_kb: int, least: tuple[int, int, int]) -> list[Room]:
    """The application on each board that is known; least: the oldest MicroPython that runs it.

    reserve_kb: what the manifest asks for; boards reserve at least their default.
    """
    reserve_kb = max(reserve_kb, DEFAULT_RESERVE_KB)
    heap = FIRST_SEGMENT + reserve_kb * _KB
    taken = reserve_kb * _KB + _RESERVE_MORE
    boards = [board for board in BOARDS if board.micropython >= least] or [BOARDS[-1]]
    return [
        Room(board, reserve_kb, heap - _WORK - board.live - cost.total, board.network - taken)
        for board in boards
    ]


def check_room(cost: Cost, reserve_kb: int, least: tuple[int, int, int]) -> list[Room]:
    """The rooms, for an application that fits each board; else RefusedError with what to do."""
    found = rooms(cost, reserve_kb, least)
    problems = [_problem(room) for room in found if not room.fits]
    if not problems:
        return found
    enough_kb = least_reserve_kb(cost, least)
    raise RefusedError(
        f"the application takes {cost.total} bytes of heap, which does not fit: "
        + "; ".join(problems),
        f"signet.toml: [heap] reserve_kb = {enough_kb}"
        if enough_kb
        else "no board has that; make code or data smaller",
    )


def describe(cost: Cost, rooms: list[Room]) -> list[str]:
    """Lines for people: what the application takes, and what each board has left."""
    return [
        f"the application takes {_kb(cost.total)} KB of heap: code {_kb(cost.code)}, "
        f"{cost.names} names, data {_kb(cost.data)}",
        *(
            f"MicroPython {_version(room)}, {room.reserve_kb} KB reserved: {_kb(room.left)} KB "
            f"left; {_kb(room.network)} KB for the network"
            + ("" if room.network >= _ENOUGH_FOR_NETWORK else ", which is little")
            for room in rooms
        ),
    ]


def _kb(length: int) -> str:
    return f"{length / _KB:.1f}"


def _version(room: Room) -> str:
    return ".".join(map(str, room.board.micropython))


def least_reserve_kb(cost: Cost, least: tuple[int, int, int]) -> int | None:
    """The smallest reserve with which the application fits each board; None if there is none."""
    for size_kb in range(DEFAULT_RESERVE_KB, MOST_RESERVE_KB + 1, _RESERVE_STEP_KB):
        if all(room.fits for room in rooms(cost, size_kb, least)):
            return size_kb
    return None


def _problem(room: Room) -> str:
    version = _version(room)
    if room.left < 0:
        return f"on MicroPython {version} with {room.reserve_kb} KB reserved, {-room.left} too many"
    return (
        f"on MicroPython {version}, {room.reserve_kb} KB reserved leave the network "
        f"{room.network} bytes, expected {LEAST_FOR_NETWORK}"
    )
