"""Names: those that only a slot uses become short ones that every ESP32's ROM has (docs/design.md).

A name (MicroPython says qstr) that the ROM does not have takes 15 to 25 bytes of heap, for good.
`shorten` is safe without knowing types: a name is renamed everywhere or nowhere, and only if the
image itself defines it and no text in the image has it as a word.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

from signet.errors import refusals_about
from signet.formats import mpy_file
from signet.formats.mpy_file import Function, MpyFile
from signet.image import mpy

_ROM_NAMES = Path(__file__).with_name("rom_names.txt")
_MAY_STAND = " *"
_WORD = re.compile(r"\w+", re.ASCII)
_FORMAT = re.compile(r"%[-+ #0-9.*]*[a-zA-Z]")
_SHORT_NAME = re.compile(r"[^\W\d]\w*", re.ASCII)
_STAGE_1_SHARE = 6  # each sixth short name is stage 1's
_POOL_ENTRY = 7  # pointer, hash and length in MicroPython's table of names
_TERMINATOR = 1

# Code that is a text can name anything; a dictionary of names makes data of them.
_RUN_TEXT = {"eval", "exec", "execfile"}
_GIVE_NAMES = {"dir", "globals", "locals", "__dict__"}

_FREE = "*"  # in a closure, variables from outside come before the arguments, by this name
_DEFINES = (mpy_file.STORE_NAME, mpy_file.STORE_GLOBAL)
_READS_ATTRIBUTE = (mpy_file.LOAD_ATTR, mpy_file.LOAD_METHOD)
_READS_GLOBAL = (mpy_file.LOAD_NAME, mpy_file.LOAD_GLOBAL)
# Its `__getattr__` makes a module's path of the text, and words of paths stay by themselves.
_LOADS_MODULES = "firmware/device.mpy"
_CALLS_WITH_STARS = (0x35, 0x37)  # f(*a, **k), o.m(*a, **k); of the counts, keywords << 8


def shorten(
    files: dict[str, bytes], keep: Collection[str]
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Rename in all .mpy files of an image together: ({path: content}, {short: original}).

    files: all of the image; those that are no .mpy count as texts. keep: names that are not renamed
    and whose place none takes: those of stage 1. Raises RefusedError for what is no bytecode.
    """
    return _shorten(files, keep, [name for name in stand_ins() if name not in _for_stage_1()])


def shorten_stage1(
    files: dict[str, bytes], keep: Collection[str]
) -> tuple[dict[str, bytes], dict[str, str]]:
    """The same for stage 1, with short names that no slot of any version takes.

    keep: what slots use.
    """
    return _shorten(files, keep, _for_stage_1())


def _shorten(
    files: dict[str, bytes], keep: Collection[str], short: list[str]
) -> tuple[dict[str, bytes], dict[str, str]]:
    parsed = _parse_all(files)
    kept = _kept(parsed, [files[path] for path in files.keys() - parsed.keys()])
    if kept is None:
        return files, {}
    used = {name for file in parsed.values() for name in file.names} | kept | set(keep)
    counts = Counter(name for file in parsed.values() for name in set(file.names))
    ours = _defined(parsed.values()) - kept - {*keep, *rom_names()}
    wanted = [name for name in ours if _is_plain(name)]
    wanted.sort(key=lambda name: (-counts[name], name))
    free = (name for name in short if name not in used)
    new = dict(zip(wanted, free, strict=False))
    renamed = {path: file.rename(new) for path, file in parsed.items()}
    return files | renamed, {short: name for name, short in new.items()}


def known_names(files: dict[str, bytes]) -> set[str]:
    """All names in these .mpy files, and the words of their texts."""
    parsed = _parse_all(files).values()
    texts = [text.decode("latin-1") for file in parsed for text in file.texts]
    found = {name for file in parsed for name in file.names}
    return found | _named_in([*texts, *found], set())


def own_names(files: dict[str, bytes]) -> set[str]:
    """The names that these .mpy files bring, beside those of every stock ESP32's ROM."""
    return {name for file in _parse_all(files).values() for name in file.names} - rom_names()


def cost(files: dict[str, bytes], base: Collection[str] = ()) -> tuple[int, int]:
    """(names, bytes of heap) that these .mpy files add to the names in `base` and in the ROM."""
    added = own_names(files) - set(base)
    return len(added), sum(len(name.encode()) + _TERMINATOR + _POOL_ENTRY for name in added)


@cache
def rom_names() -> frozenset[str]:
    """The names that the ROM of every stock ESP32 build has."""
    return frozenset(mpy_file.STATIC) | {line.removesuffix(_MAY_STAND) for line in _rom_lines()}


def translate(text: str, names: dict[str, str]) -> str:
    """Put before each short name in a report what it stands for: `_publish(EPERM)`."""
    return _SHORT_NAME.sub(
        lambda word: f"{names[word[0]]}({word[0]})" if word[0] in names else word[0], text
    )


@cache
def stand_ins() -> list[str]:
    """Names of the ROM that may stand for ours, shortest first."""
    marked = (line.removesuffix(_MAY_STAND) for line in _rom_lines() if line.endswith(_MAY_STAND))
    return sorted(marked, key=lambda name: (len(name), name))


def _for_stage_1() -> list[str]:
    return stand_ins()[_STAGE_1_SHARE - 1 :: _STAGE_1_SHARE]


