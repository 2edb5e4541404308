"""The commands `signet fleet`."""

import signal
import threading
from pathlib import Path

import click

from signet.errors import SignetError
from signet.fleet import serving
from signet.options import FOLDER, echo

_WATCH_S = 1
_PORT = click.IntRange(0, 65535)


@click.group("fleet")
def group() -> None:
    """The servers of a fleet: broker, images, time."""


@group.command("serve")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--pki", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Folder that `signet pki init` made.")  # fmt: skip
@click.option("--bind", default=serving.LOOPBACK, show_default=True, help="Address to listen on.")
@click.option("--broker-port", default=8883, show_default=True, type=_PORT, help="For devices.")
@click.option("--operators-port", default=8884, show_default=True, type=_PORT, help="The broker's.")
@click.option("--services-port", default=8885, show_default=True, type=_PORT, help="The broker's.")
@click.option("--images-port", default=8443, show_default=True, type=_PORT)
@click.option("--ntp-port", default=8123, show_default=True, type=_PORT, help="UDP.")
def fleet_serve(
    folder: Path,
    pki: Path,
    bind: str,
    broker_port: int,
    operators_port: int,
    services_port: int,
    images_port: int,
    ntp_port: int,
) -> None:
    """Run broker, image server and time server on DIR until Ctrl-C.

    A port of 0 takes a free one; addresses are printed, and in DIR/fleet.json.
    """
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stopped.set())
    ports = broker_port, images_port, ntp_port, operators_port, services_port
    with serving.Fleet(folder, pki, bind, *ports) as servers:
        for name, address in servers.addresses.items():
            echo(f"{name:9} {address}")
        echo(f"signet: images from {folder}/images, logs in {folder}; Ctrl-C stops", err=True)
        while not stopped.wait(_WATCH_S):
            if not servers.broker.running:
                raise SignetError(f"mosquitto ended by itself, see {folder}/broker.log")
