"""Packages of modules, in the form that mip takes, each pinned by the SHA-256 of its files.

    "github:org/repo" = { version = "v1.2", sha256 = "…" }
    "https://example.org/lamp/package.json" = { sha256 = "…" }
    "vendor/lamp" = { sha256 = "…" }      # a folder with a package.json, from that of the project

package.json has `urls`, [target, source] of each file; a source is a URL, or is looked for beside
package.json. What is pinned is what `sha256sum` prints about the targets, sorted: so neither a
host nor a name server nor a moved tag can put anything else into an image. A package that another
one needs (`deps`) is in the table, too. Fetched once, into `.signet/packages` under its digest.
"""

import hashlib
import http.client
import re
import secrets
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urljoin, urlsplit

from signet import files
from signet.errors import RefusedError, SignetError
from signet.formats.documents import load_object
from signet.project.manifest import Package

_INDEX = "package.json"
_GITHUB = "https://raw.githubusercontent.com/{}/{}/{}/{}"  # owner, repository, version, path
_GITHUB_NAME = re.compile(r"github:([A-Za-z0-9_.-]+)/([A-Za-z0-9_.-]+)((?:/[A-Za-z0-9_.-]+)*)/?")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_MODULE = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]*/)*[A-Za-z_][A-Za-z0-9_]*\.py")
_MAX_FILES = 100
_MAX_LEN = 256 << 10  # of all files together: a slot
_LIMIT_S = 60  # for each package
_STALLS_S = 20
_CHUNK = 16384


def resolve(packages: dict[str, Package], project: Path, store: Path) -> list[Path]:
    """The folders of the packages' modules, fetched into `store` if they are not there.

    Raises RefusedError for a package that is not what was pinned, SignetError for what cannot be
    fetched; then none of it is in the store.
    """
    folders = []
    for source, package in packages.items():
        pinned = package.sha256
        if pinned is None or _digest_of(store / pinned) != pinned:
            contents = _fetch(source, package, packages, project)
            pinned = _check_pinned(source, package, _digest(contents))
            _keep(store / pinned, contents)
        folders.append(store / pinned)
    return folders


def _check_pinned(source: str, package: Package, found: str) -> str:
    version = f'version = "{package.version}", ' if package.version else ""
    line = f'"{source}" = {{ {version}sha256 = "{found}" }}'
    if package.sha256 is None:
        raise RefusedError(
            f"packages.{source!r} is not pinned", f"after a look at it, in signet.toml: {line}"
        )
    if found != package.sha256:
        raise RefusedError(
            f"packages.{source!r}: its files have SHA-256 {found}, expected {package.sha256}",
            "somebody changed it; look at what is new before you pin it",
        )
    return found


def _digest(contents: dict[str, bytes]) -> str:
    lines = (f"{hashlib.sha256(contents[name]).hexdigest()}  {name}\n" for name in sorted(contents))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _digest_of(folder: Path) -> str | None:
    """Of what was kept; None if that is not there."""
    if not folder.is_dir():
        return None
    paths = (path for path in folder.rglob("*") if path.is_file())
    return _digest(
        {path.relative_to(folder).as_posix(): files.read_file(path, "module") for path in paths}
    )


def _keep(folder: Path, contents: dict[str, bytes]) -> None:
    """Put a package into the store, whole or not at all."""
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        folder.parent.parent.mkdir(files.SECRET_FOLDER_MODE, exist_ok=True)
        for name, content in contents.items():
            path = aside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            files.create_exclusive(path, content)
        if folder.is_dir():  # somebody changed it there
            shutil.rmtree(folder)
        aside.rename(folder)
    except OSError as error:
        raise SignetError(f"{folder}: cannot keep the package: {error.strerror}") from error
    finally:
        if aside.is_dir():
            shutil.rmtree(aside)


