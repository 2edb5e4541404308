"""What the documents name is there: files, folders, and functions in them."""

import ast
import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
DOCUMENTS = [*REPO.glob("*.md"), *(REPO / "docs").glob("*.md"), *REPO.glob("host_tests/*.md")]
# `lib/trust/image.py: verify`, `tools/signet/formats/`, host_tests/project/test_cli.py
NAMED = re.compile(
    r"(?<![\w/.-])((?:boot\.py|main\.py|(?:docs|firmware|host_tests|lib|tools|typings)/[\w./-]*\w/?))"
    r"(?![\w*<…])(?:: (\w+)`)?"
)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


TEST = re.compile(r"`(test_\w+)(…?)`")


def definitions(path: Path) -> set[str]:
    defines = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef
    return {n.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, defines)}


def find(name: str) -> Path | None:
    """A document may leave out `host_tests/` where it speaks of tests."""
    found = [path for path in (REPO / name, REPO / "host_tests" / name) if path.exists()]
    return found[0] if found else None


@pytest.fixture(scope="module")
def tests() -> set[str]:
    return {name for path in (REPO / "host_tests").rglob("test_*.py") for name in definitions(path)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(REPO).as_posix())
def test_what_a_document_names_is_there(document: Path, tests: set[str]) -> None:
    text = document.read_text()
    missing = [target for target in LINK.findall(text) if not (document.parent / target).exists()]
    for name, function in NAMED.findall(text):
        path = find(name)
        if not path or (function and function not in definitions(path)):
            missing.append(f"{name}: {function}" if function else name)
    for name, more in TEST.findall(text):
        if not any(test == name or (more and test.startswith(name)) for test in tests):
            missing.append(name)
    assert not missing


def test_the_walks_name_functions() -> None:
    """Else the pattern no longer finds them."""
    named = NAMED.findall((REPO / "docs/architecture.md").read_text())
    assert sum(bool(function) for _, function in named) > 20
