"""An application of a chosen size, to try how large one may be: data that it holds, and code.

The code is of the kind that applications have, classes and functions with names of their own, a few
to each, and the same for the same sizes. None of it runs: it is loaded, which is what costs memory.
"""

import random
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

from signet import files
from signet.errors import SignetError
from signet.image import budget, mpy, slot_image
from signet.project import manifest
from signet.sources import SOURCE

_FORM = re.compile(r"data=(\d{1,3}),mpy=(\d{1,3})(?:,reserve=(\d{1,2}))?")
_MANIFEST = "[heap]\nreserve_kb = {reserve_kb}\ndata_kb = {data_kb}\n"
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
    """KB of data held, and of .mpy. reserve_kb: for its manifest; None: the least that fits."""

    data_kb: int
    mpy_kb: int
    reserve_kb: int | None = None

    def __str__(self) -> str:
        return f"{self.data_kb} KB of data and {self.mpy_kb} KB of .mpy"


def parse_size(text: str) -> Size:
    """The size in "data=16,mpy=6" or "data=16,mpy=6,reserve=32"."""
    match = _FORM.fullmatch(text)
    if not match:
        raise SignetError(
            f"application {text!r}, expected the form data=16,mpy=6 or "
            "data=16,mpy=6,reserve=32 (KB)"
        )
    data_kb, mpy_kb, reserve_kb = match.groups()
    return Size(int(data_kb), int(mpy_kb), None if reserve_kb is None else int(reserve_kb))


def write(size: Size, folder: Path) -> Path:
    """Put the application into a folder, with a manifest that says what it needs."""
    app = folder / "app.py"
    files.replace_file(app, make_source(size).encode(), files.OURS)
    reserve_kb = size.reserve_kb
    if reserve_kb is None:
        # Any release: its names are short, as in the one that will be built.
        release = slot_image.Release("0", "any", 0, slot_image.DEFAULT_PLATFORM, 0)
        compiled = slot_image.build(release, SOURCE, app).files
        sources = slot_image.slot_sources(SOURCE, app)
        cost = budget.application_cost(sources, compiled, size.data_kb)
        # If nothing fits, the build says by how much.
        reserve_kb = budget.least_reserve_kb(cost, slot_image.DEFAULT_PLATFORM)
        reserve_kb = reserve_kb or budget.MOST_RESERVE_KB
    text = _MANIFEST.format(reserve_kb=reserve_kb, data_kb=size.data_kb)
    files.replace_file(folder / manifest.NAME, text.encode(), files.OURS)
    return app


def make_source(size: Size) -> str:
    """The application, whose .mpy is the size or less than one part of it larger."""
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
