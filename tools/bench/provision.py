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
from pathlib import Path

from bench import table
from bench.table import Row, progress
from demo.stage import REPO, claim_folder
from signet import files
from signet.errors import SignetError
from signet.image import slot_image
from signet.pki import authority

NAME = "bench-provision"  # of the command
FOLDER = Path("build/bench-provision")
RESULT = Path("build/bench-provision.json")
BOARDS = int(os.environ.get("SIGNET_BOARDS", "400"))
MODEL = "signet-bench"
_FLASH_LEN = 4 * 1024 * 1024
_MAC = "24:0a:c4:{:02x}:{:02x}:{:02x}"


def make_one_bare(number: int) -> None:
    """The floor of one board."""
    authority.issue_device(FOLDER / "pki", f"bare-{number}")
    path = FOLDER / "bare" / str(number)
    files.create_exclusive(path, bytes([number & 0xFF]) * _FLASH_LEN, files.SECRET_MODE)


def time_bare(cores: int) -> float:
    """Seconds for all boards."""
    (FOLDER / "bare").mkdir()
    started = time.monotonic()
    with ProcessPoolExecutor(cores) as pool:
        list(pool.map(make_one_bare, range(BOARDS), chunksize=4))
    taken = time.monotonic() - started
    shutil.rmtree(FOLDER / "bare")
    return taken


def run_signet(*args: str | Path) -> None:
    command = [sys.executable, "-m", "signet", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SignetError(f"{' '.join(command[2:5])}: {done.stderr.strip()}")


def time_signet(signed: Path) -> float:
    """Seconds of the whole command, from its start to its labels."""
    rows = [f"dev-{n:05},{_MAC.format(n >> 16, n >> 8 & 255, n & 255)}" for n in range(BOARDS)]
    (FOLDER / "boards.csv").write_text("\n".join(["id,mac", *rows]) + "\n")
    started = time.monotonic()
    run_signet(
        "device", "provision", "--pki", FOLDER / "pki", "--csv", FOLDER / "boards.csv",
        "--model", MODEL, "--hw", "A1", "--broker", "localhost:8883", "--images", "localhost:8443",
        "--ntp", "localhost:123", "--image", signed, "-o", FOLDER / "boards",
    )  # fmt: skip
    return time.monotonic() - started


def measure() -> tuple[list[Row], list[str]]:
    with claim_folder(FOLDER):
        authority.init_pki(FOLDER / "pki", ["localhost"])
        release = slot_image.Release(
            "1.0.0", MODEL, 1, slot_image.DEFAULT_PLATFORM, int(time.time())
        )
        signed = FOLDER / "signed.img"
        files.replace_file(
            signed,
            slot_image.sign_image(
                slot_image.build_image(release, REPO), FOLDER / "pki/release.key"
            ),
        )
        cores = len(os.sched_getaffinity(0))
        progress(NAME, "keys and certificates alone")
        bare_s = time_bare(cores)
        progress(NAME, "the whole command")
        real_s = time_signet(signed)
        used = sum(path.stat().st_blocks for path in (FOLDER / "boards").rglob("*")) * 512
    rows = [
        Row("boards_per_minute", round(60 * BOARDS / real_s), f"bare {60 * BOARDS / bare_s:,.0f}",
            at_least=1000),
        Row("provision_ratio", round(real_s / bare_s, 2), f"bare {bare_s:.1f} s"),
        Row("disk_mb_per_board", round(used / BOARDS / 1e6, 2), f"flash {_FLASH_LEN / 1e6:.2f}"),
    ]  # fmt: skip
    notes = [f"{BOARDS} boards on {cores} cores in {real_s:.1f} s, start of the program included."]
    return rows, notes


if __name__ == "__main__":
    table.run(NAME, RESULT, measure)
