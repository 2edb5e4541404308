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


def definitions(path: Path) -> set[str]:
    defines = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef
    return {n.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, defines)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_what_a_document_names_is_there(document: Path) -> None:
    text = document.read_text()
    missing = [target for target in LINK.findall(text) if not (document.parent / target).exists()]
    for name, function in NAMED.findall(text):
        path = REPO / name
        if not path.exists():
            missing.append(name)
        elif function and function not in definitions(path):
            missing.append(f"{name}: {function}")
    assert not missing


def test_the_walks_name_functions() -> None:
    """Else the pattern no longer finds them."""
    named = NAMED.findall((REPO / "docs/architecture.md").read_text())
    assert sum(bool(function) for _, function in named) > 20
