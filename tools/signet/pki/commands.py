"""The commands `signet pki`."""

from pathlib import Path

import click

from signet.options import FOLDER, echo
from signet.pki import authority


@click.group("pki")
def group() -> None:
    """A fleet's keys and certificates."""


@group.command("init")
@click.argument("folder", type=FOLDER)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    required=True,
    help="DNS name or IP address of broker and image server; may be repeated.",
)
@click.option(
    "--crl-url",
    metavar="URL",
    help="Where a list of revoked devices will be. Each device's certificate names it, and those "
    "already made cannot get it later.",
)
def pki_init(folder: Path, hosts: tuple[str, ...], crl_url: str | None) -> None:
    """Make FOLDER with the keys and certificates of a new fleet.

    Private keys have mode 0600. Nothing is ever overwritten: FOLDER must not exist or be empty.
    """
    authority.init_pki(folder, list(hosts), crl_url)
    for path in sorted(folder.iterdir()):
        echo(path)
