"""The lists of mutations, host_tests/mutants/*.toml: what each changes, and what must fail then.

[[mutant]]
why = "an image below the floor runs"       # what an attacker would gain, in a few words
file = "lib/trust/image.py"
old = "if descriptor.counter < floor:"      # this very text, once in the file
new = "if False:"
tests = ["host_tests/pure/test_image.py"]   # as for pytest; the fewest and quickest that fail
hangs_s = 60                                # only if they hang instead: for that long
"""

import ast
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
LISTS = REPO / "host_tests/mutants"
_REQUIRED = {"why": str, "file": str, "old": str, "new": str, "tests": list}


class ListError(Exception):
    """A list that is wrong: names the list, the entry, what was expected and found."""


@dataclass(frozen=True)
class Mutant:
    area: str  # the list's name
    why: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    hangs_s: int = 0

    def apply(self, text: str) -> str:
        return text.replace(self.old, self.new)

    def quick(self) -> bool:
        """Killed by pure tests, under CPython."""
        return not self.hangs_s and all(name.startswith("host_tests/pure/") for name in self.tests)

    def show(self) -> str:
        """Where it is, why, its tests, and the lines that differ."""
        before = (REPO / self.file).read_text()
        line = before[: before.index(self.old)].count("\n") + 1
        changed = [f"    - {text.strip()}" for text in self.old.splitlines() if text.strip()]
        changed += [f"    + {text.strip()}" for text in self.new.splitlines() if text.strip()]
        return "\n".join(
            [f"{self.file}:{line}: {self.why}", f"    {' '.join(self.tests)}", *changed]
        )


def read(folder: Path = LISTS) -> list[Mutant]:
    """All mutants of a folder; ListError unless each fits the project as it is."""
    mutants, wrong = [], []
    for path in sorted(folder.glob("*.toml")):
        try:
            entries = tomllib.loads(path.read_text())["mutant"]
        except (ValueError, KeyError) as error:
            raise ListError(f"{path.name}: expected [[mutant]] entries: {error}") from None
        for number, entry in enumerate(entries, 1):
            try:
                mutants.append(_make(path.stem, entry))
            except ListError as error:
                name = entry.get("why", "it has no `why`")
                wrong.append(f"{path.name}, entry {number} ({name}): {error}")
    if wrong:
        raise ListError("\n".join(wrong))
    return mutants


def _make(area: str, entry: dict[str, Any]) -> Mutant:
    wrong = [key for key, kind in _REQUIRED.items() if not isinstance(entry.get(key), kind)]
    wrong += sorted(entry.keys() - _REQUIRED.keys() - {"hangs_s"})
    if wrong:
        raise ListError(f"missing, not known, or of another type: {', '.join(wrong)}")
    mutant = Mutant(area, **entry | {"tests": tuple(entry["tests"])})
    _check(mutant)
    return mutant


def _check(mutant: Mutant) -> None:
    path = REPO / mutant.file
    if not path.is_file():
        raise ListError(f"there is no file {mutant.file}")
    text = path.read_text()
    count = text.count(mutant.old) if mutant.old else 0
    if count != 1:
        raise ListError(f"`old` has to be in {mutant.file} once, it is there {count} times")
    if mutant.new == mutant.old:
        raise ListError("`new` is the same as `old`")
    if path.suffix == ".py":
        try:
            ast.parse(mutant.apply(text))
        except SyntaxError as error:
            raise ListError(f"{mutant.file} is not Python any more: {error}") from None
    if not mutant.tests:
        raise ListError("it names no tests")
    for name in mutant.tests:
        file, _, function = name.partition("::")
        if not (REPO / file).exists():
            raise ListError(f"there is no {file}")
        if function and function.partition("[")[0] not in _functions(REPO / file):
            raise ListError(f"{file} has no {function.partition('[')[0]}")


def _functions(path: Path) -> set[str]:
    return {n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)}
