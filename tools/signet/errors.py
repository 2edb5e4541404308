"""The one error family of the tools, and the exit codes it stands for.

Every function of this package reports what went wrong through a SignetError; errors of other
libraries are wrapped where they are met. The command line prints `signet: error: <message>` and,
if there is one, `signet: hint: <hint>`, and exits with `exit_code`.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

EXIT_DONE = 0
EXIT_REFUSED = 1
EXIT_ENVIRONMENT = 2
_SHOWN = 10
_LONGEST = 4000  # characters of a message


class SignetError(Exception):
    """Something in the arguments or the environment: exit code 2.

    message names the file or value, what was expected and what was found; hint says what to do.
    """

    exit_code = EXIT_ENVIRONMENT

    def __init__(self, message: str, hint: str | None = None):
        cut = len(message) > _LONGEST  # a file may quote itself in it
        super().__init__(f"{message[:_LONGEST]}…" if cut else message)
        self.hint = hint


class RefusedError(SignetError):
    """Verification or policy said no: exit code 1. Nothing was changed."""

    exit_code = EXIT_REFUSED


@contextlib.contextmanager
def refusals_about(path: Path) -> Iterator[None]:
    """Put the name of the file in question before the message of a refusal."""
    try:
        yield
    except RefusedError as error:
        raise RefusedError(f"{path}: {error}", error.hint) from error


def listed(problems: list[str]) -> str:
    """A message that says several things that are wrong, a line each; of many the first ten."""
    more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
    return "\n  ".join([*problems[:_SHOWN], *more])
