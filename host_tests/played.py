"""What the firmware's units are tested with under CPython: time, and `machine`, played."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from types import ModuleType
from typing import Any

NOW = 1760000000
TICKS_PERIOD = 1 << 30

Load = Callable[[str], Any]  # the fixture `load`


class Ticks:
    """Time as MicroPython counts it, from just before the counter wraps."""

    def __init__(self) -> None:
        self.passed_ms = 0
        self.unix_s = NOW

    def ticks_ms(self) -> int:
        return (TICKS_PERIOD - 5000 + self.passed_ms) % TICKS_PERIOD

    def ticks_add(self, ticks: int, delta: int) -> int:
        assert abs(delta) < TICKS_PERIOD // 2
        return (ticks + delta) % TICKS_PERIOD

    def ticks_diff(self, a: int, b: int) -> int:
        return (a - b + TICKS_PERIOD // 2) % TICKS_PERIOD - TICKS_PERIOD // 2

    def time(self) -> float:
        return self.unix_s + 0.9

    def gmtime(self, seconds: float) -> tuple[int, ...]:
        return tuple(time.gmtime(seconds))[:8]

    async def sleep_ms(self, ms: int) -> None:
        self.passed_ms += ms
        assert self.passed_ms < 3_600_000, "nothing has ended this within an hour"
        await asyncio.sleep(0)

    async def sleep(self, seconds: float) -> None:
        await self.sleep_ms(int(seconds * 1000))


class Machine(ModuleType):
    """Module `machine`: set_to is what the RTC was set to."""

    WDT_RESET = 3
    DEEPSLEEP_RESET = 4

    def __init__(self) -> None:
        super().__init__("machine")
        self.memory = b""
        self.cause = 1
        self.mem32: dict[int, int] = defaultdict(lambda: 0xFFFFFFFF)  # all eFuses are burned
        self.set_to: list[tuple[Any, ...]] = []

    def RTC(self) -> "Machine.Clock":
        return self.Clock(self)

    def reset_cause(self) -> int:
        return self.cause

    class Clock:
        def __init__(self, chip: "Machine"):
            self.chip = chip

        def datetime(self, value: tuple[int, ...]) -> None:
            self.chip.set_to.append(value)

        def memory(self, data: bytes | None = None) -> bytes:
            if data is not None:
                self.chip.memory = data
            return self.chip.memory
