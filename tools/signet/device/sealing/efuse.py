"""The eFuses of one chip, read and burned by `espefuse`, and what a plan still has to burn.

A chip is reached over a serial port, or it is a file: espefuse's own virtual mode. A run of
espefuse has one command; what it burns, and what a cut in it leaves, is one of `groups`.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from signet.board.serial_device import check_device
from signet.device.sealing.efuse_plan import FLASH_KEY, Chip, Plan, Step
from signet.errors import RefusedError, SignetError
from signet.formats.documents import load_object
from signet.run import run_program

_PROGRAM = "espefuse"
# What the names of key purposes mean: IDF, components/efuse/include/esp_efuse_chip.h.
_PURPOSES = {"XTS_AES_128_KEY": 4} | {f"SECURE_BOOT_DIGEST{n}": 9 + n for n in range(3)}
_FILE_LENS = {"esp32": 288, "esp32s3": 512, "esp32c3": 512}  # as espefuse makes them

Summary = Mapping[str, Mapping[str, Any]]  # eFuse: raw_value, value, readable, writeable

BURNED, BEGUN, OPEN = "burned", "begun", "open"  # begun: some bits of a value are in


@dataclass(frozen=True)
class Target:
    """Where the chip is: a serial port, or a file of espefuse's virtual mode."""

    chip: Chip
    port: str | None = None
    virtual: Path | None = None

    def command(self, *arguments: str) -> list[str]:
        """Arguments of espefuse; no secret is among them, keys are named by file."""
        if self.virtual:
            place = ["--virt", "--path-efuse-file", str(self.virtual)]
        else:
            place = ["--port", check_device(str(self.port))]
        return ["--chip", self.chip.name, *place, *arguments]

    def summary(self) -> Summary:
        """All eFuses as they are now. It may hold a key that is not hidden yet: never print it."""
        if self.virtual:
            self._check_file(self.virtual)
        output = run_program(_PROGRAM, *self.command("summary", "--format", "json"))
        try:
            return load_object(output[output.index("{") :])
        except ValueError as error:
            raise SignetError(f"espefuse: its summary is not JSON: {error}") from error

    def _check_file(self, path: Path) -> None:
        expected = _FILE_LENS[self.chip.name]
        if not path.is_file():  # espefuse would make a blank chip of it
            raise SignetError(
                f"{path}: no such file",
                "a chip of espefuse's virtual mode: espefuse --virt --path-efuse-file",
            )
        if path.stat().st_size != expected:
            raise RefusedError(
                f"{path}: {path.stat().st_size} bytes, the eFuses of an {self.chip.name} "
                f"are {expected}",
                "is it of another chip?",
            )


def groups(plan: Plan) -> list[list[Step]]:
    """The steps, in their order, those together that one run of espefuse may burn.

    A key goes with its purpose, neighbours of one kind with each other; what switches a feature on
    and what closes the chip stands alone.
    """
    alone = (plan.chip.secure_boot, plan.chip.crypt_counter, plan.chip.download)
    found: list[list[Step]] = []
    for step in plan.steps:
        last = found[-1][-1] if found else None
        purpose = step.efuse.startswith("KEY_PURPOSE")
        same = last is not None and last.action == step.action != "key"
        if purpose or (same and step.efuse not in alone and step.efuse != "RD_DIS"):
            found[-1].append(step)
        else:
            found.append([step])
    return found


def next_run(group: Sequence[Step], states: Mapping[Step, str]) -> list[Step]:
    """The open steps of a group that the next run burns; none if all are burned."""
    left = [step for step in group if states[step] != BURNED]
    if left and left[0].action == "key":
        return left[:1]
    return [step for step in left if step.action == left[0].action]


def arguments(run: Sequence[Step], files: Mapping[str, Path]) -> list[str]:
    """What espefuse is told for one run. files: key files by eFuse block."""
    step = run[0]
    if step.action == "burn":
        return ["burn-efuse", *(word for step in run for word in (step.efuse, step.value))]
    if step.action != "key":
        return [f"{step.action}-efuse", *(step.efuse for step in run)]
    path = str(files[step.efuse])
    if step.efuse.startswith("BLOCK_KEY"):
        number = step.value.removeprefix("digest ")
        purpose = "XTS_AES_128_KEY" if step.value == FLASH_KEY else f"SECURE_BOOT_DIGEST{number}"
        # Options last: espefuse 5.6 miscounts the arguments behind two options.
        protect = ["--no-read-protect", "--no-write-protect"]
        return ["burn-key", step.efuse, path, purpose, *protect]
    alias = "flash_encryption" if step.value == FLASH_KEY else "secure_boot_v2"
    return ["burn-key", alias, path, "--no-protect-key"]


