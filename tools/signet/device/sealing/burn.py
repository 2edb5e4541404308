"""`signet device burn`: close a board for good. What is burned, and why: efuse_plan.py.

    plan     makes the plan of one chip, a file to be read and signed off
    encrypt  makes the ciphertext that is flashed before anything is burned
    apply    shows what a plan would burn; with --burn and a typed confirmation, burns it

`apply` looks at the chip before every run of espefuse and reads it back after it. After a cut it
goes on with the first step that is open. A finished chip no longer answers: its download mode is
closed.
"""

import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from signet import files
from signet.device.sealing import efuse, sealed_flash
from signet.device.sealing.efuse import BURNED, Target
from signet.device.sealing.efuse_plan import (  # fmt: skip
    CHIPS,
    FLASH_KEY_LEN,
    Plan,
    Step,
    dump_plan,
    key_hash,
    load_plan,
    make_plan,
)
from signet.errors import RefusedError, SignetError
from signet.run import run_program

_COMPARED = "flash key read back"
_FILE = click.Path(path_type=Path, dir_okay=False)
_flash_key = click.option(
    "--flash-key", type=_FILE, required=True, help="Flash encryption key of this chip, mode 0600."
)


@click.group("burn")
def command() -> None:
    """Burn the eFuses of a sealed board. There is no way back."""


@command.command("plan")
@click.option("--chip", type=click.Choice(list(CHIPS)), required=True)
@click.option("--mac", required=True, help="The chip's factory MAC (esptool read-mac).")
@click.option(
    "--release-pub", "release", type=_FILE, required=True, multiple=True,
    help="Public key that signs bootloader and platform; up to three on ESP32-S3 and -C3.",
)  # fmt: skip
@_flash_key
@click.option("-o", "--output", type=_FILE, required=True, help="The plan, a JSON file.")
def plan_command(
    chip: str, mac: str, release: tuple[Path, ...], flash_key: Path, output: Path
) -> None:
    """Make the plan of one chip. A flash key that does not exist yet is made."""
    if output.exists():
        raise RefusedError(f"{output}: exists, and is not overwritten")
    pems = [files.read_file(path, "release key").decode("ascii", "replace") for path in release]
    for path, pem in zip(release, pems, strict=True):
        if "PRIVATE KEY" in pem:
            raise RefusedError(f"{path}: is a private key", "name the .pub file beside it")
    make_plan(chip, mac, pems, "0" * 64)  # complains before a key is made
    if not flash_key.exists():
        files.write_new_secret(flash_key, _new_flash_key())
        click.echo(f"{flash_key}: made", err=True)
    plan = make_plan(chip, mac, pems, key_hash(_read_flash_key(flash_key)))
    files.replace_file(output, dump_plan(plan))
    click.echo(output)


def _new_flash_key() -> bytes:
    with tempfile.TemporaryDirectory(prefix="signet-") as folder:
        path = Path(folder, "key")
        run_program("espsecure", "generate-flash-encryption-key", path)
        return path.read_bytes()


def _read_flash_key(path: Path, plan: Plan | None = None) -> bytes:
    key = files.read_file(path, "flash key")
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise RefusedError(f"{path}: mode {mode:04o}, expected 0600", f"chmod 600 {path}")
    if len(key) != FLASH_KEY_LEN:
        raise SignetError(f"{path}: {len(key)} bytes, a flash key has {FLASH_KEY_LEN}")
    if plan and key_hash(key) != plan.flash_key:
        raise RefusedError(f"{path}: not the flash key of the plan")
    return key


@command.command("encrypt")
@click.argument("plan", type=_FILE)
@_flash_key
@click.option("--flash", type=_FILE, required=True, help="The whole flash, plaintext, signed.")
@click.option("-o", "--output", type=_FILE, required=True, help="The ciphertext, for address 0.")
def encrypt_command(plan: Path, flash_key: Path, flash: Path, output: Path) -> None:
    """Make the flash of a sealed board: checked, and encrypted with its key."""
    loaded = load_plan(plan)
    _read_flash_key(flash_key, loaded)
    content = files.read_file(flash, "flash image")
    sealed_flash.check_flash(content, loaded)
    files.replace_file(output, sealed_flash.encrypt_flash(content, loaded.chip, flash_key))
    click.echo(output)


@command.command("apply")
@click.argument("plan", type=_FILE)
@_flash_key
@click.option("--port", help="Serial port of the chip, in download mode.")
@click.option("--virtual", type=_FILE, help="A file of espefuse's virtual mode instead.")
@click.option("--flash", type=_FILE, help="The whole flash, plaintext, signed: --burn wants it.")
@click.option("--burn", is_flag=True, help="Burn. Without it nothing is changed.")
@click.option("--confirm", metavar="MAC", help="The chip's MAC, instead of typing it.")
def apply_command(
    plan: Path, flash_key: Path, port: str | None, virtual: Path | None,
    flash: Path | None, burn: bool, confirm: str | None,
) -> None:  # fmt: skip
    """Show what PLAN would burn into a chip, or burn it (--burn)."""
    if (port is None) == (virtual is None):
        raise click.UsageError("one of --port and --virtual is needed")
    if burn and not flash:
        raise click.UsageError("--burn needs --flash: what the chip is to boot is checked first")
    loaded = load_plan(plan)
    target = Target(loaded.chip, port, virtual)
    key = _read_flash_key(flash_key, loaded)
    with tempfile.TemporaryDirectory(prefix="signet-") as folder:
        names = {loaded.chip.flash_block: flash_key}
        for number, (block, digest) in enumerate(
            zip(loaded.chip.digest_blocks, loaded.digests, strict=False)
        ):
            names[block] = Path(folder, f"digest{number}.bin")
            names[block].write_bytes(digest)
        journal = plan.with_name(plan.name + ".journal")
        session = _Session(loaded, target, names, efuse.block_contents(loaded, key), journal)
        if session.report() and burn and flash:
            _check_flash(flash, session)
            _confirm(loaded.mac, confirm)
            session.burn()


