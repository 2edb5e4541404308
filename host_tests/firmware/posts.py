"""An agent as `device` needs one: it keeps what is posted and beaten."""

from types import SimpleNamespace
from typing import Any


class Posts:
    """messages: (kind, message, QoS). beats: (task, seconds ahead)."""

    timed: int | None = None

    def __init__(self) -> None:
        self.messages: list[tuple[str, dict[str, Any], int]] = []
        self.beats: list[tuple[str, float]] = []
        self.supervisor = SimpleNamespace(uptime_ms=61_999, beat=self.beat)
        record = {"id": "dev-0001", "model": "signet-test"}
        self.boot = SimpleNamespace(record=record, version="1.0.0")

    def post(self, kind: str, message: dict[str, Any], qos: int) -> None:
        self.messages.append((kind, message, qos))

    def beat(self, name: str, ahead_s: float = 0) -> None:
        self.beats.append((name, ahead_s))
