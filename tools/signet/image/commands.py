"""The commands `signet image`: they parse, call and print."""

import sys
import time
from pathlib import Path
from typing import Any

import click

from signet import files
from signet.errors import refusals_about
from signet.formats import signing
from signet.formats.documents import utc
from signet.image import budget, names, slot_image, symbols
from signet.options import FILE, FOLDER, JSON, SOURCE, U32, echo, echo_json
from signet.project import manifest
from trust.identity import PROFILES
from trust.image import Descriptor

PROFILE = click.option(
    "--profile",
    type=click.Choice(PROFILES),
    default=slot_image.DEFAULT_PROFILE,
    show_default=True,
    help="dev: with debug output, for dev boards only.",
)
BUILD_TIME = click.option(
    "--build-time",
    type=U32,
    envvar="SOURCE_DATE_EPOCH",
    show_envvar=True,
    help="Unix seconds. Default: now.",
)


@click.group("image")
def group() -> None:
    """Slot images: the firmware that devices run and update."""


def _parse_platform(_context: object, _parameter: object, text: str) -> tuple[int, int, int]:
    parts = text.split(".")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise click.BadParameter(f"{text!r}, expected major.minor.patch")
    return int(parts[0]), int(parts[1]), int(parts[2])


@group.command("build")
@click.option("--version", required=True, help="Version, up to 31 characters: 1.0.0")
@click.option("--model", required=True, help="Device model: a-z, 0-9 and '-'.")
@click.option(
    "--counter",
    type=U32,
    required=True,
    help="Security counter: devices never go back below the one they confirmed.",
)
@click.option(
    "--min-platform",
    default=".".join(map(str, slot_image.DEFAULT_PLATFORM)),
    show_default=True,
    callback=_parse_platform,
    help="Oldest MicroPython that can run it.",
)
@PROFILE
@BUILD_TIME
@SOURCE
@click.option("--app", type=FILE, help="A file that takes the place of firmware/app.py.")
@click.option("--data", type=FOLDER, help="Files for the application to open, below /slot/data.")
@click.option(
    "--manifest",
    "manifest_path",
    type=FILE,
    help="What the application needs. "
    f"Default: {manifest.NAME} beside --app, or in the project folder, if it is there.",
)
@click.option("-o", "--output", type=FILE, required=True, help="The unsigned image.")
def image_build(
    version: str,
    model: str,
    counter: int,
    min_platform: tuple[int, int, int],
    profile: str,
    build_time: int | None,
    source: Path,
    app: Path | None,
    data: Path | None,
    manifest_path: Path | None,
    output: Path,
) -> None:
    """Build an unsigned slot image from firmware/ and lib/.

    Of these only .py files are packed; firmware/board and stage 1 stay out. The same source,
    options and build time give the same bytes. But in a dev image, names that only the slot uses
    become short ones, and OUTPUT.symbols says which ("signet image symbols"). An application that
    is too large for a board's memory is refused; what it takes, and what is left, is printed.
    """
    now = int(time.time())
    path = manifest_path or manifest.beside(app, source)
    heap = manifest.read_manifest(path).heap if path else manifest.Heap()
    release = slot_image.Release(
        version, model, counter, min_platform, now if build_time is None else build_time, profile,
        heap.reserve_kb,
    )  # fmt: skip
    build = slot_image.build(release, source, app, data)
    cost = budget.application_cost(slot_image.slot_sources(source, app), build.files, heap.data_kb)
    rooms = budget.check_room(cost, heap.reserve_kb, min_platform)
    symbols.write_build(output, release, build)
    echo(
        f"{output}: {version} for {model}, {profile}, counter {counter}, "
        f"{len(build.content)} bytes, {len(build.names)} names shortened, unsigned"
    )
    for line in budget.describe(cost, rooms):
        echo(f"  {line}")


@group.command("sign")
@click.argument("unsigned", type=FILE)
@click.option("--key", type=FILE, required=True, help="Release key, PEM (RSA-3072).")
@click.option("-o", "--output", type=FILE, required=True, help="The signed image.")
def image_sign(unsigned: Path, key: Path, output: Path) -> None:
    """Sign an image with espsecure, and verify the result with espsecure and as a device does."""
    with refusals_about(unsigned):
        content = slot_image.sign_image(files.read_file(unsigned, "image"), key)
    files.replace_file(output, content, slot_image.FILE)
    echo(f"{output}: signed by key {signing.key_digest(key).hex()}, {len(content)} bytes")


@group.command("verify")
@click.argument("signed", type=FILE)
@click.option("--key", type=FILE, required=True, help="Release key, public or private, PEM.")
@click.option("--model", help="Refuse images for another model.")
@JSON
def image_verify(signed: Path, key: Path, model: str | None, as_json: bool) -> None:
    """Verify an image as a device does before every boot."""
    with refusals_about(signed):
        descriptor = slot_image.verify_image(
            files.read_file(signed, "image"), [signing.key_digest(key)], model
        )
    if as_json:
        echo_json(_describe(descriptor))
    else:
        echo(
            f"{signed}: verified: {descriptor.version} for {descriptor.model}, "
            f"{PROFILES[descriptor.profile]}, counter {descriptor.counter}"
        )


@group.command("inspect")
@click.argument("path", metavar="IMAGE", type=FILE)
@JSON
def image_inspect(path: Path, as_json: bool) -> None:
    """Show what an image says and holds, signed or not, and what is wrong with it.

    It trusts no key: "verify" tells who signed it. What is wrong is printed and exits with 0; only
    a file that is no image at all is refused.
    """
    with refusals_about(path):
        report = slot_image.inspect_image(files.read_file(path, "image"))
    signer = report.key_digest.hex() if report.key_digest else None
    if as_json:
        facts = {"bytes": report.length, "files": report.files, "names": report.names}
        facts["key_digest"] = signer
        echo_json(_describe(report.descriptor) | facts | {"problems": report.problems})
        return
    built = utc(report.descriptor.build_time)
    rows = [*_describe(report.descriptor).items(), ("built", built)]
    rows += [("bytes", report.length), ("names", f"{report.names} that the ROM does not have")]
    rows += [("key_digest", signer or "none: not signed")]
    rows += [("file", f"{size:>7}  {name}") for name, size in report.files.items()]
    rows += [("problem", problem) for problem in report.problems]
    for name, value in rows:
        echo(f"{name:<14} {value}")


@group.command("symbols")
@click.argument("path", metavar="MAP", type=FILE)
@click.argument("text", nargs=-1)
def image_symbols(path: Path, text: tuple[str, ...]) -> None:
    """Say what the short names in a report stand for: EPERM becomes _publish(EPERM).

    MAP is the file that "image build" wrote beside the image. TEXT is the report; without it,
    standard input is read. A short name can be a word of the report's own, so both are shown.
    """
    short = symbols.read_map(path)
    for line in [" ".join(text)] if text else sys.stdin:
        echo(names.translate(line.rstrip("\n"), short))


def _describe(descriptor: Descriptor) -> dict[str, Any]:
    platform = descriptor.platform
    return {
        "version": descriptor.version,
        "model": descriptor.model,
        "profile": PROFILES[descriptor.profile],
        "counter": descriptor.counter,
        "platform": f"{platform >> 16}.{platform >> 8 & 0xFF}.{platform & 0xFF}",
        "build_time": descriptor.build_time,
        "payload_bytes": descriptor.payload_len,
        "heap_kb": descriptor.heap,
    }