def _confirm(mac: str, given: str | None) -> None:
    if given is None:
        click.echo("This cannot be undone.", err=True)
        given = click.prompt("Type the MAC of the chip to burn it", default="", err=True)
    if given.strip().lower() != mac:
        raise RefusedError(f"not confirmed: {given!r} is not the chip's MAC; nothing was burned")


def _check_flash(path: Path, session: "_Session") -> None:
    """Refuse unless the flash is signed and, on a real chip, lies there as ciphertext."""
    content = files.read_file(path, "flash image")
    sealed_flash.check_flash(content, session.plan)
    port, chip = session.target.port, session.plan.chip
    if port is None:
        return
    with tempfile.TemporaryDirectory(prefix="signet-") as folder:
        cipher = Path(folder, "cipher")
        key = session.key_files[chip.flash_block]
        cipher.write_bytes(sealed_flash.encrypt_flash(content, chip, key))
        # --after no-reset: a reset would boot what is not yet to boot.
        place = ("--chip", chip.name, "--port", port, "--after", "no-reset")
        run_program("esptool", *place, "verify-flash", "0x0", cipher)


@dataclass(frozen=True)
class _Session:
    """One plan and one chip.

    key_files: by eFuse block. contents: what those blocks are to read as. journal: beside the
    plan, says that the flash key was read back before it was hidden.
    """

    plan: Plan
    target: Target
    key_files: Mapping[str, Path]
    contents: Mapping[str, bytes]
    journal: Path

    def report(self) -> bool:
        """Print the state of chip and plan; True if something is left to burn."""
        states = self._survey()
        left = len(states) - list(states.values()).count(BURNED)
        click.echo(f"chip {self.plan.chip.name}, MAC {self.plan.mac}")
        for number, (step, state) in enumerate(states.items(), 1):
            value = f" = {step.value}" if step.value else ""
            click.echo(f"{number:3} {state:6} {step.action} {step.efuse}{value}")
            click.echo(f"           {step.why} [{step.source}]")
        if not left:
            click.echo("everything is burned; nothing was changed")
            return False
        click.echo(f"{left} of {len(states)} steps are left, each of them for ever:")
        for group in efuse.groups(self.plan):
            if run := efuse.next_run(group, states):
                click.echo("  espefuse " + " ".join(self._command(run)))
        click.echo("nothing was changed so far; --burn burns", err=True)
        return True

    def burn(self) -> None:
        """Burn what is open, group by group; the chip is looked at before and after each run."""
        states = self._survey()
        for group in efuse.groups(self.plan):
            while run := efuse.next_run(group, states):
                if run[0].action == "read-protect":  # the survey has just compared the key
                    self._note(_COMPARED)
                what = f"{run[0].action} {' '.join(step.efuse for step in run)}"
                run_program("espefuse", *self._command(run, "--do-not-confirm"))
                self._note(what)
                if run[0].efuse == self.plan.chip.download and self.target.port:
                    click.echo(f"{what}: sent")  # nobody can read it back
                    break
                states = self._survey()
                if any(states[step] != BURNED for step in run):
                    raise RefusedError(
                        f"{what}: did not take; the chip is half-burned",
                        "its download mode is open: run the same command again",
                    )
                click.echo(f"{what}: read back")
        click.echo(f"{self.plan.mac}: sealed")
        click.echo("now delete the flash key of this chip: nobody needs it any more", err=True)

    def _survey(self) -> dict[Step, str]:
        summary = self.target.summary()
        efuse.check_chip(self.plan, summary)
        states = efuse.survey(self.plan, self.contents, summary)
        hidden = any(
            step.action == "read-protect" and state == BURNED for step, state in states.items()
        )
        # A hidden key cannot be compared: go on only if it was compared before it was hidden.
        if hidden and set(states.values()) != {BURNED} and not self._noted(_COMPARED):
            raise RefusedError(
                f"the flash key in this chip is hidden, and {self.journal} does not say that it "
                "is the plan's",
                "put the journal of the first attempt beside the plan; without it this chip "
                "cannot be sealed safely",
            )
        return states

    def _command(self, run: Sequence[Step], *options: str) -> list[str]:
        return self.target.command(*options, *efuse.arguments(run, self.key_files))

    def _note(self, what: str) -> None:
        line = {"time": int(time.time()), "mac": self.plan.mac, "key": self.plan.flash_key}
        with self.journal.open("a") as file:
            # A line of its own, even behind one that a cut left without an end.
            file.write("\n" + json.dumps(line | {"done": what}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _noted(self, what: str) -> bool:
        if not self.journal.exists():
            return False
        wanted = {"mac": self.plan.mac, "key": self.plan.flash_key, "done": what}
        for text in self.journal.read_text(errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:  # the power may have gone while it was written
                continue
            if isinstance(line, dict) and wanted.items() <= line.items():
                return True
        return False
