"""The order of the packages: no file imports from one that stands above its own."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
# Lowest first. A module stands where the longest of these names that its own begins with does;
# what begins with none is not ours.
LAYERS = (
    "micropython", "romfs", "trust", "deadline", "mtls", "mqtt", "firmware",
    "virtual_board",
    "signet", "signet.toolchain", "signet.errors", "signet.sources", "signet.files",
    "signet.locks", "signet.run",
    "signet.options", "signet.formats", "sealed_build", "signet.pki", "signet.image",
    "signet.board.virtual", "signet.board", "signet.device", "signet.fleet", "signet.release",
    "signet.project", "signet.image.commands", "signet.board.measure", "signet.app",
    "signet.board.commands", "signet.project.commands", "signet.cli", "signet.__main__",
    "signet.project.templates",
    "demo", "bench",
)  # fmt: skip
FOLDERS = {"lib": "lib", "firmware": ".", "tools": "tools"}  # and what module names begin at


def place(module: str) -> int:
    """Index into LAYERS; -1 if it is not ours."""
    names = [name for name in LAYERS if f"{module}.".startswith(f"{name}.")]
    return LAYERS.index(max(names, key=len)) if names else -1


def imported(path: Path, package: str) -> Iterator[tuple[int, str]]:
    """Line and name of everything that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)


def modules(folder: str) -> Iterator[tuple[str, Path]]:
    """Name and path of each Python file below a folder of the project."""
    for path in sorted((REPO / folder).rglob("*.py")):
        yield ".".join(path.relative_to(REPO / FOLDERS[folder]).with_suffix("").parts), path


def test_no_file_imports_from_a_package_above_it():
    wrong, seen = [], set()
    for folder in FOLDERS:
        for module, path in modules(folder):
            own = place(module.removesuffix(".__init__"))
            seen.add(own)
            wrong += [
                f"{path.relative_to(REPO)}:{line}: {LAYERS[own]} imports {name}"
                for line, name in imported(path, module.rpartition(".")[0])
                if place(name) > own
            ]
    assert not wrong, "\n".join(wrong)
    assert seen == set(range(len(LAYERS)))  # every file has a place, every place a file


# Cut off modules that stay in memory, which load them in a function, for a moment.
PARTS = {"mqtt.connect", "mqtt.setup"}


def test_no_two_modules_of_the_board_import_each_other():
    """A package's own file aside, it may load what is in it when it is asked to; and `PARTS`."""
    found = dict([*modules("lib"), *modules("firmware")])
    graph = {
        module: {
            known
            for _, name in imported(path, module.rpartition(".")[0])
            for known in (name, name.rpartition(".")[0])
            if known in found and (known not in PARTS or module in PARTS)
        }
        for module, path in found.items()
    }
    TopologicalSorter(graph).prepare()  # CycleError names the modules
    assert "mqtt.large" in graph["mqtt.full"]
