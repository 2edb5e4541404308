"""Slot images: build, verify and describe them.

    [descriptor 4096][ROMFS archive n * 4096][signature sector 4096]

A build is reproducible: the same source files, descriptor fields and mpy-cross give the same bytes,
wherever the files lie. An image is signed by `signet.formats.signing`; what a device checks is
checked here by the device's own code (`trust.image`).
"""

import re
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from signet import files
from signet.errors import RefusedError, SignetError
from signet.formats import flash, romfs, signing
from signet.image import mpy, names, stage1
from trust import TrustError
from trust import image as trust_image
from trust.identity import PROFILES
from trust.image import Descriptor

BLOCK_LEN = 4096
DEFAULT_PROFILE = "production"
DEFAULT_PLATFORM = (1, 25, 0)  # the oldest MicroPython with the .mpy version that mpy-cross emits
VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,30}")
MODEL = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
LAYOUT = "firmware/board/partitions.csv"  # in a source folder

_MAGIC = b"SGNTSLOT"
FILE = files.Kind("a slot image", lambda head: head.startswith(_MAGIC))
_FORMAT = 2
_DESCRIPTOR = struct.Struct("<8sHHIIIQ32s32sI")
_ANY_PLATFORM = (255, 255, 255)
_NO_FLOOR = 0
_MAX_AHEAD_S = 86400  # a board that ran it would refuse the true time as below its floor


@dataclass(frozen=True)
class Release:
    """What the descriptor says about an image.

    counter: security counter, u32. platform: least MicroPython version (major, minor, patch).
    build_time: Unix seconds; a board's clock never runs below it. profile: one of `PROFILES`.
    heap: KB of heap that the board reserves at least; 0 leaves it to the board.
    """

    version: str
    model: str
    counter: int
    platform: tuple[int, int, int]
    build_time: int
    profile: str = DEFAULT_PROFILE
    heap: int = 0


@dataclass(frozen=True)
class Build:
    """An unsigned image.

    files: its .mpy files, by the path of their source. names: {short: original} in it, and in stage
    1 of the same source.
    """

    content: bytes
    files: dict[str, bytes]
    names: dict[str, str]


def build_image(
    release: Release, source: Path, app: Path | None = None, data: Path | None = None
) -> bytes:
    """What `build` makes, without its names."""
    return build(release, source, app, data).content


def build(
    release: Release,
    source: Path,
    app: Path | None = None,
    data: Path | None = None,
    libraries: Sequence[Path] = (),
) -> Build:
    """Compile firmware/ and lib/ of a source folder into an unsigned slot image.

    What is in lib/ is at the top of the archive, as modules are imported, if something in the image
    imports or names it; firmware/board and stage 1 stay out, and so does all that is no .py file.
    app: a file that takes the place of firmware/app.py. data: a folder of files for the
    application, which finds them in /slot/data. libraries: folders of modules for the application,
    packed as those of the source's own.
    Names are shortened (`signet.image.names`), but for a dev image. Raises SignetError for a wrong
    field, a file that does not compile, RefusedError for an image that is larger than a slot.
    """
    _check_release(release)
    sources = slot_sources(source, app, libraries)
    used = mpy.reached(sources, [name for name in sources if not name.startswith("lib/")])
    compiled = mpy.compile_sources(
        {name: sources[name] for name in used}, debug=release.profile == "dev"
    )
    short: dict[str, str] = {}
    if release.profile != "dev":
        known, of_stage1 = stage1.known_names(source)
        compiled, short = names.shorten(compiled, known)
        short |= of_stage1
    contents = {name.removeprefix("lib/"): code for name, code in compiled.items()}
    if len(contents) < len(compiled):
        raise SignetError(f"{source}: lib/firmware and firmware have a module in common")
    if data is not None:
        contents |= _data_files(data)
    payload = romfs.pack(contents)
    most = _slot_len(source) - 2 * BLOCK_LEN
    if len(payload) > most:
        raise RefusedError(
            f"the image is too large: {len(payload)} bytes of files with their index, a slot has "
            f"room for {most}"
        )
    return Build(pack_descriptor(release, len(payload)) + payload, compiled, short)


