"""A user's own project: a folder with an application, `app.py`, and a `signet.toml` about it.

    app.py        async def run(device)
    lib/          modules that it imports
    data/         files that it opens in /slot/data, if signet.toml names the folder
    tests/        its own tests

Signet's device code is not in it: that comes from `signet.sources`. What the tools make for the
project, keys and boards among it, is in `.signet`, for its owner's eyes only.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from signet.errors import RefusedError, SignetError
from signet.image import budget, slot_image
from signet.project import manifest, packages
from signet.project.manifest import About, Budget, Heap, Package, Servers
from signet.sources import SOURCE

_KB = 1024


@dataclass(frozen=True, kw_only=True)
class Project(About):
    """A project whose signet.toml was read and checked; its fields are those of [project].

    app: the file that is the application.
    """

    folder: Path
    app: Path
    heap: Heap
    budget: Budget
    servers: Servers
    packages: dict[str, Package]

    @property
    def lib(self) -> Path:
        """May be absent: git keeps no empty folder."""
        return self.folder / "lib"

    @property
    def state(self) -> Path:
        """What the tools make for the project."""
        return self.folder / ".signet"


def load(folder: Path) -> Project:
    """The project in a folder. Raises SignetError with what was expected and found."""
    path = folder / manifest.NAME
    if not path.is_file():
        raise SignetError(f"{folder}: no project: expected {manifest.NAME} in it")
    read = manifest.read_manifest(path)
    if read.about is None:
        raise SignetError(f"{path}: project is missing, expected the table [project]")
    project = Project(
        **vars(read.about),
        folder=folder,
        app=folder / "app.py",
        heap=read.heap,
        budget=read.budget,
        servers=read.servers,
        packages=read.packages,
    )
    if not project.app.is_file():
        raise SignetError(f"{project.app}: no such file, expected the application")
    if project.data is not None and not project.data.is_dir():
        raise SignetError(f"{path}: project.data names {project.data}, which is no folder")
    return project


def libraries(project: Project) -> list[Path]:
    """The folders of the modules that its application can import: its own, and its packages'.

    Packages that are not there yet are fetched (`signet.project.packages`).
    """
    store = project.state / "packages"
    return [project.lib, *packages.resolve(project.packages, project.folder, store)]


@dataclass(frozen=True)
class Weight:
    """What an image and its application take. image: bytes, signed."""

    image: int
    cost: budget.Cost
    rooms: list[budget.Room]


def release(project: Project, profile: str, build_time: int | None = None) -> slot_image.Release:
    """What the descriptor of its image says. build_time: Unix seconds; None: now."""
    return slot_image.Release(
        project.version,
        project.model,
        project.counter,
        project.micropython,
        int(time.time()) if build_time is None else build_time,
        profile,
        project.heap.reserve_kb,
    )


def build(project: Project, profile: str, build_time: int | None = None) -> slot_image.Build:
    """Its unsigned image: what `make` makes, alone."""
    return make(project, profile, build_time)[1]


def make(
    project: Project, profile: str, build_time: int | None = None
) -> tuple[slot_image.Release, slot_image.Build, Weight]:
    """What its image says, the image, unsigned, and what that takes.

    build_time: Unix seconds; None: now. Raises RefusedError if no board has what it takes, or it is
    above [budget]. A dev image is not held to [budget]: it is larger than what will be shipped.
    """
    described = release(project, profile, build_time)
    modules = libraries(project)
    built = slot_image.build(described, SOURCE, project.app, project.data, modules)
    sources = slot_image.slot_sources(SOURCE, project.app, modules)
    cost = budget.application_cost(sources, built.files, project.heap.data_kb)
    rooms = budget.check_room(cost, project.heap.reserve_kb, project.micropython)
    weight = Weight(len(built.content) + slot_image.BLOCK_LEN, cost, rooms)
    if profile != "dev":
        _check_budget(project, weight)
    return described, built, weight


def _check_budget(project: Project, weight: Weight) -> None:
    for key, taken, most_kb in (
        ("image_kb", weight.image, project.budget.image_kb),
        ("heap_kb", weight.cost.total, project.budget.heap_kb),
    ):
        if most_kb is not None and taken > most_kb * _KB:
            raise RefusedError(
                f"{project.folder / manifest.NAME}: budget.{key} is {most_kb}, "
                f"and the build takes {taken / _KB:.1f}"
            )
