"""Step 7 of the demo: what is refused, and what is recovered from."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from demo.stage import DEVICE, MODEL, Evidence, Stage
from demo.transcript import NotHeldError
from signet.board.virtual.cycle import Exit, PowerCut
from signet.formats import documents, flash
from signet.image import slot_image
from signet.run import run_program
from signet.sources import SOURCE

_TRIES = 3  # boots that a new release gets to prove itself
_BLOCK_LEN = 4096
_CRASHES = 'raise RuntimeError("this release crashes at start")\n'
_HANGS = "async def run(device):\n    while True: pass\n"


def flipped_bit(stage: Stage) -> str:
    content = bytearray(_sign_as(stage, "1.1.1"))
    order = stage.make_order(bytes(content))
    content[len(content) // 2] ^= 1
    return _refuse(stage, order, bytes(content), "digest does not match")


def foreign_key(stage: Stage) -> str:
    key = stage.folder / "foreign.key"
    run_program("espsecure", "generate-signing-key", "--version", "2", "--scheme", "rsa3072", key)
    content = _sign_as(stage, "1.1.1", key=key)
    return _refuse(stage, stage.make_order(content), content, "unknown key")


def downgrade(stage: Stage) -> str:
    content = (stage.folder / "1.0.0.img").read_bytes()
    return _refuse(stage, stage.make_order(content), content, "below the floor")


def other_model(stage: Stage) -> str:
    content = _sign_as(stage, "1.1.1", model="signet-other")
    order = stage.make_order(content) | {"model": MODEL}  # the order lies, the image cannot
    return _refuse(stage, order, content, "image for model 'signet-other'")


def expired_order(stage: Stage) -> str:
    content = _sign_as(stage, "1.1.1")
    order = stage.make_order(content) | {"expires": int(time.time()) - 1}
    return _refuse(stage, order, content, "order expired")


def crash(stage: Stage) -> str:
    return _roll_back(stage, "1.2.0", _CRASHES)


def hang(stage: Stage) -> str:
    return _roll_back(stage, "1.2.1", _HANGS)


def power_cut(stage: Stage) -> str:
    content = stage.make_image(_describe("1.3.0", 3))
    total = len(content)
    cut = _find_operation(stage, total // _BLOCK_LEN * 2 // 3)
    mark, requests = stage.mark, len(stage.requests())
    stage.board.power_off()
    stage.board.power_on(cut=PowerCut(cut, torn=1000), power_returns=True)
    stage.reports.wait_for_state(mark, version="1.1.0", status="confirmed")
    stage.send(stage.make_order(content), content)
    stage.wait_for_update("accepted", mark)
    boot = stage.reports.wait_for(
        "that it resumed",
        lambda _, report: report.get("event") == "boot" and "resumed" in report["reason"],
        mark,
    )
    stage.show.said(f"{DEVICE} reports: {boot['reason']}")
    for result in ("trying", "confirmed"):
        stage.wait_for_update(result, mark)
    stage.check(
        f"the power was cut in the middle of flash operation {cut}, and came back",
        [boot.exit for boot in stage.board.boots].count(Exit.POWER_CUT) == 1,
    )
    starts = [int(entry["range"][6:].split("-")[0]) for entry in stage.requests()[requests:]]
    resumed = [start for start in starts if 0 < start < total - _BLOCK_LEN]
    stage.check(f"the download went on at byte {sum(resumed)} of {total}", len(resumed) == 1)
    found = stage.evidence()
    stage.check(
        f"slot {found.active} is {found.status} and holds it, byte for byte; floor {found.floor}",
        found[:2] == ("a", "confirmed") and found.floor == 3 and stage.holds("a", content),
    )
    stage.check("1.3.0 answers commands", stage.ask_version() == "1.3.0")
    return f"resumed at {resumed[0] * 100 // total} %, 1.3.0 confirmed, floor 3"


CASES: list[tuple[str, Callable[[Stage], str]]] = [
    ("one bit of an image flipped", flipped_bit),
    ("an image signed by another key", foreign_key),
    ("a downgrade to 1.0.0", downgrade),
    ("an image for another model", other_model),
    ("an order that has expired", expired_order),
    ("a release that crashes at start", crash),
    ("a release that hangs", hang),
    ("a power cut during a download", power_cut),
]


def refuse_and_recover(stage: Stage) -> str:
    """Every case, whatever became of those before it."""
    held = sum(_perform(stage, name, case) for name, case in CASES)
    if held < len(CASES):
        raise NotHeldError(f"{held} of {len(CASES)} cases held")
    return f"all {held} cases"


def _perform(stage: Stage, name: str, case: Callable[[Stage], str]) -> bool:
    stage.show.title(name[0].upper() + name[1:], level=1)
    return stage.show.perform(f"  {name}", partial(case, stage))


def _refuse(stage: Stage, order: documents.Document, content: bytes, reason: str) -> str:
    """Serve an image and order it: refused for this reason, and nothing that matters changed."""
    mark, before = stage.mark, stage.evidence()
    stage.send(order, content)
    report = stage.wait_for_update("refused", mark)
    if reason not in report["reason"]:
        raise NotHeldError(f"refused, but not because {reason}")
    _check_unharmed(stage, before)
    return f"refused: {report['reason']}"


def _roll_back(stage: Stage, version: str, app: str) -> str:
    """Release an application that never confirms: tried, given up, back to 1.1.0."""
    path = stage.folder / f"{version}.py"
    path.write_text(app)
    stage.show.said(f"its app.py:\n{app}")
    content = stage.make_image(_describe(version, 3), path)
    mark, before, lines = stage.mark, stage.evidence(), len(stage.board.lines)
    stage.send(stage.make_order(content), content)
    stage.wait_for_update("accepted", mark)
    report = stage.wait_for_update("rolled-back", mark)
    tried = sum(f"verified: {version}" in line for line in stage.board.lines[lines:])
    stage.check(f"it got {tried} tries", tried == _TRIES)
    other = "a" if before.active == "b" else "b"
    stage.check(f"slot {other} is bad: it does not run again", stage.status(other) == "bad")
    _check_unharmed(stage, before)
    return f"{tried} tries, back to 1.1.0: {report['reason'].split('last: ')[-1]}"


def _check_unharmed(stage: Stage, before: Evidence) -> None:
    stage.check("active slot, its content and the floor are what they were",
                stage.evidence() == before)  # fmt: skip
    stage.check("1.1.0 goes on and answers commands", stage.ask_version() == "1.1.0")


def _describe(version: str, counter: int, model: str = MODEL) -> slot_image.Release:
    return slot_image.Release(
        version, model, counter, slot_image.DEFAULT_PLATFORM, int(time.time())
    )


def _sign_as(stage: Stage, version: str, model: str = MODEL, key: Path | None = None) -> bytes:
    """A signed image with the files of 1.1.0 and another descriptor."""
    payload = (stage.folder / "1.1.0.unsigned").read_bytes()[_BLOCK_LEN:]
    content = slot_image.pack_descriptor(_describe(version, 2, model), len(payload)) + payload
    return slot_image.sign_image(content, key or stage.pki / "release.key")


def _find_operation(stage: Stage, block: int) -> int:
    """Which flash operation, counted from power-on, wrote this block of slot b in step 6.

    The next update, after a power-on, writes about the same in the same order.
    """
    layout = {row.label: row for row in flash.load_layout(SOURCE / slot_image.LAYOUT)}
    address = layout["slot_b"].offset + block * _BLOCK_LEN
    for number, operation in enumerate(stage.board.flash_ops(), 1):
        if (operation.kind, operation.address) == ("program", address):
            return number
    raise NotHeldError(f"step 6 did not write block {block} of slot b")
