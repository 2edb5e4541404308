"""Where tests lie: no file of them is long, and a helper at the top is for several folders."""

import re
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
FOR_ALL = {"conftest", "mp_runner", "vectors"}


def test_no_file_tests_two_things() -> None:
    lengths = {path.name: path.read_text().count("\n") for path in HERE.rglob("test_*.py")}
    assert [name for name, lines in lengths.items() if lines > 450] == []


def test_a_helper_lies_beside_the_tests_that_use_it() -> None:
    users = defaultdict(set)
    for path in HERE.rglob("*.py"):
        for name in re.findall(r"\bhost_tests\.(\w+)", path.read_text()):
            users[name].add(path.parent)
    top = {path.stem for path in HERE.glob("*.py") if not path.stem.startswith("test_")} - FOR_ALL
    assert [name for name in sorted(top) if len(users[name]) < 2] == []