def _data_files(folder: Path) -> dict[str, bytes]:
    """What the application can open, by its path in the archive."""
    if not folder.is_dir():
        raise SignetError(f"{folder}: no folder")
    found = {
        f"data/{path.relative_to(folder).as_posix()}": files.read_file(path, "data file")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }
    for name in found:
        if name.endswith((".py", ".mpy")):
            raise SignetError(
                f"{folder}: {name.removeprefix('data/')}: a program is no data",
                "what is imported belongs into firmware/ or lib/",
            )
    return found


def pack_descriptor(release: Release, payload_len: int) -> bytes:
    """The first block of an image, 4096 bytes; read back by the device's parser."""
    major, minor, patch = release.platform
    fields = _DESCRIPTOR.pack(
        _MAGIC, _FORMAT, PROFILES.index(release.profile), payload_len, release.counter,
        major << 16 | minor << 8 | patch, release.build_time, release.version.encode(),
        release.model.encode(), release.heap,
    )  # fmt: skip
    block = fields.ljust(BLOCK_LEN, b"\xff")
    Descriptor(block)
    return block


def _check_release(release: Release) -> None:
    for name, value, pattern in (
        ("version", release.version, VERSION),
        ("model", release.model, MODEL),
    ):
        if not pattern.fullmatch(value):
            raise SignetError(f"{name} {value!r}, expected the form {pattern.pattern}")
    check_profile(release.profile)
    for name, number, most in (
        ("security counter", release.counter, 0xFFFF_FFFF),
        ("build time", release.build_time, 0xFFFF_FFFF),
        *(("platform version", part, 255) for part in release.platform),
    ):
        if not 0 <= number <= most:
            raise SignetError(f"{name} {number}, expected 0 to {most}")
    ahead = release.build_time - time.time()
    if ahead > _MAX_AHEAD_S:
        raise SignetError(f"build time {release.build_time} is {ahead:.0f} s ahead of now")


def check_profile(profile: str) -> None:
    """Raise SignetError for a word that is no profile."""
    if profile not in PROFILES:
        raise SignetError(f"profile {profile!r}, expected one of {', '.join(PROFILES)}")


def slot_sources(
    source: Path, app: Path | None = None, libraries: Sequence[Path] = ()
) -> dict[str, Path]:
    """Path in the slot (but .py) and source file of everything that a slot image may hold.

    Raises SignetError if a module in libraries would hide one of the source's, or of MicroPython's
    that those import, or is in two of them.
    """
    everything = mpy.python_files(source, ("firmware", "lib"))
    found = {
        name: path
        for name, path in everything.items()
        if not name.startswith(("firmware/board/", "lib/trust/", "lib/romfs/"))
    }
    if not any(name.startswith("firmware/") for name in found):
        raise SignetError(
            f"{source}/firmware: no Python files", "--source names the project folder"
        )
    if app is not None:
        found["firmware/app.py"] = app
    own = _application_modules(libraries)
    if own:
        _check_hides(own, _taken_names(everything))
    return found | own


def _application_modules(folders: Sequence[Path]) -> dict[str, Path]:
    own: dict[str, Path] = {}
    for folder in folders:
        for name, path in mpy.python_files(folder, (".",)).items():
            other = own.setdefault(f"lib/{name}", path)
            if other != path:
                raise SignetError(f"{path}: {other} has the same name", "a board finds only one")
    return own


def _taken_names(everything: dict[str, Path]) -> dict[str, str]:
    """Top-level names that modules of the source have or import, and whose each is."""
    names = {"data": "the folder of data files"}
    for name, path in everything.items():
        if not name.startswith("firmware/board/"):
            for module in mpy.imports(path, mpy.package_name(name)):
                names[module.partition(".")[0]] = "a module of MicroPython"
    # After those: what the source has is its own, whoever imports it.
    return names | {
        mpy.module_name(name).partition(".")[0]: "a module of Signet" for name in everything
    }


