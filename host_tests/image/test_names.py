"""Short names in images: what is renamed, what is not, and that MicroPython sees no difference."""

import contextlib
import random
import re
import subprocess
from pathlib import Path

import pytest

from host_tests.tool_helpers import RELEASE, REPO
from signet.errors import RefusedError
from signet.formats import mpy_file, romfs
from signet.image import mpy, names, slot_image, stage1

pytest_plugins = ["host_tests.tool_fixtures"]

# An application with everything in it that has a name.
APP = """
import json
from helper import Base, compute_total as total_of

limit_of_all = 3

class Counter(Base):
    step_width = 2

    def __init__(self, first_value, *, keyword_only=1):
        super().__init__(first_value)
        self.seen_values = []
        self._private = keyword_only

    def advance(self, how_far, *more_steps, **named_steps):
        self.current += how_far * self.step_width + sum(more_steps)
        self.seen_values.append(self.current)
        for name in sorted(named_steps):
            self.record(name, named_steps[name])
        return self

    @property
    def last_seen(self):
        return self.seen_values[-1]

    def record(self, name, value):
        self._private += value

    def on_start(self):
        return "started"

def make_adder(amount):
    calls_made = 0
    def adder(number):
        nonlocal calls_made
        calls_made += 1
        return number + amount, calls_made
    return adder

def generate(stop_at):
    for item in range(stop_at):
        got = yield item * item
        if got:
            yield got

async def waits():
    return 7

class Manager:
    def __enter__(self):
        return self
    def __exit__(self, kind, error, trace):
        self.left_with = kind
        return True

counter = Counter(5, keyword_only=4).advance(2).advance(1, 10, left_turn=3)
print(counter.current, counter.seen_values, counter._private, counter.last_seen)
print(getattr(counter, "on_" + "start")(), hasattr(counter, "never_there"))
add_three = make_adder(3)
print(add_three(1), add_three(2))
squares = generate(3)
print(next(squares), squares.send(9), list(squares), [n * limit_of_all for n in range(3)])
print(json.dumps({"limit_of_json": 1}), json.loads('{"a": [2]}'))
manager = Manager()
with manager:
    raise KeyError("inside")
print(manager.left_with is KeyError, total_of([1, 2]), {n: n for n in (1,)}, type(counter).__name__)
coroutine = waits()
try:
    coroutine.send(None)
except StopIteration as end:
    print(end.value)
del limit_of_all
try:
    limit_of_all
except NameError as error:
    print("NameError")
global_value = 1
def change_global():
    global global_value
    global_value += 1
change_global()
print(global_value, (lambda left_side, right_side=2: left_side + right_side)(1))
"""
HELPER = """
class Base:
    def __init__(self, first_value):
        self.current = first_value

def compute_total(values):
    return sum(values)
"""


def compile_texts(folder: Path, texts: dict[str, str]) -> dict[str, bytes]:
    sources = {}
    for number, (name, text) in enumerate(texts.items()):
        sources[name] = folder / f"{number}.py"
        sources[name].write_text(text)
    return mpy.compile_sources(sources)


def shorten_text(folder: Path, text: str, keep: tuple[str, ...] = ()) -> set[str]:
    """The names of a module that are shortened."""
    return set(names.shorten(compile_texts(folder, {"firmware/app.py": text}), keep)[1].values())


