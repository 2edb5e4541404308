"""Python files of a source folder, and what mpy-cross makes of them.

Debug code follows on `if _DEBUG:` (docs/design.md, "Profiles"); it is switched here.
"""

import ast
import functools
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import resolve_name
from pathlib import Path

from signet.errors import SignetError
from signet.run import ProgramError, run_program

_OPTIMISATION = "-O3"  # no line numbers in tracebacks, and 6 % smaller; there are no asserts
_DEBUG_SWITCH = b"_DEBUG = const(False)"
_KEPT = 1024  # compiled files, of some KB each
_ERROR_MARKS = ("error", "line ")  # mpy-cross names the line before it says what is wrong there
_DOTTED_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_DEBUG_NAME = re.compile(rb"\b_DEBUG\b")


def python_files(source: Path, folders: Iterable[str]) -> dict[str, Path]:
    """All .py files below some folders of a source folder, by their path in it."""
    return {
        path.relative_to(source).as_posix(): path
        for folder in folders
        for path in sorted((source / folder).rglob("*.py"))
        if path.is_file() and not path.name.startswith(".")
    }


def compile_sources(sources: dict[str, Path], debug: bool = False) -> dict[str, bytes]:
    """Compile each file with mpy-cross: {"a/b.py": path} gives {"a/b.mpy": code}.

    The module's name, not its path, ends up in the code and in tracebacks: a board holds that name
    in memory anyway. debug: with `_DEBUG` true; else mpy-cross leaves out what depends on it.
    """
    compiled = {}
    for name, path in sorted(sources.items()):
        if not path.is_file():
            raise SignetError(f"{path}: no such file")
        text = path.read_bytes()
        _check_debug_switch(path, text)
        if debug:
            text = text.replace(_DEBUG_SWITCH, b"_DEBUG = const(True)")
        try:
            code = _compile(module_name(name), text)
        except ProgramError as error:
            raise SignetError(f"{path}: does not compile: {error}") from error
        compiled[name.removesuffix(".py") + ".mpy"] = code
    return compiled


@functools.lru_cache(_KEPT)
def _compile(module: str, text: bytes) -> bytes:
    """The code of a source; kept, as who builds again has changed a file or two."""
    with tempfile.TemporaryDirectory(prefix="signet-") as folder:
        source, output = Path(folder, "in.py"), Path(folder, "out.mpy")
        source.write_bytes(text)
        arguments = (_OPTIMISATION, "-s", module, "-o", output, "--", source.name)
        run_program("mpy-cross", *arguments, cwd=source.parent, marks=_ERROR_MARKS)
        return output.read_bytes()


def _check_debug_switch(path: Path, text: bytes) -> None:
    """Raise SignetError unless `_DEBUG` is only ever used as the build can switch it."""
    switched = False
    for line in filter(_DEBUG_NAME.search, text.splitlines()):
        switched = switched or line == _DEBUG_SWITCH
        if not switched or (line != _DEBUG_SWITCH and line.strip() != b"if _DEBUG:"):
            raise SignetError(
                f"{path}: {line.decode(errors='replace').strip()!r}: debug code is switched by "
                f"the line {_DEBUG_SWITCH.decode()!r}, and follows on 'if _DEBUG:'"
            )


def module_name(path: str) -> str:
    """The name by which a board imports a file, a .py or .mpy."""
    name = path.removeprefix("lib/").removesuffix(".py").removesuffix(".mpy")
    return name.removesuffix("/__init__").replace("/", ".")


def reached(sources: dict[str, Path], starts: Iterable[str]) -> set[str]:
    """Those of a slot's files that some of them import, wherever in a file, and theirs; and these.

    A module counts as imported if a text is its name, too: `__import__("mqtt.full")`.
    """
    found: set[str] = set()
    waiting = list(starts)
    while waiting:
        name = waiting.pop()
        if name in sources and name not in found:
            found.add(name)
            waiting += _imported(name, sources[name])
    return found


def imports(path: Path, package: str) -> Iterator[str]:
    """Full names of modules that a file's imports stand for, wherever in it, and perhaps of more.

    package: that of the file, in which `from .module` is looked for. `from module import name`
    gives module.name, too, which need not be one.
    """
    return _modules(_nodes(path), package)


def _nodes(path: Path) -> Sequence[ast.AST]:
    try:
        return _parsed(path.read_bytes())
    except (OSError, SyntaxError, ValueError):  # to compile it will fail, too, and say why
        return []


@functools.lru_cache(_KEPT)
def _parsed(text: bytes) -> Sequence[ast.AST]:
    """The nodes of a source that may have the name of a module in them."""
    found = ast.Import, ast.ImportFrom, ast.Constant
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, found)]


def _modules(nodes: Sequence[ast.AST], package: str) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            try:
                origin = resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:  # beyond the top; the board will say so, if it ever gets there
                continue
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def package_name(path: str) -> str:
    """The package that a file of a slot is in."""
    return path.removeprefix("lib/").rpartition("/")[0].replace("/", ".")


def _imported(name: str, path: Path) -> Iterator[str]:
    """Paths that the imports of a file, and texts in it, may stand for."""
    nodes = _nodes(path)
    texts = (
        node.value
        for node in nodes
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and _DOTTED_NAME.fullmatch(node.value)
    )
    for module in (*_modules(nodes, package_name(name)), *texts):
        parts = module.split(".")
        for end in range(1, len(parts) + 1):  # its packages, too
            stem = "/".join(parts[:end])
            for folder in ("", "lib/"):
                yield f"{folder}{stem}.py"
                yield f"{folder}{stem}/__init__.py"
