"""What the commands of several groups share: types of parameters, options, and messages."""

from pathlib import Path

import click

from signet.project import PROJECT

EXIT_CODES = "Exit codes: 0 done, 1 refused (verification or policy), 2 usage or environment."
FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
U32 = click.IntRange(0, 0xFFFF_FFFF)

SOURCE = click.option(
    "--source",
    type=FOLDER,
    default=PROJECT,
    help="Project folder: boot.py, main.py, firmware/, lib/. Default: this checkout.",
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


def note(kind: str, text: str, colour: str) -> None:
    """A message of the program, on stderr: `signet: <kind>: <text>`."""
    click.echo(click.style(f"signet: {kind}: ", fg=colour) + text, err=True)
