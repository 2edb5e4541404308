"""`make qemu-check`: a device's whole way on an emulated ESP32, with each stock image given.

Provisioned, connected, a command, broker restarts, an update, one that crashes and is rolled back.
A table for each image, and a verdict. It needs the emulator that `signet board emulate` needs.
docs/measured.json is what was last kept of it.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import click

from bench import application
from demo.stage import claim_folder
from signet import files
from signet.board import emulator, real_flash
from signet.board.measure import figures
from signet.board.measure.drive import Plan
from signet.board.measure.figures import Run
from signet.board.measure.run import measure
from signet.device import flash_file
from signet.device.networks import Networks, Wifi
from signet.device.settings import Settings
from signet.errors import SignetError
from signet.fleet.serving import LOOPBACK, free_port
from signet.image import slot_image
from signet.pki import authority
from signet.sources import SOURCE

KEPT = SOURCE / "docs/measured.json"
DEVICE = "dev-0001"
MODEL = "signet-check"
_FOLDER = Path("build/qemu-check")
_WATCHDOG_S = 30
# 8 ns an instruction; and what the chip waits for by its own clock, such as the pauses between
# attempts to connect, is skipped: 20 broker restarts take 3 minutes instead of 13.
_QEMU = ("-icount", "shift=3,sleep=off,align=off")
_CRASHES = 'raise RuntimeError("this release crashes at its start")\n'


class Bench:
    """Keys and releases in a folder, the same for all images. size: of the application."""

    def __init__(self, folder: Path, size: application.Size | None, wifi: str):
        self.folder = folder
        self.pki = folder / "pki"
        self._networks = Networks((Wifi(wifi),))
        self._built = int(time.time())
        authority.init_pki(self.pki, [emulator.HOST, "localhost", LOOPBACK])
        app = application.write(size, folder) if size else None
        crashes = folder / "crashes.py"
        crashes.write_text(_CRASHES)
        self.first = self._make_image("1.0.0", 1, app)
        self.update = self._make_image("1.1.0", 2, app)
        self.bad = self._make_image("1.2.0", 3, crashes)

    def _make_image(self, version: str, counter: int, app: Path | None) -> Path:
        """As a person makes it: with what the build says about memory, which may be no."""
        unsigned = self.folder / f"{version}.unsigned"
        words = ["image", "build", "--version", version, "--model", MODEL]
        words += ["--counter", str(counter), "--build-time", str(self._built), "-o", str(unsigned)]
        if app:
            words += ["--app", str(app)]
        done = subprocess.run(
            [sys.executable, "-m", "signet", *words], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SignetError(f"signet image build: {done.stderr.strip()}")
        if counter == 1:
            click.echo(done.stdout.rstrip(), err=True)
        path = unsigned.with_suffix(".img")
        content = slot_image.sign_image(unsigned.read_bytes(), self.pki / "release.key")
        files.replace_file(path, content, files.OURS)
        return path

    def make_flash(self, micropython: Path, work: Path) -> Path:
        """The flash of a new board with this MicroPython."""
        work.mkdir()
        broker, images, ntp = (f"{emulator.HOST}:{free_port()}" for _ in range(3))
        settings = Settings(DEVICE, MODEL, "A1", broker, images, ntp, _WATCHDOG_S)
        device = work / "device.bin"
        flash_file.provision(
            settings, self.pki, self.first, SOURCE, device, networks=self._networks
        )
        chip, _ = real_flash.build_board_flash(micropython, device)
        chip.save_new(work / "flash.bin")
        return work / "flash.bin"


def verdict(run: Run, least_kb: int | None) -> str | None:
    """Why a run is not good enough; None if it is."""
    if run.failure:
        return run.failure
    if least_kb is not None and (run.idf_least or 0) < least_kb * 1024:
        return f"the IDF had {run.idf_least or 0:,} bytes left at a step, expected {least_kb} KB"
    return None


def check(
    images: tuple[Path, ...], size: application.Size | None, restarts: int, bad: bool,
    least_kb: int | None, limit_s: float, wifi: str, folder: Path,
) -> list[tuple[Run, str | None]]:  # fmt: skip
    """Drive a new board with each image; the runs, and what is wrong with each."""
    bench = Bench(folder, size, wifi)
    with_app = f", application of {size}" if size else ""
    results = []
    for number, image in enumerate(images, 1):
        work = folder / f"{number}-{image.stem}"
        click.echo(f"qemu-check: {image.name}; console and logs in {work}", err=True)
        flash = bench.make_flash(image, work)
        plan = Plan(
            bench.pki, restarts, bench.update, bench.bad if bad else None, limit_s, _QEMU,
            with_app, telemetry=True,
        )  # fmt: skip
        run = measure(flash, plan, work)
        figures.show(run)
        if run.failure:
            click.echo(f"qemu-check: {run.verdict}", err=True)
        results.append((run, verdict(run, least_kb)))
    return results


def show_kept() -> None:
    """Print what was kept of the last measurement, and the command that measures it anew."""
    command, runs = figures.load(KEPT)
    click.echo(f"\nOn emulated chips, as last measured with\n  {command}")
    for run in runs:
        figures.show(run)
        if run.failure:
            click.echo(f"not held: {run.failure}")
    click.echo(figures.LEGEND)


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="BIN...",
                type=click.Path(path_type=Path, exists=True, dir_okay=False))  # fmt: skip
@click.option(
    "--app",
    help="Application to try: data=16,mpy=6 (KB), or data=16,mpy=6,reserve=32. "
    "Default: firmware/app.py.",
)
@click.option("--restarts", default=1, show_default=True, type=click.IntRange(0, 1000),
              help="How often the broker is restarted.")  # fmt: skip
@click.option("--bad/--no-bad", default=True, show_default=True,
              help="Order a release that crashes, too.")  # fmt: skip
@click.option("--least", "least_kb", type=click.IntRange(0, 1000),
              help="KB that the IDF must have free at every step.")  # fmt: skip
@click.option("--limit", "limit_s", default=180.0, show_default=True,
              type=click.FloatRange(1, 86400), help="Seconds for any one thing.")  # fmt: skip
@click.option("--wifi", default="PICSimLabWifi", show_default=True,
              help="The open network that the emulator has.")  # fmt: skip
@click.option("--keep", is_flag=True, help=f"Keep the figures in docs/{KEPT.name}.")
def main(
    images: tuple[Path, ...], app: str | None, restarts: int, bad: bool, least_kb: int | None,
    limit_s: float, wifi: str, keep: bool,
) -> None:  # fmt: skip
    """Drive a new board with each of the stock MicroPython images; exit code 0 if all held."""
    images = tuple(image.resolve() for image in images)
    os.chdir(SOURCE)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the broker would be left over
    try:
        size = application.parse_size(app) if app else None
        emulator.find_emulator()
        with claim_folder(_FOLDER):
            results = check(images, size, restarts, bad, least_kb, limit_s, wifi, _FOLDER)
    except SignetError as error:
        click.echo(f"qemu-check: error: {error}", err=True)
        if error.hint:
            click.echo(f"qemu-check: hint: {error.hint}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        click.echo("qemu-check: interrupted", err=True)
        sys.exit(1)
    click.echo(figures.LEGEND)
    for (_, wrong), image in zip(results, images, strict=True):
        click.echo(f"{'✗' if wrong else '✓'} {image.name}: {wrong or 'every step held'}")
    if keep:
        figures.save(KEPT, _command(images, app, restarts), [run for run, _ in results])
    sys.exit(1 if any(wrong for _, wrong in results) else 0)


def _command(images: tuple[Path, ...], app: str | None, restarts: int) -> str:
    """The command that measures this again."""
    names = shlex.quote(" ".join(image.name for image in images))
    more = f" APP={app}" if app else ""
    return f"make qemu-check IMAGES={names}{more} RESTARTS={restarts} KEEP=1"


if __name__ == "__main__":
    main()