def _fetch(
    source: str, package: Package, packages: dict[str, Package], project: Path
) -> dict[str, bytes]:
    """Content of each module by its target. Raises SignetError for what is no such package."""
    until = time.monotonic() + _LIMIT_S
    place = _index_place(source, package.version, project)
    index = read_index(place, _read(place, _MAX_LEN, until))
    for name, _ in index.get("deps", []):
        if not any(_is_called(known, name) for known in packages):
            raise SignetError(f"{place}: needs {name!r}, which is not in [packages]")
    contents: dict[str, bytes] = {}
    room = _MAX_LEN
    for target, where in index["urls"]:
        if not _MODULE.fullmatch(target) or target in contents:
            raise SignetError(f"{place}: target {target!r}, expected the path of a .py module")
        contents[target] = _read(_beside(place, where, package.version), room, until)
        room -= len(contents[target])
    return contents


def _index_place(source: str, version: str | None, project: Path) -> str:
    """URL or path of a package.json."""
    if source.startswith("github:") and version is None:
        raise SignetError(f"packages.{source!r}: expected a version: a tag or a commit")
    place = _expand(source, version) if _is_remote(source) else str(project / source)
    return place if place.endswith(".json") else f"{place.rstrip('/')}/{_INDEX}"


def _is_remote(place: str) -> bool:
    return place.startswith("github:") or "://" in place


def _expand(place: str, version: str | None) -> str:
    """The URL that `github:owner/repository/path` stands for; others as they are."""
    if not place.startswith("github:"):
        return place
    match = _GITHUB_NAME.fullmatch(place)
    if not match:
        raise SignetError(f"{place}: expected github:owner/repository or one with a path")
    return _GITHUB.format(match[1], match[2], version or "HEAD", match[3].strip("/"))


def read_index(place: str, content: bytes) -> dict[str, Any]:
    """A package.json, checked for its form."""
    try:
        index = load_object(content)
        lists = [index.get("deps", []), index["urls"]]
        if "hashes" in index:
            raise SignetError(f"{place}: has 'hashes', as only an index has; expected 'urls'")
        if not 1 <= len(lists[1]) <= _MAX_FILES:
            raise SignetError(f"{place}: {len(lists[1])} files, expected 1 to {_MAX_FILES}")
        for entry in (*lists[0], *lists[1]):
            first, second = entry
            if not isinstance(first, str) or not isinstance(second, str):
                raise ValueError
    except (ValueError, TypeError, KeyError) as error:
        raise SignetError(f"{place}: no package: expected JSON with 'urls'") from error
    return index


def _is_called(source: str, name: str) -> bool:
    """Whether a package of the table may be the one that another calls so."""
    return source == name or PurePosixPath(source.removesuffix(f"/{_INDEX}")).name == name


def _beside(place: str, where: str, version: str | None) -> str:
    """Where a file of the package at `place` is: a URL or a path."""
    if _is_remote(where):
        return _expand(where, version)
    if _is_remote(place):
        try:
            return urljoin(place, where)
        except ValueError as error:
            raise SignetError(f"{place}: {where!r}: {error}") from error
    folder = Path(place).parent.resolve()
    path = folder / where
    if not path.resolve().is_relative_to(folder):
        raise SignetError(f"{place}: {where!r} is outside of its folder")
    return str(path)


def _read(place: str, most: int, until: float) -> bytes:
    """A file of at most so many bytes; until: when to give up, by time.monotonic."""
    if _is_remote(place):
        try:
            content = _download(place, most, until)
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise SignetError(f"{place}: cannot fetch: {reason}") from error
    else:
        content = files.read_file(Path(place), "package")
    if len(content) > most:
        raise SignetError(f"{place}: too large: a package has {_MAX_LEN >> 10} KB of files at most")
    return content


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> urllib.request.Request | None:
        _check_url(args[-1])
        return super().redirect_request(*args)


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise SignetError(f"{url}: expected https")


def _download(url: str, most: int, until: float) -> bytes:
    """A file, or one byte more than `most` of it."""
    _check_url(url)
    content = b""
    with urllib.request.build_opener(_Redirects).open(url, timeout=_STALLS_S) as answer:
        while len(content) <= most and (chunk := answer.read1(_CHUNK)):
            content += chunk
            if time.monotonic() > until:
                raise TimeoutError(f"not done after {_LIMIT_S} s")
    length = answer.headers.get("Content-Length")
    if length and len(content) < min(int(length), most):
        raise OSError(f"{len(content)} bytes, expected {length}")
    return content
