"""Burn a plan into one chip. What is burned, and why: efuse_plan.py.

The chip is looked at before every run of espefuse and read back after it. After a cut the same plan
goes on with the first step that is open. A finished chip no longer answers: its download mode is
closed.
"""

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from signet import files
from signet.board import esptool
from signet.device.sealing import efuse, sealed_flash
from signet.device.sealing.efuse import BURNED, Target
from signet.device.sealing.efuse_plan import Plan, Step
from signet.errors import RefusedError
from signet.formats.documents import load_object
from signet.options import echo
from signet.run import run_program

_COMPARED = "flash key read back"


@contextlib.contextmanager
def open_session(
    plan: Plan, target: Target, flash_key: Path, key: bytes, journal: Path
) -> Iterator["Session"]:
    """A session with the plan's key files in place. key: what the file flash_key holds."""
    with tempfile.TemporaryDirectory(prefix="signet-") as folder:
        key_files = {plan.chip.flash_block: flash_key}
        for number, (block, digest) in enumerate(
            zip(plan.chip.digest_blocks, plan.digests, strict=False)
        ):
            key_files[block] = Path(folder, f"digest{number}.bin")
            key_files[block].write_bytes(digest)
        contents = efuse.block_contents(plan, key)
        yield Session(plan, target, key_files, contents, journal)


@dataclass(frozen=True)
class Session:
    """One plan and one chip.

    key_files: by eFuse block. contents: what those blocks are to read as. journal: beside the
    plan, says that the flash key was read back before it was hidden.
    """

    plan: Plan
    target: Target
    key_files: Mapping[str, Path]
    contents: Mapping[str, bytes]
    journal: Path

    def check_flash(self, path: Path) -> None:
        """Refuse unless the flash is signed and, on a real chip, lies there as ciphertext."""
        content = files.read_file(path, "flash image")
        sealed_flash.check_flash(content, self.plan)
        port, chip = self.target.port, self.plan.chip
        if port is None:
            return
        with tempfile.TemporaryDirectory(prefix="signet-") as folder:
            cipher = Path(folder, "cipher")
            key = self.key_files[chip.flash_block]
            cipher.write_bytes(sealed_flash.encrypt_flash(content, chip, key))
            esptool.ask(port, *esptool.verify(cipher), chip=chip.name)

    def report(self) -> bool:
        """Print the state of chip and plan; True if something is left to burn."""
        states = self._survey()
        left = len(states) - list(states.values()).count(BURNED)
        echo(f"chip {self.plan.chip.name}, MAC {self.plan.mac}")
        for number, (step, state) in enumerate(states.items(), 1):
            value = f" = {step.value}" if step.value else ""
            echo(f"{number:3} {state:6} {step.action} {step.efuse}{value}")
            echo(f"           {step.why} [{step.source}]")
        if not left:
            echo("everything is burned; nothing was changed")
            return False
        echo(f"{left} of {len(states)} steps are left, each of them for ever:")
        for group in efuse.groups(self.plan):
            if run := efuse.next_run(group, states):
                echo("  espefuse " + " ".join(self._command(run)))
        echo("nothing was changed so far; --burn burns", err=True)
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
                    echo(f"{what}: sent")  # nobody can read it back
                    break
                states = self._survey()
                if any(states[step] != BURNED for step in run):
                    raise RefusedError(
                        f"{what}: did not take; the chip is half-burned",
                        "its download mode is open: run the same command again",
                    )
                echo(f"{what}: read back")
        echo(f"{self.plan.mac}: sealed")
        echo("now delete the flash key of this chip: nobody needs it any more", err=True)

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
                line = load_object(text)
            except ValueError:  # the power may have gone while it was written
                continue
            if wanted.items() <= line.items():
                return True
        return False