def run_files(micropython: Path, folder: Path, files: dict[str, bytes], module: str) -> str:
    for name, content in files.items():
        path = folder / name.removeprefix("lib/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    code = f"import sys; sys.path[:] = ['{folder}', '.frozen']; import {module}"
    done = subprocess.run(
        [micropython, "-c", code], capture_output=True, text=True, check=False, cwd=folder
    )
    assert (done.stderr, done.returncode) == ("", 0), done.stdout
    return done.stdout


def test_a_program_does_the_same_with_short_names(micropython, tmp_path):
    files = compile_texts(tmp_path, {"program.py": APP, "lib/helper.py": HELPER})
    short, new = names.shorten(files, ())
    as_before = run_files(micropython, tmp_path / "before", files, "program")
    assert re.fullmatch(r"21 \[9, 21\] 7 21\n(.+\n)+2 3\n", as_before)
    assert run_files(micropython, tmp_path / "after", short, "program") == as_before
    assert set(new.values()) >= {
        *("limit_of_all", "step_width", "seen_values", "current", "how_far", "record"),
        *("compute_total", "total_of", "make_adder", "global_value", "left_with"),
    }
    assert new.keys() <= names.rom_names()
    assert not new.keys() & names.known_names(files)


@pytest.mark.parametrize(
    "text",
    {
        "a function": "def the_name(): pass",
        "a global": "the_name = 1",
        "a global set in a function": "def f():\n    global the_name\n    the_name = 1",
        "a method": "class A:\n    def the_name(self): pass",
        "an attribute": "class A:\n    def f(self): self.the_name = 1",
        "an attribute set in a closure": "def f(o):\n    def g(): o.the_name = 1\n    return g",
        "one after super()": (
            "class A:\n    def f(self):\n        super().f()\n        self.the_name = 1"
        ),
        "an argument": "def f(the_name): return the_name",
        "a keyword-only argument": "def f(*, the_name): return the_name",
        "a private name": "def _f(): pass\nthe_name = _f",
        "used as a foreign object's too": "def the_name(o): o.the_name = 1",
        "**keywords passed on": "def f(the_name, **k): f(1, **k)\ndef g(a, *r, **k): f(a, *r, **k)",
        "*arguments with a keyword": "def f(the_name): f(*the_name, key=1)",
    }.values(),
)
def test_what_the_image_defines_is_renamed(tmp_path, text):
    assert "the_name" in shorten_text(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    {
        "a literal": "print('the_name')",
        "part of a literal": "print('a.the_name/b')",
        "a word of a long text": "print('now comes the_name of a long sentence')",
        "a constant tuple": "print((1, ('x', 'the_name that is long enough')))",
        "bytes": "print(b'the_name and more')",
        "a keyword argument": "print(the_name=1)",
        "a keyword of *arguments": "print(*[], the_name=1)",
        "a keyword-only argument with a default": "def f(*, the_name=1): return the_name",
        "a class": "class the_name: pass",
        "a module that is imported": "import the_name",
        "a submodule": "import a.the_name.b",
        "from another image's module": "from machine import the_name",
        "from a relative module": "from . import the_name",
        "from another's relative module": "from .b import the_name",
        "the beginning is in a literal": "getattr(o, 'the_' + x)()",
        "the beginning is in a format": "getattr(o, 'the_%s' % x)()",
        "the end is in a literal": "getattr(o, x + '_name')()",
        "the end is in a format": "getattr(o, '%s_name' % x)()",
        "the end is in a new format": "getattr(o, '{}_name'.format(x))()",
        "an argument beside a dictionary of keywords": "def f(the_name): f(**g)",
        "an argument beside a method's": "def f(the_name): g.h(1, *g, **g.h)",
        "beside keywords that are not passed on": "def f(the_name, **k): f(1, **g)",
        "an attribute beside __getattr__": (
            "class A:\n    def __getattr__(self, n): pass\nprint(o.the_name)\ndef f(the_name): pass"
        ),
        "a method beside __getattr__": "def __getattr__(n): pass\ndef f(the_name): o.the_name()",
        "the dictionary of an object": "class A:\n    def f(self): return self.__dict__",
        "globals": "globals()",
        "locals": "def f(): locals()",
        "dir": "print(dir(o))",
        "eval": "eval(x)",
        "exec in a function": "def f(): exec(x)",
        "execfile": "execfile(x)",
    }.values(),
)
def test_what_may_be_looked_up_by_its_text_stays(tmp_path, text):
    defines = "the_name = 1\nanother_one = 2\n"
    assert "the_name" in shorten_text(tmp_path, defines)
    assert "the_name" not in shorten_text(tmp_path, defines + text)


@pytest.mark.parametrize(
    "text",
    {
        "a foreign function": "import machine\nmachine.the_name()",
        "a foreign constant": "import machine\nprint(machine.A.the_name)",
        "a global of nobody": "print(the_name)",
        "a foreign object's attribute": "def f(a, b): b.the_name = 1",
        "a foreign object's attribute in a module": "import machine\nmachine.the_name = 1",
    }.values(),
)
def test_what_the_image_does_not_define_stays(tmp_path, text):
    assert "the_name" not in shorten_text(tmp_path, text)


def test_names_of_python_and_of_the_rom_stay(tmp_path):
    text = "__mine__ = 1\n__private = 2\ndef sleep_ms(readinto): pass\n"
    assert shorten_text(tmp_path, text) == {"__private"}


def test_names_in_paths_stay(tmp_path):
    texts = {
        "firmware/the_name.py": "",
        "other_one/__init__.py": "the_name = other_one = third = 1",
    }
    assert list(names.shorten(compile_texts(tmp_path, texts), ())[1].values()) == ["third"]


def test_names_of_stage_1_stay_and_none_is_taken(tmp_path):
    text = "the_name = 1\nanother_one = 2\n"
    first = min(names.stand_ins(), key=lambda name: (len(name), name))
    files = compile_texts(tmp_path, {"app.py": text})
    assert names.shorten(files, ())[1][first] == "another_one"
    kept = names.shorten(files, {"the_name", first})[1]
    assert list(kept.values()) == ["another_one"]
    assert first not in kept


def test_a_short_name_that_the_image_uses_itself_is_not_taken(tmp_path):
    used = sorted(names.stand_ins(), key=lambda name: (len(name), name))[:4]
    text = f"the_name = 1\nprint(o.{used[0]}, '{used[1]}', 'so {used[2]} is')\n"
    files = compile_texts(tmp_path, {"app.py": text})
    assert names.shorten(files | {"app.json": used[3].encode()}, ())[1].keys().isdisjoint(used)


def test_files_of_data_are_texts(tmp_path):
    files = compile_texts(tmp_path, {"app.py": "the_name = 1\nanother_one = 2\n"})
    short, new = names.shorten(files | {"data/the.json": b'{"the_name": 1}'}, ())
    assert list(new.values()) == ["another_one"]
    assert short["data/the.json"] == b'{"the_name": 1}'


@pytest.mark.parametrize(("place", "module"), [("", "b"), ("p/", ".b"), ("p/", "p.b")])
def test_a_name_is_the_same_in_all_files(tmp_path, place, module):
    importing = f"from {module} import the_name\nthe_name()"
    texts = {f"{place}a.py": importing, f"{place}b.py": "def the_name(): pass"}
    short, new = names.shorten(compile_texts(tmp_path, texts), ())
    (name,) = new
    assert all(
        name in mpy_file.parse(content).names and b"the_name" not in content
        for content in short.values()
    )


def test_short_names_depend_on_nothing_but_the_code(tmp_path):
    files = compile_texts(tmp_path, {"a.py": APP, "lib/helper.py": HELPER, "c.py": "the_name = 1"})
    turned = dict(reversed(files.items()))
    assert names.shorten(files, ["x", "y"]) == names.shorten(turned, ["y", "x"])


def test_when_all_short_names_are_taken_the_others_stay(micropython, tmp_path):
    text = "".join(f"name_{number:03} = {number}\n" for number in range(600)) + "print(name_599)\n"
    short, new = names.shorten(compile_texts(tmp_path, {"many.py": text}), ())
    assert len(new) == len(names.stand_ins()) - len(names._for_stage_1())
    assert run_files(micropython, tmp_path / "files", short, "many") == "599\n"


def test_names_in_most_files_come_first(tmp_path):
    text = "".join(f"name_{number:03} = {number}\n" for number in range(600))
    files = compile_texts(
        tmp_path, {"a.py": text, "b.py": "z_rare = z_common = 1", "c.py": "z_common"}
    )
    new = list(names.shorten(files, ())[1].values())
    assert new[:2] == ["z_common", "name_000"]
    assert "z_rare" not in new


def test_what_a_slot_uses_of_stage_1_keeps_its_name(compiled):
    _, short = stage1.known_names(REPO)
    assert stage1.FOR_SLOTS.isdisjoint(short.values())
    files = {"main.py": REPO / "main.py"}
    files |= mpy.python_files(REPO, ("lib/romfs", "lib/trust"))
    of_stage1, of_slot = (
        {name for file in parts.values() for name in mpy_file.parse(file).names}
        for parts in (mpy.compile_sources(files), compiled)
    )
    # These mean other things there; they are private.
    own = {name for name in of_slot if name.startswith("_")}
    shared = {name for name in (of_stage1 & of_slot) - own if name in short.values()}
    meant_otherwise = "at b big error files first fresh kind size wanted"
    assert shared <= set(meant_otherwise.split())


def test_stage_1_has_short_names_that_no_slot_takes(project):
    known, short = stage1.known_names(project)
    assert {"_verify_pss", "_store_twice", "_mount_slot", "begin_try"} <= set(short.values())
    assert "kbd_intr" in known  # in boot.py, which is a text on the board
    contents = stage1.compile_stage1(project)
    contents |= romfs.read_files(contents.pop(stage1.ARCHIVE))
    assert {"main.mpy", "lib/romfs/__init__.mpy", "/trust/boot.mpy"} <= contents.keys()
    library = [mpy_file.parse(file) for name, file in contents.items() if name.endswith(".mpy")]
    assert {name for file in library for name in file.names}.isdisjoint(short.values())
    assert short.keys() <= known
    text = "".join(f"name_{number:03} = 1\n" for number in range(600))
    of_slot = names.shorten(compile_texts(project, {"a.py": text}), ())[1]
    assert short.keys().isdisjoint(of_slot)
    assert slot_image.build(RELEASE, project).names.items() > short.items()


def test_the_list_of_names_is_sorted_and_without_doubles():
    lines = names._rom_lines()
    plain = [line.removesuffix(" *") for line in lines]
    assert plain == sorted(set(plain))
    assert all(re.fullmatch(r"[!-~]+", name) for name in plain)
    assert not set(plain) & set(mpy_file.STATIC)
    assert len(names.stand_ins()) >= 450


LOOKED_UP = """
import asyncio, errno, io, sys
modules = [asyncio, io, __import__("builtins")]
for name in ("core", "event", "funcs", "lock", "stream"):
    __import__("asyncio." + name)
    modules.append(sys.modules["asyncio." + name])
found = set(dir(errno)) | set(dir(__import__("builtins")))
async def wait(): pass
def generate(): yield
for place in modules:
    for name in dir(place):
        value = getattr(place, name, None)
        if isinstance(value, type):
            found.update(dir(value))
for value in (wait, generate(), wait(), sys.stdin, sys, memoryview(b""), b"".join, range(1)):
    found.update(dir(value))
print(*found)
"""


def test_no_short_name_is_one_that_a_type_or_asyncio_looks_up(micropython):
    done = subprocess.run(
        [micropython, "-c", LOOKED_UP], capture_output=True, text=True, check=True
    )
    found = done.stdout.split()
    assert len(found) > 250
    assert not set(found) & set(names.stand_ins())


def test_names_with_a_number_are_those_of_micropython(micropython, tmp_path):
    count = len(mpy_file.STATIC)
    text = "".join(f"print(repr('text_{number}'))\n" for number in range(1, count))
    file = mpy_file.parse(compile_texts(tmp_path, {"a.py": text})["a.mpy"])
    new = {f"text_{number}": mpy_file.STATIC[number] for number in range(1, count)}
    content = file.rename(new)
    assert b"ZeroDivisionError" not in content  # but its number
    printed = run_files(micropython, tmp_path / "files", {"a.mpy": content}, "a").splitlines()
    assert printed == [repr(mpy_file.STATIC[number]) for number in range(1, count)]


@pytest.fixture(scope="module")
def compiled():
    return mpy.compile_sources(slot_image.slot_sources(REPO))


def test_a_file_that_is_not_renamed_keeps_its_bytes(compiled):
    for content in compiled.values():
        assert mpy_file.parse(content).rename({}) == content


def test_a_damaged_file_is_refused_and_nothing_else(compiled):
    content = compiled["lib/mqtt/v5.mpy"]
    for length in range(len(content)):
        with pytest.raises(RefusedError):
            mpy_file.parse(content[:length])
    draw = random.Random(9)
    for _ in range(3000):
        damaged = bytearray(content)
        damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        with contextlib.suppress(RefusedError):
            names.shorten({"lib/mqtt/v5.mpy": bytes(damaged)}, ())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "begins with , expected 4d06"),
        (b"M\x05\0\x1f", "begins with 4d05, expected 4d06"),
        (b"M\x06\x2b\x1f", "native code"),
        (b"M\x06\0\x1f\1\0\2a\0\2", "native code"),
        (b"M\x06\0\x1f\1\1\2a\0\x0b", "damaged|a constant of type 11"),
        (b"M\x06\0\x1f" + b"\1\1\2a\0" + b"\x0a\1" * 5000, "damaged"),
    ],
)
def test_what_is_no_bytecode_is_refused(content, reason):
    with pytest.raises(RefusedError, match=reason):
        mpy_file.parse(content)


