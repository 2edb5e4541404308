"""Compiled MicroPython files, .mpy version 6.3: their names, constants and instructions.

    "M" 6 flags small-int-bits, n_qstr, n_obj, qstr table, constants, code of the module
    code: kind and length, prelude, instructions; then the code of the functions in it

Numbers are big-endian groups of seven bits. Instructions name a qstr by its index in the table, so
that a name is altered in one place. Only bytecode is read: native code is refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from signet.errors import RefusedError

_STATIC_WORDS = """
_ __call__ __class__ __delitem__ __enter__ __exit__ __getattr__ __getitem__ __hash__ __init__
__int__ __iter__ __len__ __main__ __module__ __name__ __new__ __next__ __qualname__ __repr__
__setitem__ __str__ ArithmeticError AssertionError AttributeError BaseException EOFError Ellipsis
Exception GeneratorExit ImportError IndentationError IndexError KeyError KeyboardInterrupt
LookupError MemoryError NameError NoneType NotImplementedError OSError OverflowError RuntimeError
StopIteration SyntaxError SystemExit TypeError ValueError ZeroDivisionError abs all any append args
bool builtins bytearray bytecode bytes callable chr classmethod clear close const copy count dict
dir divmod end endswith eval exec extend find format from_bytes get getattr globals hasattr hash id
index insert int isalpha isdigit isinstance islower isspace issubclass isupper items iter join key
keys len list little locals lower lstrip main map micropython next object open ord pop popitem pow
print range read readinto readline remove replace repr reverse rfind rindex round rsplit rstrip
self send sep set setattr setdefault sort sorted split start startswith staticmethod step stop str
strip sum super throw to_bytes tuple type update upper utf-8 value values write zip
"""
# Names that every MicroPython of this .mpy version has at the same index; 0 is none.
STATIC = ("", "", "__dir__", "\n", " ", "*", "/", "<module>", *_STATIC_WORDS.split())
_STATIC_INDEX = {name: index for index, name in enumerate(STATIC) if index}

# Instructions; those with another number have no name in them. py/bc0.h of MicroPython lists all.
LOAD_STRING = 0x10
LOAD_NAME = 0x11
LOAD_GLOBAL = 0x12
LOAD_ATTR = 0x13
LOAD_METHOD = 0x14
LOAD_SUPER_METHOD = 0x15
STORE_NAME = 0x16
STORE_GLOBAL = 0x17
STORE_ATTR = 0x18
IMPORT_NAME = 0x1B
IMPORT_FROM = 0x1C
LOAD_DEREF = 0x25
BUILD_TUPLE = 0x2A
LOAD_ONE = (0x81, 0)  # the small integer 1
LOAD_NULL = 0x53
LOAD_FAST_N = 0x24
LOAD_FAST = 0xB0  # to 0xBF, with the number of the variable in it

_NAMED = range(LOAD_STRING, 0x20)
_MAGIC = b"M\x06"
_MOST_GROUPS = 10  # bytes of a number: MicroPython's have five
_LOAD_SMALL_INT = 0x22
_FIRST_ONE_BYTE = 0x50
_FAST_COUNT = 16
_JUMPS = range(0x40, 0x50)
_BYTE_FOLLOWS = (0x20, 0x21, 0x40)  # make closure; unwind jump
_OBJECT_NONE, _OBJECT_ELLIPSIS = 1, 4
_OBJECT_STR, _OBJECT_BYTES, _OBJECT_INT, _OBJECT_COMPLEX, _OBJECT_TUPLE = 5, 6, 7, 9, 10
_HAS_CHILDREN = 4
_HAS_KEYWORDS, _HAS_REST = 2, 4  # flags of a function: **keywords, and *args before it


@dataclass(frozen=True)
class Function:
    """One function, class body or module.

    name, arguments: indices in the table of names; of the arguments all but *args and **keywords.
    code: (instruction, operand) in their order; the operand of a local variable's is its number.
    """

    name: int
    arguments: list[int]
    keywords: int | None  # number of the local variable that is the parameter **keywords
    code: list[tuple[int, int]]


@dataclass
class MpyFile:
    """What a .mpy file has; `rename` gives it with other names."""

    names: list[str]
    texts: list[bytes] = field(default_factory=list)  # constants of type str and bytes
    functions: list[Function] = field(default_factory=list)
    _head: bytes = b""
    _object_count: int = 0
    _rest: bytes = b""

    @property
    def code_len(self) -> int:
        """Bytes behind the table of names."""
        return len(self._rest)

    def rename(self, new: dict[str, str]) -> bytes:
        """The file with some names replaced."""
        table = b"".join(_encode_name(new.get(name, name)) for name in self.names)
        counts = _encode_number(len(self.names)) + _encode_number(self._object_count)
        return self._head + counts + table + self._rest


def parse(content: bytes) -> MpyFile:
    """Read a file; RefusedError for one that is damaged, or of another version, or native."""
    if content[:2] != _MAGIC:
        raise RefusedError(f"begins with {content[:2].hex()}, expected {_MAGIC.hex()}: .mpy 6")
    reader = _Reader(content, 4)
    try:
        if content[2] >> 2:
            raise RefusedError("holds native code, expected bytecode only")
        count, object_count = reader.number(), reader.number()
        file = MpyFile([reader.name() for _ in range(count)])
        file._head, file._object_count, file._rest = content[:4], object_count, content[reader.at :]
        for _ in range(object_count):
            reader.constant(file.texts)
        reader.code(file.names, file.functions)
    except (IndexError, RecursionError, UnicodeDecodeError) as error:
        raise RefusedError(f"is damaged, or no .mpy file of version 6.3: {error}") from error
    if reader.at != len(content):
        raise RefusedError(f"{len(content)} bytes, expected {reader.at}")
    return file


class _Reader:
    def __init__(self, data: bytes, at: int = 0):
        self.data, self.at = data, at

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def take(self, length: int) -> bytes:
        if self.at + length > len(self.data):
            raise IndexError(f"{length} bytes at {self.at} of {len(self.data)}")
        self.at += length
        return self.data[self.at - length : self.at]

    def number(self) -> int:
        value = 0
        for _ in range(_MOST_GROUPS):
            byte = self.byte()
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                return value
        raise IndexError(f"a number of more than {_MOST_GROUPS} bytes")

    def name(self) -> str:
        length = self.number()
        if length & 1:
            return STATIC[length >> 1]
        return self.take((length >> 1) + 1)[:-1].decode()

    def constant(self, texts: list[bytes]) -> None:
        kind = self.byte()
        if _OBJECT_NONE <= kind <= _OBJECT_ELLIPSIS:
            return
        length = self.number()
        if kind == _OBJECT_TUPLE:
            for _ in range(length):
                self.constant(texts)
        elif kind in (_OBJECT_STR, _OBJECT_BYTES):
            texts.append(self.take(length + 1)[:-1])
        elif _OBJECT_INT <= kind <= _OBJECT_COMPLEX:
            self.take(length)
        else:
            raise RefusedError(f"a constant of type {kind}, expected 1 to {_OBJECT_TUPLE}")

    def code(self, names: list[str], functions: list[Function]) -> None:
        kind = self.number()
        if kind & 3:
            raise RefusedError("holds native code, expected bytecode only")
        functions.append(_function(self.take(kind >> 3), len(names)))
        if kind & _HAS_CHILDREN:
            for _ in range(self.number()):
                self.code(names, functions)


def _function(data: bytes, name_count: int) -> Function:
    reader = _Reader(data)
    # Both headers interleave their numbers bit by bit, py/bc.h of MicroPython has the patterns.
    byte = reader.byte()
    positional, keyword_only, flags, bit = byte & 3, 0, 0, 0
    while byte & 0x80 and bit < _MOST_GROUPS:
        byte = reader.byte()
        positional |= (byte & 4) << bit
        keyword_only |= (byte >> 3 & 1) << bit
        flags |= (byte >> 6 & 1) << bit
        bit += 1
    info = cells = 0
    for bit in range(_MOST_GROUPS):
        byte = reader.byte()
        cells |= (byte & 1) << bit
        info |= (byte >> 1 & 0x3F) << 6 * bit
        if byte < 0x80:
            break
    start = reader.at + info + cells
    name, *arguments = [reader.number() for _ in range(1 + positional + keyword_only)]
    keywords = len(arguments) + (flags & _HAS_REST != 0) if flags & _HAS_KEYWORDS else None
    reader.at = start
    code = list(_instructions(reader))
    used = [name, *arguments, *(operand for number, operand in code if number in _NAMED)]
    if max(used) >= name_count:
        raise RefusedError(f"uses name {max(used)} of {name_count}")
    return Function(name, arguments, keywords, code)


def _instructions(reader: _Reader) -> Iterator[tuple[int, int]]:
    while reader.at < len(reader.data):
        code, operand = reader.byte(), 0
        if LOAD_FAST <= code < LOAD_FAST + _FAST_COUNT:
            code, operand = LOAD_FAST_N, code - LOAD_FAST
        elif code in _JUMPS:
            if reader.byte() & 0x80:
                reader.byte()
        elif code < _FIRST_ONE_BYTE:
            operand = reader.number()
        if code in _BYTE_FOLLOWS:
            reader.byte()
        yield code, operand


def _encode_number(value: int) -> bytes:
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F | 0x80)
    return bytes(reversed(groups))


def _encode_name(name: str) -> bytes:
    index = _STATIC_INDEX.get(name)
    if index is not None:
        return _encode_number(index << 1 | 1)
    encoded = name.encode()
    return _encode_number(len(encoded) << 1) + encoded + b"\0"
