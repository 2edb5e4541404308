"""A new project, from a template or from a folder of one's own.

It is made aside and renamed, so it is there whole or not at all. Of a folder that is taken, keys,
`.signet` and what the tools make stay behind.
"""

import errno
import os
import re
import secrets
import shutil
import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from signet import files, project
from signet.errors import RefusedError, SignetError
from signet.image.slot_image import MODEL
from signet.project import manifest

_HERE = Path(__file__).with_name("templates")
_FOR_EVERY = _HERE / "every"
_IGNORED = ".gitignore"
_MADE = {".signet", "pki", "build", ".git", ".venv"}  # beside signet.toml
_CACHE = re.compile(r"__pycache__|\..*_cache|.*\.pyc")
_SECRET = re.compile(r".*\.key|flash\.bin")
_HAS_KEY = b"PRIVATE KEY-----"
_EXECUTABLE = 0o111
_READABLE = 0o666  # both less the user's umask

TEMPLATES = ("sensor", "actuator", "battery")


class _File(NamedTuple):
    content: bytes
    mode: int


def from_template(target: Path, template: str) -> None:
    """Make a project from one of TEMPLATES. Raises RefusedError if the folder is not empty."""
    found, _ = _gather(_HERE / template)
    every, _ = _gather(_FOR_EVERY)
    readme = every.pop("README.md")
    named = readme.content.replace(b"NAME", target.name.encode())
    found |= every | {"README.md": readme._replace(content=named)}
    found[_IGNORED] = found.pop("gitignore")
    _make(target, _HERE / template, found)


def from_folder(target: Path, source: Path) -> list[str]:
    """Make a project like another one, with a name of its own; what stayed behind as a secret.

    It gets a .gitignore if it had none. Raises RefusedError if the folder is not empty.
    """
    project.load(source)
    found, left = _gather(source)
    if _IGNORED not in found:
        found[_IGNORED] = _gather(_FOR_EVERY)[0]["gitignore"]
    _make(target, source, found)
    return left


def _gather(source: Path) -> tuple[dict[str, _File], list[str]]:
    """The files of a project, by their path in it, and the names of those that are secret."""
    found, left = {}, []
    for path in _walk(source, _MADE):
        name = path.relative_to(source).as_posix()
        content = files.read_file(path, "file")
        if _SECRET.fullmatch(path.name) or _HAS_KEY in content:
            left.append(name)
        else:
            found[name] = _File(content, _READABLE | path.stat().st_mode & _EXECUTABLE)
    return found, left


def _walk(folder: Path, without: Collection[str] = ()) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise SignetError(f"{folder}: cannot read the folder: {error.strerror}") from error
    for path in entries:
        if path.name in without or _CACHE.fullmatch(path.name):
            continue
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            # What it leads to may be anything, and may be somewhere else for the copy.
            raise SignetError(f"{path}: a link or device, expected files and folders")
        if path.is_dir():
            yield from _walk(path)
        else:
            yield path


def _make(target: Path, source: Path, found: dict[str, _File]) -> None:
    name = target.name
    if not MODEL.fullmatch(name):
        raise SignetError(f"project name {name!r}, expected 1 to 31 of a-z, 0-9 and '-'")
    described = found[manifest.NAME]
    content = _rename(described.content.decode(), name, source / manifest.NAME).encode()
    found = found | {manifest.NAME: described._replace(content=content)}
    aside = target.with_name(f".{name}.{secrets.token_hex(4)}")
    try:
        _write(aside, found)
        project.load(aside)
        os.rename(aside, target)  # over an empty folder, and over nothing else
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) and target.parent.is_dir():
            raise RefusedError(
                f"{target}: exists and is no empty folder, and is left as it is",
                "choose another name",
            ) from error
        raise SignetError(f"{target}: cannot make the project: {error.strerror}") from error
    finally:
        if aside.is_dir():  # not renamed
            shutil.rmtree(aside)


def _write(folder: Path, found: dict[str, _File]) -> None:
    folder.mkdir()
    for name, file in found.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        files.create_exclusive(path, file.content, file.mode)


def _rename(text: str, name: str, path: Path) -> str:
    """signet.toml with another name, and so another model if that was called the same."""
    before = tomllib.loads(text)["project"]
    keys = ["name"] + (["model"] if before["model"] == before["name"] else [])
    for key in keys:
        old = re.escape(before[key])
        value = re.compile(rf"^(\s*(?:project\.)?{key}\s*=\s*)(?:\"{old}\"|'{old}')", re.MULTILINE)
        text = value.sub(rf'\g<1>"{name}"', text, count=1)
    if tomllib.loads(text)["project"] != before | dict.fromkeys(keys, name):
        raise SignetError(f'{path}: cannot change the name, expected a line name = "…"')
    return text