@contextlib.contextmanager
def _as_expected() -> Iterator[None]:
    """Around what reads a summary: a chip, or another espefuse, may have made it."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise SignetError(f"espefuse: its summary is not what was expected: {error!r}") from error


@_as_expected()
def check_chip(plan: Plan, summary: Summary) -> None:
    """Refuse a chip that is not the plan's, or that cannot do what the plan needs."""
    chip, name = plan.chip, plan.chip.name
    words = str(summary["MAC"]["value"]).lower().split()
    if words[0] != plan.mac:
        raise RefusedError(f"this chip is {words[0]}, the plan is for {plan.mac}")
    revision = _raw(summary, "WAFER_VERSION_MAJOR") * 100 + _raw(summary, "WAFER_VERSION_MINOR")
    if revision < chip.least_revision:
        raise RefusedError(
            f"{name} revision v{revision // 100}.{revision % 100}: Secure Boot v2 needs "
            f"v{chip.least_revision // 100}.{chip.least_revision % 100} or later"
        )
    if name == "esp32" and _raw(summary, "CODING_SCHEME"):
        raise RefusedError(
            f"eFuse coding scheme {summary['CODING_SCHEME']['value']}: a Secure Boot v2 digest "
            "needs blocks of 256 bits",
        )
    fatal = ("ABS_DONE_0",) if name == "esp32" else ()
    for efuse in (*fatal, chip.cache):
        if _raw(summary, efuse):
            raise RefusedError(f"{efuse} is burned: a sealed build cannot run on this chip")


def state(step: Step, contents: Mapping[str, bytes], summary: Summary) -> str:
    """BURNED, BEGUN or OPEN; RefusedError if the chip holds something else or cannot change.

    contents: what each key block is to read as, see `block_contents`.
    """
    efuse = summary[step.efuse]
    if step.action == "write-protect":
        return OPEN if efuse["writeable"] else BURNED
    if step.action == "read-protect":
        if efuse["readable"] and not summary["RD_DIS"]["writeable"]:
            raise RefusedError(f"{step.efuse} can no longer be hidden: RD_DIS is write-protected")
        return OPEN if efuse["readable"] else BURNED
    if step.action == "key":
        return _key_state(step, contents[step.efuse], efuse)
    wanted = _PURPOSES.get(step.value) or int(step.value)
    found = _raw(summary, step.efuse)
    if found == wanted:
        return BURNED
    if found & ~wanted:
        raise RefusedError(f"{step.efuse} is {found:#x}, which cannot become {wanted:#x}")
    if not efuse["writeable"]:
        raise RefusedError(f"{step.efuse} is {found:#x} and write-protected, expected {wanted:#x}")
    return BEGUN if found else OPEN


def _key_state(step: Step, wanted: bytes, efuse: Mapping[str, Any]) -> str:
    if not efuse["readable"]:
        if step.value != FLASH_KEY:
            raise RefusedError(f"{step.efuse} is read-protected: the ROM cannot read the digest")
        return BURNED  # whose, `burn` knows from its journal
    found = bytes.fromhex(str(efuse["raw_value"])[2:])
    if found == wanted:
        return BURNED
    if any(found):
        raise RefusedError(
            f"{step.efuse} holds another {step.value} than the plan's",
            "a key block is written once; this chip cannot be sealed with this plan",
        )
    if not efuse["writeable"]:
        raise RefusedError(f"{step.efuse} is empty and write-protected")
    return OPEN


def block_contents(plan: Plan, flash_key: bytes) -> dict[str, bytes]:
    """What the key blocks read as. The AES hardware wants its key in reverse, the ROM digests not
    (ESP-IDF, components/efuse, and `espefuse burn-key`)."""
    blocks = dict(zip(plan.chip.digest_blocks, plan.digests, strict=False))
    return blocks | {plan.chip.flash_block: flash_key[::-1]}


@_as_expected()
def survey(plan: Plan, contents: Mapping[str, bytes], summary: Summary) -> dict[Step, str]:
    """The state of each step; RefusedError if the chip was burned in another order.

    Only the switches (JTAG and the like) may be burned early: a factory may have done it.
    """
    states = {step: state(step, contents, summary) for step in plan.steps}
    early = {switch[0] for switch in plan.chip.switches}
    missing: Step | None = None
    for group in groups(plan):
        for step in group:
            if missing and states[step] != OPEN and step.efuse not in early:
                raise RefusedError(
                    f"{step.action} {step.efuse} is {states[step]}, {missing.action} "
                    f"{missing.efuse} is not: this chip was burned in another order",
                    "going on could brick it; keep it for development",
                )
        missing = missing or next((step for step in group if states[step] != BURNED), None)
    return states


def _raw(summary: Summary, efuse: str) -> int:
    return int(str(summary[efuse]["raw_value"]), 16)