@cache
def _rom_lines() -> list[str]:
    lines = _ROM_NAMES.read_text("ascii").splitlines()
    return [line for line in lines if not line.startswith("# ")]


def _parse_all(files: dict[str, bytes]) -> dict[str, MpyFile]:
    parsed = {}
    for path in sorted(files):
        if path.endswith(".mpy"):
            with refusals_about(Path(path)):
                parsed[path] = mpy_file.parse(files[path])
    return parsed


def _is_plain(name: str) -> bool:
    return name.isidentifier() and not (name.startswith("__") and name.endswith("__"))


def _kept(parsed: dict[str, MpyFile], data: list[bytes]) -> set[str] | None:
    """Names that something may look up by their text; None if that may be any."""
    modules = {mpy.module_name(path) for path in parsed}
    kept = set(_words(parsed))
    texts = [content.decode("latin-1") for content in data]
    arguments: set[str] = set()
    attributes: set[str] = set()
    any_argument = any_attribute = False
    for path, file in parsed.items():
        package = mpy.module_name(path).rpartition(".")[0]
        names = file.names
        texts += [text.decode("latin-1") for text in file.texts]
        reads = {
            (code in _READS_ATTRIBUTE, names[operand])
            for function in file.functions
            for code, operand in function.code
            if code in _READS_ATTRIBUTE + _READS_GLOBAL
        }
        if any((False, name) in reads for name in _RUN_TEXT):
            return None
        if any((name == "__dict__", name) in reads for name in _GIVE_NAMES):
            kept |= set(names)
        attributes |= {name for is_attribute, name in reads if is_attribute}
        for function in file.functions:
            texts += _strings(function, names, modules, package)
            arguments |= {names[index] for index in function.arguments}
            any_argument = any_argument or _calls_with_a_dictionary(function)
            any_attribute |= names[function.name] == "__getattr__" and path != _LOADS_MODULES
    if any_argument:
        kept |= arguments
    if any_attribute:
        kept |= attributes
    return kept | _named_in(texts, {name for file in parsed.values() for name in file.names})


def _words(parsed: dict[str, MpyFile]) -> Iterator[str]:
    """Parts of paths and of the modules that are imported."""
    for path, file in parsed.items():
        yield from _WORD.findall(path)
        for function in file.functions:
            for code, operand in function.code:
                if code == mpy_file.IMPORT_NAME:
                    yield from _WORD.findall(file.names[operand])


def _named_in(texts: list[str], names: set[str]) -> set[str]:
    """Words of texts, and names that begin or end with one that is open there: "on_%s"."""
    texts = [*texts, *(_FORMAT.sub(" ", text) for text in texts)]  # "%s_on" has the word _on
    words = {word for text in texts for word in _WORD.findall(text)}
    begins = tuple(word for word in words if word.endswith("_"))
    ends = tuple(word for word in words if word.startswith("_"))
    return words | {name for name in names if name.startswith(begins) or name.endswith(ends)}


def _strings(function: Function, names: list[str], modules: set[str], package: str) -> list[str]:
    """String literals, but for the names in `from module import name` of a module in the image.

    package: that of this file, in which `from .module` is looked for.
    """
    code = function.code
    literals = {at for at, (number, _) in enumerate(code) if number == mpy_file.LOAD_STRING}
    for at, (number, operand) in enumerate(code):
        if number == mpy_file.IMPORT_NAME:
            build, count = code[at - 1]
            imported = range(at - 1 - count, at - 1)
            is_relative = code[imported.start - 1 : imported.start] == [mpy_file.LOAD_ONE]  # level
            module = f"{package}.{names[operand]}" if is_relative else names[operand]
            if (
                module in modules
                and build == mpy_file.BUILD_TUPLE
                and literals.issuperset(imported)
            ):
                literals.difference_update(imported)
    return [names[code[at][1]] for at in sorted(literals)]


def _calls_with_a_dictionary(function: Function) -> bool:
    """Whether it calls with **keywords other than its own parameter of that kind, passed on."""
    passed_on = [(mpy_file.LOAD_NULL, 0), (mpy_file.LOAD_FAST_N, function.keywords)]
    code = function.code
    return any(
        # Behind the dictionary only a number follows, that says which argument has a star.
        number in _CALLS_WITH_STARS and counts >> 8 and code[at - 3 : at - 1] != passed_on
        for at, (number, counts) in enumerate(code)
        if (mpy_file.LOAD_NULL, 0) in code[:at]  # as before each **
    )


def _defined(files: Iterable[MpyFile]) -> set[str]:
    """Names that the image gives to something; others are those of objects that are not its own."""
    names: set[str] = set()
    for file in files:
        found: set[int] = set()
        for function in file.functions:
            found |= {function.name, *function.arguments}
            found |= {operand for code, operand in function.code if code in _DEFINES}
            found |= set(_own_attributes(function, file.names))
        names |= {file.names[index] for index in found}
    return names


def _own_attributes(function: Function, names: list[str]) -> Iterator[int]:
    """Attributes that are set on the first argument, `self`, or on a variable of a closure."""
    numbers = (number for number, index in enumerate(function.arguments) if names[index] != _FREE)
    own = [(mpy_file.LOAD_FAST_N, next(numbers, None))]
    for before, (code, operand) in pairwise(function.code):
        if code == mpy_file.STORE_ATTR and (before in own or before[0] == mpy_file.LOAD_DEREF):
            yield operand
