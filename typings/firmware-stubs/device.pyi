"""What an application is given, for editors and type checkers.

    from firmware.device import Device

    async def run(device: Device): ...

The import costs a board nothing: the module is there in any case.
"""

from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Literal, TextIO, TypeAlias, overload

_Default: TypeAlias = (
    bool
    | tuple[bool]
    | tuple[float, float, float]
    | tuple[str, int]
    | tuple[str, tuple[str, ...] | list[str]]
    | tuple[int, tuple[int, ...] | list[int]]
)
_Required: TypeAlias = (
    type[bool]
    | tuple[type[bool]]
    | tuple[type[int] | type[float], float, float]
    | tuple[type[str], int]
    | tuple[type[str], tuple[str, ...] | list[str]]
    | tuple[type[int], tuple[int, ...] | list[int]]
)
_Function: TypeAlias = Callable[[Device, dict[str, Any]], Any]
_Level: TypeAlias = Literal["debug", "info", "warning", "error"]

APP_LIMIT_S: int
"""How long an application may be silent: without `sleep` or `beat`."""

class Device:
    """The board, as an application sees it."""

    id: str
    """The device's id, of its certificate."""
    model: str
    version: str
    """The version of the image that runs."""
    config: dict[str, Any]
    """What the operator sent last on down/config; after `configure`, with a checked value for each
    key. A new message puts a new dict here."""
    commands: dict[str, _Function | tuple[_Function, Mapping[str, _Default | _Required]]]
    """Name -> function(device, args), plain or async, or (function, schema of args). What it
    returns, something that JSON can hold, is the answer, or what it raises."""
    files: Files
    """The files of the project's data folder."""
    log: Log
    """`device.log("info", "valve %d", 3)`: a line that the command `log` fetches."""
    keep: Keep
    """`device.keep({"litres": 5})`: telemetry that stays on flash until the broker has it."""
    rtc: bytes
    """Up to 768 bytes that outlast deep sleep and restarts, but not a loss of power. What they are
    at `deep_sleep` is kept."""

    def configure(self, schema: Mapping[str, _Default]) -> None:
        """Say what the configuration may be, key -> form; call it first in `run`.

        Forms begin with the default: `(10, 1, 3600)`, a whole number from 1 to 3600; `(0.5, 0, 2)`,
        a number; `("kitchen", 32)`, text of up to 32 characters; `("auto", ("auto", "on"))`, one of
        these; `True`, true or false. What does not fit is refused with an event, and what was
        there before stays. ValueError if it is no schema.
        """

    def telemetry(self, values: Mapping[str, Any], qos: Literal[0, 1] = 0) -> None:
        """Queue values for up/telemetry. Without a connection the last four at QoS 0 wait, at QoS 1
        up to 24 with events; a restart loses them."""

    def event(self, name: str, **details: Any) -> None:
        """Queue an event for up/event, at QoS 1."""

    def uptime_s(self) -> int:
        """Seconds since the agent's start."""

    def time(self) -> tuple[int, int]:
        """(Unix seconds, trust): 0, nobody's, they are wrong most likely; 1, of a time server that
        nobody checks; 2, authenticated."""

    def online(self) -> bool:
        """Whether there is a connection to the broker; one that died without a word counts as one
        for up to a minute and a half."""

    def beat(self) -> None:
        """Say that the application is alive: at least every 60 s, unless it sleeps."""

    async def sleep(self, seconds: float) -> None:
        """Wait, and count as alive meanwhile."""

    async def deep_sleep(self, seconds: float, connect: bool = True, limit_s: float = 30) -> None:
        """Have all that waits sent, and sleep for 1 to 2,073,600 s; what follows is a start.

        connect: False to sleep at once, if there is nothing that the operator has to know. limit_s:
        how long the broker is waited for, 5 to 300. A version on trial is confirmed first.
        """

class Files:
    """Files of the image: read-only, and verified as the code is."""

    @overload
    def open(self, name: str, mode: Literal["r"] = "r") -> TextIO: ...
    @overload
    def open(self, name: str, mode: Literal["rb"]) -> BinaryIO:
        """A file by its name, such as "tables/a.csv". ValueError for a name that is none, OSError
        if there is no such file."""

    def names(self, folder: str = "") -> list[str]:
        """Names for `open`, sorted, those in folders too."""

class Log:
    """The last 2 KB of lines, in memory: a restart loses them."""

    least: _Level
    """What is below it is not kept: "info"."""
    def __call__(self, level: _Level, text: str, *args: Any) -> None:
        """Log `text % args`, up to 200 characters. In a dev image it is printed, too."""

    def fetch(self, device: Device, args: dict[str, Any]) -> dict[str, Any]:
        """Answer to the command `log`, {"from": 0, "level": "debug"}: {"lost": …, "next": …,
        "lines": [[number, uptime_s, level, text], …]}."""

class Keep:
    """Telemetry on flash: up to 512 records and 32 KB, of which the oldest give way."""

    lost: int
    """Records that were given up, ever, at the most."""
    def __call__(self, values: Mapping[str, Any]) -> None:
        """Keep values; as JSON up to 512 bytes. They go up with "kept": [number, Unix seconds,
        trust]. Up to 8 of them, or 10 s, are in memory only: `flush` writes them."""

    def flush(self) -> None:
        """Write what is in memory now; it is on flash when this returns."""

    def start(self) -> None:
        """For the agent: there is a session."""
