"""The commands `signet device burn`: they close a board for good.

plan     makes the plan of one chip, a file to be read and signed off
encrypt  makes the ciphertext that is flashed before anything is burned
apply    shows what a plan would burn; with --burn and a typed confirmation, burns it
"""

from pathlib import Path

import click

from signet import files
from signet.device.sealing import keys, sealed_flash
from signet.device.sealing.burn import open_session
from signet.device.sealing.efuse import Target
from signet.device.sealing.efuse_plan import CHIPS, dump_plan, key_hash, load_plan, make_plan
from signet.errors import RefusedError
from signet.options import FILE, echo

_FLASH_KEY = click.option(
    "--flash-key", type=FILE, required=True, help="Flash encryption key of this chip, mode 0600."
)


@click.group("burn")
def burn() -> None:
    """Burn the eFuses of a sealed board. There is no way back."""


@burn.command("plan")
@click.option("--chip", type=click.Choice(list(CHIPS)), required=True)
@click.option("--mac", required=True, help="The chip's factory MAC (esptool read-mac).")
@click.option(
    "--release-pub", "release", type=FILE, required=True, multiple=True,
    help="Public key that signs bootloader and platform; up to three on ESP32-S3 and -C3.",
)  # fmt: skip
@_FLASH_KEY
@click.option("-o", "--output", type=FILE, required=True, help="The plan, a JSON file.")
def burn_plan(
    chip: str, mac: str, release: tuple[Path, ...], flash_key: Path, output: Path
) -> None:
    """Make the plan of one chip. A flash key that does not exist yet is made."""
    if output.exists():  # before a key is made
        raise RefusedError(f"{output}: exists, and is not overwritten")
    pems = keys.read_public_keys(release)
    make_plan(chip, mac, pems, "0" * 64)  # complains before a key is made
    if not flash_key.exists():
        files.write_new_secret(flash_key, keys.new_flash_key())
        echo(f"{flash_key}: made", err=True)
    plan = make_plan(chip, mac, pems, key_hash(keys.read_flash_key(flash_key)))
    files.write_new_file(output, dump_plan(plan))
    echo(output)


@burn.command("encrypt")
@click.argument("plan", type=FILE)
@_FLASH_KEY
@click.option("--flash", type=FILE, required=True, help="The whole flash, plaintext, signed.")
@click.option("-o", "--output", type=FILE, required=True, help="The ciphertext, for address 0.")
def burn_encrypt(plan: Path, flash_key: Path, flash: Path, output: Path) -> None:
    """Make the flash of a sealed board: checked, and encrypted with its key."""
    loaded = load_plan(plan)
    keys.read_flash_key(flash_key, loaded)
    content = files.read_file(flash, "flash image")
    sealed_flash.check_flash(content, loaded)
    files.write_new_file(output, sealed_flash.encrypt_flash(content, loaded.chip, flash_key))
    echo(output)


@burn.command("apply")
@click.argument("plan", type=FILE)
@_FLASH_KEY
@click.option("--port", help="Serial port of the chip, in download mode.")
@click.option("--virtual", type=FILE, help="A file of espefuse's virtual mode instead.")
@click.option("--flash", type=FILE, help="The whole flash, plaintext, signed: --burn wants it.")
@click.option("--burn", "burns", is_flag=True, help="Burn. Without it nothing is changed.")
@click.option("--confirm", metavar="MAC", help="The chip's MAC, instead of typing it.")
def burn_apply(
    plan: Path, flash_key: Path, port: str | None, virtual: Path | None,
    flash: Path | None, burns: bool, confirm: str | None,
) -> None:  # fmt: skip
    """Show what PLAN would burn into a chip, or burn it (--burn)."""
    if (port is None) == (virtual is None):
        raise click.UsageError("one of --port and --virtual is needed")
    if burns and not flash:
        raise click.UsageError("--burn needs --flash: what the chip is to boot is checked first")
    loaded = load_plan(plan)
    key = keys.read_flash_key(flash_key, loaded)
    target = Target(loaded.chip, port, virtual)
    journal = plan.with_name(plan.name + ".journal")
    with open_session(loaded, target, flash_key, key, journal) as session:
        if session.report() and burns and flash:
            session.check_flash(flash)
            _confirm(loaded.mac, confirm)
            session.burn()


def _confirm(mac: str, given: str | None) -> None:
    if given is None:
        echo("This cannot be undone.", err=True)
        given = click.prompt("Type the MAC of the chip to burn it", default="", err=True)
    if given.strip().lower() != mac:
        raise RefusedError(f"not confirmed: {given!r} is not the chip's MAC; nothing was burned")