def test_the_project_is_shortened_and_its_library_imports(compiled, micropython, tmp_path):
    known, _ = stage1.known_names(REPO)
    short, new = names.shorten(compiled, known)
    assert len(new) > 200
    assert known.isdisjoint({*new, *new.values()})
    assert {"verify", "select", "memory", "BootState", "note_failure"} <= known
    before, after = names.cost(compiled, known), names.cost(short, known)
    assert before[0] - after[0] == len(new)
    assert before[1] - after[1] > 3000
    modules = sorted(mpy.module_name(name) for name in compiled if name.startswith("lib/"))
    code = "import " + ", ".join(modules) + "\nprint(mqtt.v5.V5, mqtt.codec.V311)\n"
    library = {name: content for name, content in short.items() if name.startswith("lib/")}
    library |= compile_texts(tmp_path, {"all.py": code})
    assert run_files(micropython, tmp_path / "files", library, "all").count("class") == 2


def test_what_names_cost(tmp_path):
    text = "first_name = 1\nsecond_one = 2\nsleep_ms = 3\n"
    files = compile_texts(tmp_path, {"one.py": text})
    assert names.own_names(files) == {"first_name", "second_one", "one"}
    assert names.cost(files) == (3, 10 + 10 + 3 + 3 * 8)
    assert names.cost(files, {"first_name", "one"}) == (1, 18)
