"""What one device reports to its operator, waited for; and what the operator asks of it."""

import json
import time
from collections.abc import Callable
from typing import Any

from signet.errors import SignetError
from signet.fleet.session import Message, OperatorSession

WAIT_S = 60  # for any one thing; most take less than a second
_LOOK_S = 0.5
_GRACE_S = 3
_ENDS = ("refused", "failed", "rolled-back")  # of an update; "confirmed" is the good one

Report = dict[str, Any]


class NotReportedError(SignetError):
    """The device did not report in time what was waited for, or reported the contrary."""


class Reports:
    """A device by its id, seen through a session that follows what devices say."""

    def __init__(self, operator: OperatorSession, device: str, limit_s: float = WAIT_S):
        self.operator = operator
        self.device = device
        self.limit_s = limit_s
        self.lives: Callable[[], bool] = lambda: True  # who knows that it is off says so here

    @property
    def mark(self) -> int:
        """How many messages have been received: where to start waiting for the next ones."""
        return len(self.operator.messages)

    def kind(self, message: Message) -> str | None:
        """What kind of report a message is: "state", "event" or "telemetry"; None: not its own."""
        prefix = f"signet/{self.device}/up/"
        own = message.topic.startswith(prefix)
        return message.topic.removeprefix(prefix) if own else None

    def wait_for(self, what: str, wanted: Callable[[str, Report], Any], after: int = 0) -> Report:
        """The first report that is wanted(kind, report)."""
        return self.find(what, wanted, after)[0]

    def find(
        self, what: str, wanted: Callable[[str, Report], Any], after: int = 0
    ) -> tuple[Report, int]:
        """The same, and the mark after it, to go on from."""

        def is_wanted(message: Message) -> bool:
            kind = self.kind(message)
            return kind is not None and bool(wanted(kind, message.json()))

        started = time.monotonic()
        end = started + self.limit_s
        while True:
            try:
                left_s = max(0, end - time.monotonic())
                found = self.operator.wait_for(is_wanted, min(left_s, _LOOK_S), after)
                break
            except TimeoutError:
                now = time.monotonic()
                if now >= end:
                    raise NotReportedError(
                        f"{self.device} did not report {what} within {now - started:.0f} s"
                    ) from None
                if not self.lives():  # what it said last may be on its way
                    end = min(end, now + _GRACE_S)
        marks = enumerate(self.operator.messages[after:], after + 1)
        return found.json(), next(mark for mark, message in marks if message is found)

    def wait_for_state(self, after: int = 0, **fields: Any) -> Report:
        """A state with these fields: `version`, `status`, `online` and others."""
        return self.wait_for(
            f"a state with {fields}",
            lambda kind, report: kind == "state" and fields.items() <= report.items(),
            after,
        )

    def wait_for_event(self, name: str, after: int = 0, **fields: Any) -> Report:
        """An event of this name, with these fields."""
        wanted = {"event": name, **fields}
        return self.wait_for(
            f"the event {wanted}",
            lambda kind, report: kind == "event" and wanted.items() <= report.items(),
            after,
        )

    def wait_for_update(self, result: str, after: int = 0) -> Report:
        """That an update is "accepted", "trying", …; NotReportedError at once if it ends before."""
        report = self.wait_for(
            f"an update as {result}",
            lambda kind, report: (
                kind == "event"
                and report.get("event") == "update"
                and report.get("result") in (result, *_ENDS)
            ),
            after,
        )
        if report["result"] != result:
            raise NotReportedError(
                f"{self.device}: the update is {report['result']}, expected {result}: "
                f"{report.get('reason')}"
            )
        return report

    def ask(self, command: str, args: Report) -> Report:
        """Send a command; the event that answers it, with `ok` and `result` or `reason`."""
        after = self.mark
        message = json.dumps({"id": after, "command": command, "args": args}).encode()
        self.operator.publish(f"signet/{self.device}/down/command", message)
        return self.wait_for_event("command", after, id=after)

    def configure(self, values: Report) -> Report:
        """Send a configuration other than the last one; the event that answers it."""
        after = self.mark
        self.operator.publish(f"signet/{self.device}/down/config", json.dumps(values).encode())
        return self.wait_for_event("config", after)
