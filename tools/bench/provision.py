"""`make bench-provision`: virtual boards a minute; a table, and build/bench-provision.json.

The floor, in the same run and on as many cores: a key, a certificate signed, and as many bytes
written and flushed to the disk, with nothing else. SIGNET_BOARDS says how many (default 400).
"""

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from bench.table import Notes, Progress, Row
from signet import files
from signet.errors import SignetError
from signet.image import slot_image
from signet.pki import authority
from signet.sources import SOURCE

BOARDS = int(os.environ.get("SIGNET_BOARDS", "400"))
MODEL = "signet-bench"
_FLASH_LEN = 4 * 1024 * 1024
_MAC = "24:0a:c4:{:02x}:{:02x}:{:02x}"


def make_one_bare(folder: Path, number: int) -> None:
    """The floor of one board."""
    authority.issue_device(folder / "pki", f"bare-{number}")
    path = folder / "bare" / str(number)
    files.create_exclusive(path, bytes([number & 0xFF]) * _FLASH_LEN, files.SECRET_MODE)


def time_bare(folder: Path, cores: int) -> float:
    """Seconds for all boards."""
    (folder / "bare").mkdir()
    started = time.monotonic()
    with ProcessPoolExecutor(cores) as pool:
        list(pool.map(partial(make_one_bare, folder), range(BOARDS), chunksize=4))
    taken = time.monotonic() - started
    shutil.rmtree(folder / "bare")
    return taken


def run_signet(*args: str | Path) -> None:
    command = [sys.executable, "-m", "signet", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SignetError(f"{' '.join(command[2:5])}: {done.stderr.strip()}")


def time_signet(folder: Path, signed: Path) -> float:
    """Seconds of the whole command, from its start to its labels."""
    rows = [f"dev-{n:05},{_MAC.format(n >> 16, n >> 8 & 255, n & 255)}" for n in range(BOARDS)]
    (folder / "boards.csv").write_text("\n".join(["id,mac", *rows]) + "\n")
    started = time.monotonic()
    run_signet(
        "device", "provision", "--pki", folder / "pki", "--csv", folder / "boards.csv",
        "--model", MODEL, "--hw", "A1", "--broker", "localhost:8883", "--images", "localhost:8443",
        "--ntp", "localhost:123", "--image", signed, "-o", folder / "boards",
    )  # fmt: skip
    return time.monotonic() - started


def measure(folder: Path, progress: Progress) -> tuple[list[Row], Notes]:
    """Measure everything; rows of the table and notes to it."""
    authority.init_pki(folder / "pki", ["localhost"])
    release = slot_image.Release("1.0.0", MODEL, 1, slot_image.DEFAULT_PLATFORM, int(time.time()))
    signed = folder / "signed.img"
    unsigned = slot_image.build_image(release, SOURCE)
    content = slot_image.sign_image(unsigned, folder / "pki/release.key")
    files.replace_file(signed, content, files.OURS)
    cores = len(os.sched_getaffinity(0))
    progress("keys and certificates alone")
    bare_s = time_bare(folder, cores)
    progress("the whole command")
    real_s = time_signet(folder, signed)
    used = sum(path.stat().st_blocks for path in (folder / "boards").rglob("*")) * 512
    rows = [
        Row("boards_per_minute", round(60 * BOARDS / real_s), f"bare {60 * BOARDS / bare_s:,.0f}",
            at_least=1000),
        Row("provision_ratio", round(real_s / bare_s, 2), f"bare {bare_s:.1f} s"),
        Row("disk_mb_per_board", round(used / BOARDS / 1e6, 2), f"flash {_FLASH_LEN / 1e6:.2f}"),
    ]  # fmt: skip
    notes = [f"{BOARDS} boards on {cores} cores in {real_s:.1f} s, start of the program included."]
    return rows, notes
