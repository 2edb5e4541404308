"""An application of a chosen size, to try how large one may be: data that it holds, and code.

The code is of the kind that applications have, classes and functions with names of their own, a few
to each, and the same for the same sizes. None of it runs: it is loaded, which is what costs memory.
"""

import random
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

from signet.errors import SignetError
from signet.image import mpy

_FORM = re.compile(r"data=(\d{1,3}),mpy=(\d{1,3})")
_KB = 1024
_MAIN = '''\
"""An application that holds {data_kb} KB of data, and code that is loaded and never runs."""

import gc


async def run(device):
    kept = [bytearray(1024) for _ in range({data_kb})]
    while True:
        gc.collect()
        device.telemetry({{"kept": len(kept), "heap_live_bytes": gc.mem_alloc()}})
        await device.sleep(10)


async def self_test(device):
    pass
'''
_PART = """

class {name}:
    def __init__(self, device, limit={limit}):
        self.device = device
        self.limit = limit
        self.values = []

    def {verb}(self, value):
        if value > self.limit:
            raise ValueError("{noun} of %d, expected up to %d" % (value, self.limit))
        self.values.append(value)
        if len(self.values) > {length}:
            self.values.pop(0)
        return sum(self.values) // len(self.values)

    def report(self):
        for index, value in enumerate(self.values):
            if value * {factor} > self.limit:
                self.device.event("{noun}", index=index, value=value)


def {verb}_{noun}_{number}(device, args):
    found = {{"{noun}": args.get("{noun}", {limit}), "count": {length}}}
    return sorted(found.values())
"""
_NOUNS = ("valve", "pump", "tank", "relay", "probe", "fan", "meter", "motor")
_VERBS = ("open", "close", "measure", "switch", "filter", "adjust")


class Size(NamedTuple):
    """KB of data held, and of .mpy."""

    data_kb: int
    mpy_kb: int

    def __str__(self) -> str:
        return f"{self.data_kb} KB of data and {self.mpy_kb} KB of .mpy"


def parse_size(text: str) -> Size:
    """The size in "data=16,mpy=6"."""
    match = _FORM.fullmatch(text)
    if not match:
        raise SignetError(f"application {text!r}, expected the form data=16,mpy=6 (KB)")
    return Size(*map(int, match.groups()))


def make_source(size: Size) -> str:
    """The application, whose .mpy is the size or less than one part of it larger.

    What an application says about itself to the build would be said here, too.
    """
    draw = random.Random(9)
    source = _MAIN.format(data_kb=size.data_kb)
    number = 0
    while _compiled_len(source) < size.mpy_kb * _KB:
        number += 1
        noun, verb = draw.choice(_NOUNS), draw.choice(_VERBS)
        source += _PART.format(
            name=f"{noun.title()}{number}", noun=noun, verb=verb, number=number,
            limit=draw.randrange(100, 1000), length=draw.randrange(4, 40),
            factor=draw.randrange(2, 9),
        )  # fmt: skip
    return source


def _compiled_len(source: str) -> int:
    with tempfile.NamedTemporaryFile("w", prefix="signet-bench-", suffix=".py") as file:
        file.write(source)
        file.flush()
        (code,) = mpy.compile_sources({"firmware/app.py": Path(file.name)}).values()
    return len(code)
