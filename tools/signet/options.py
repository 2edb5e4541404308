"""What the commands of several groups share: types of parameters, options, and what they print.

Whatever is printed goes through `printable`: it may come from a file, a database, a board or a
broker, and a terminal obeys what it is shown.
"""

import json
from pathlib import Path

import click

from signet import sources

EXIT_CODES = "Exit codes: 0 done, 1 refused (verification or policy), 2 usage or environment."
FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
U32 = click.IntRange(0, 0xFFFF_FFFF)
_NEXT_LINE = "\n  "

SOURCE = click.option(
    "--source",
    type=FOLDER,
    default=sources.SOURCE,
    help="Device code: boot.py, main.py, firmware/, lib/. Default: Signet's own.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
PKI = click.option("--pki", "pki_folder", type=FOLDER, required=True, help="Folder of `pki init`.")
# A URL may hold a password, which is no argument for others to see: hence the variable.
INVENTORY = click.option(
    "--inventory",
    "inventory_url",
    envvar="SIGNET_INVENTORY",
    show_envvar=True,
    metavar="FILE|URL",
    help="The inventory, SQLite or by URL. Default: inventory.db in the pki folder.",
)


def printable(text: object) -> str:
    """A text for one line of a terminal: what would not print is shown as \\x1b or \\u202e.

    That is all that could move the cursor, end the line, turn the writing round or hide: control
    characters, format characters, line and paragraph separators, lone surrogates.
    """
    return "".join(c if c.isprintable() else _escaped(ord(c)) for c in str(text))


def _escaped(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def echo(line: object, *, err: bool = False) -> None:
    """Print one line, whatever is in it."""
    click.echo(printable(line), err=err)


def echo_json(value: object) -> None:
    """Print JSON, in which all but ASCII that prints is escaped, DEL too."""
    click.echo(json.dumps(value))


def note(kind: str, text: str, colour: str) -> None:
    """A message of the program, on stderr: `signet: <kind>: <text>`.

    Of line ends only those stay that indent what follows, as `errors.listed` makes them: no text
    can look like a message of its own.
    """
    lines = map(printable, text.split(_NEXT_LINE))
    click.echo(click.style(f"signet: {kind}: ", fg=colour) + _NEXT_LINE.join(lines), err=True)
