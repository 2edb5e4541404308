"""The audit log: one line for every change of the inventory, chained by hashes.

    digest = SHA-256(previous digest, JSON of the line's other fields)

A line that was altered, removed or put in between breaks the chain. Whoever can write the database
can cut lines off its end, or compute all digests anew: keep the last digest elsewhere (`signet
device audit` prints it). A line never holds a secret.
"""

import getpass
import hashlib
import json
import os
import socket

from sqlalchemy import select
from sqlalchemy.orm import Mapped, Session, mapped_column

from signet.device.provisioning.inventory import Base, now
from signet.errors import RefusedError

START = "0" * 64  # the digest before the first line
MAX_RESULT_LEN = 300


class AuditLine(Base):
    """Who did what to which device, when, and how it ended."""

    __tablename__ = "audit"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    time: Mapped[str]  # UTC, ISO 8601
    who: Mapped[str]  # user@host
    what: Mapped[str]
    device: Mapped[str]
    result: Mapped[str]
    digest: Mapped[str]

    def chained(self, previous: str) -> str:
        """The digest that this line has behind one with the digest `previous`."""
        fields = [self.number, self.time, self.who, self.what, self.device, self.result]
        text = previous + json.dumps(fields, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()


def append(session: Session, what: str, device: str, result: str) -> None:
    """Add a line, in the transaction of the change that it is about."""
    last = session.scalar(select(AuditLine).order_by(AuditLine.number.desc()).limit(1))
    line = AuditLine(
        number=last.number + 1 if last else 1,
        time=now(),
        who=f"{_user()}@{socket.gethostname()}",
        what=what,
        device=device,
        result=result[:MAX_RESULT_LEN],
    )
    line.digest = line.chained(last.digest if last else START)
    session.add(line)
    session.flush()


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return str(os.getuid())


def verify(session: Session) -> list[AuditLine]:
    """All lines; RefusedError names the first that does not follow from the one before."""
    digest = START
    lines = list(session.scalars(select(AuditLine).order_by(AuditLine.number)))
    for number, line in enumerate(lines, 1):
        if line.number != number:
            raise RefusedError(f"audit: line {number} is missing, line {line.number} follows")
        if line.digest != line.chained(digest):
            raise RefusedError(f"audit: line {number} was altered, or one before it")
        digest = line.digest
    return lines
