"""The commands `signet new` and `signet build`: they parse, call and print."""

from pathlib import Path

import click

from signet import files, project
from signet.formats import signing
from signet.image import budget, slot_image, symbols
from signet.image.commands import BUILD_TIME, PROFILE
from signet.options import FILE, FOLDER, echo, note
from signet.project import Project, Weight
from signet.project import new as making

_KB = 1024


@click.command("new")
@click.argument("folder", metavar="NAME", type=FOLDER)
@click.option(
    "--template",
    type=click.Choice(making.TEMPLATES),
    help=f"What it begins with. Default: {making.TEMPLATES[0]}.",
)
@click.option("--from", "source", type=FOLDER, help="A project of your own, in place of one.")
def new(folder: Path, template: str | None, source: Path | None) -> None:
    """Make a project: an application, its tests, and signet.toml.

    NAME is the folder, and the name in signet.toml: a-z, 0-9 and '-'. Of a folder that is given
    with --from, keys, .signet and what was built stay behind.
    """
    if template and source:
        raise click.UsageError("--template and --from are two ways to begin, choose one")
    if source:
        left = making.from_folder(folder, source)
        echo(f"{folder}: made like {source}")
        for name in left:
            note("note", f"{source / name}: a secret, which stays where it is", "yellow")
    else:
        template = template or making.TEMPLATES[0]
        making.from_template(folder, template)
        echo(f"{folder}: made from the template {template}; README.md there says what is next")


@click.command("build")
@click.argument("folder", type=FOLDER, default=".")
@PROFILE
@BUILD_TIME
@click.option("--key", type=FILE, help="Release key, PEM (RSA-3072): sign the image.")
@click.option(
    "-o", "--output", type=FILE, help="The image. Default: build/NAME-VERSION.img in FOLDER."
)
def build(
    folder: Path, profile: str, build_time: int | None, key: Path | None, output: Path | None
) -> None:
    """Build a project's image: app.py, lib/, data and the device code.

    FOLDER holds a signet.toml; the default is the current folder. Of lib/ those modules are packed
    that something imports. What is above [budget], or too large for a board, is refused. Without
    --key the image is unsigned, for "signet image sign".
    """
    ours = project.load(folder)
    release, built, weight = project.make(ours, profile, build_time)
    content = slot_image.sign_image(built.content, key) if key else built.content
    path = output or ours.folder / "build" / f"{ours.name}-{ours.version}.img"
    if output is None:
        files.make_folder(path.parent)
    symbols.write_build(path, release, built, content)
    echo(f"{path}: {'signed by key' if key else 'unsigned'}")
    if key:
        echo(f"  {signing.key_digest(key).hex()}")
    echo(f"  {ours.version} for {ours.model}, {profile}, counter {ours.counter}")
    for line in _describe(ours, weight):
        echo(f"  {line}")


def _describe(ours: Project, weight: Weight) -> list[str]:
    left = [
        f"{most_kb - taken / _KB:.1f} of {most_kb} KB left {what}"
        for what, taken, most_kb in (
            ("for the image", weight.image, ours.budget.image_kb),
            ("on the heap", weight.cost.total, ours.budget.heap_kb),
        )
        if most_kb is not None
    ]
    return [
        f"the image takes {weight.image / _KB:.1f} KB, signed",
        *budget.describe(weight.cost, weight.rooms),
        *([f"budget: {', '.join(left)}"] if left else []),
    ]