def _check_hides(own: dict[str, Path], taken: dict[str, str]) -> None:
    for name, path in own.items():
        top = mpy.module_name(name).partition(".")[0]
        if top in taken:
            raise SignetError(
                f"{path}: {top} is {taken[top]}, which it would hide", "give it another name"
            )


def _slot_len(source: Path) -> int:
    layout = flash.load_layout(source / LAYOUT)
    sizes = [partition.size for partition in layout if partition.label in ("slot_a", "slot_b")]
    if not sizes:
        raise SignetError(f"{source / LAYOUT}: no partition slot_a or slot_b")
    return min(sizes)


def sign_image(content: bytes, key: Path, twice: bool = True) -> bytes:
    """Sign an unsigned image with the release key; returns the verified signed image.

    twice: see `signing.sign_bytes`. Raises RefusedError if the content is not exactly one unsigned
    image.
    """
    descriptor = _parse(content)
    if len(content) == descriptor.image_len:
        raise RefusedError("the image is signed already")
    if len(content) != descriptor.image_len - BLOCK_LEN:
        raise RefusedError(
            f"{len(content)} bytes, expected {descriptor.image_len - BLOCK_LEN} before signing"
        )
    signed = signing.sign_bytes(content, key, twice)
    verify_image(signed, [signing.key_digest(key)])
    return signed


def verify_image(
    content: bytes, key_digests: list[bytes], model: str | None = None, profile: str = "dev"
) -> Descriptor:
    """Verify a signed image as a device does and return its descriptor.

    Raises RefusedError for anything that a device would refuse, and for a file that is longer than
    its image. model: the only one accepted; None accepts what the image says.
    profile: the device's; the default, dev, takes every image.
    """
    descriptor = _parse(content)
    problem = _length_problem(descriptor, len(content))
    if problem:
        raise RefusedError(problem)
    record = {
        "release": key_digests,
        "model": descriptor.model if model is None else model,
        "profile": PROFILES.index(profile),
    }
    try:
        verified: Descriptor = trust_image.verify(
            flash.BlockDevice(memoryview(bytearray(content))),
            record,
            _NO_FLOOR,
            _ANY_PLATFORM,
        )
    except TrustError as error:
        raise RefusedError(str(error)) from error
    return verified


def _parse(content: bytes) -> Descriptor:
    try:
        return Descriptor(content[:BLOCK_LEN])
    except trust_image.ImageError as error:
        raise RefusedError(str(error)) from error


def _length_problem(descriptor: Descriptor, length: int) -> str | None:
    if length == descriptor.image_len:
        return None
    if length == descriptor.image_len - BLOCK_LEN:
        return "not signed"
    return f"{length} bytes, expected {descriptor.image_len} of a signed image"


@dataclass
class Report:
    """What an image file says about itself, trusted or not."""

    descriptor: Descriptor
    length: int
    files: dict[str, int] = field(default_factory=dict)
    names: int = 0  # that are not those of every ESP32's ROM
    key_digest: bytes | None = None  # of the key in the signature block
    problems: list[str] = field(default_factory=list)


def inspect_image(content: bytes) -> Report:
    """Describe a signed or unsigned image; RefusedError if it has no descriptor.

    The signature is checked against the key that it carries: a report without problems means that
    the image is whole, not who signed it.
    """
    descriptor = _parse(content)
    report = Report(descriptor, len(content))
    payload = content[BLOCK_LEN : BLOCK_LEN + descriptor.payload_len]
    try:
        contents = romfs.read_files(payload)
        report.files = {path: len(content) for path, content in contents.items()}
        report.names = len(names.own_names(contents))
    except RefusedError as error:
        report.problems.append(str(error))
    problem = _length_problem(descriptor, len(content))
    if problem:
        report.problems.append(problem)
        return report
    report.key_digest = signing.block_key_digest(content[-BLOCK_LEN:])
    try:
        signing.verify_bytes(content, [report.key_digest])
    except RefusedError as error:
        report.problems.append(str(error))
    return report
