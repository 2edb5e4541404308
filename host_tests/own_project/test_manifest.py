"""signet.toml: what it may say, and what is said about one that is wrong."""

from pathlib import Path

import pytest

from signet.errors import SignetError
from signet.project.manifest import About, Budget, Heap, Manifest, Servers, read_manifest

PROJECT = {
    "name": "'lamp'",
    "model": "'lamp-2'",
    "hardware": "'B1'",
    "version": "'1.2.0'",
    "counter": "3",
    "micropython": "'1.26.0'",
}


def project(without: str = "", **changed: str) -> str:
    """A table [project], with other values or without one of them."""
    fields = {key: value for key, value in (PROJECT | changed).items() if key != without}
    return "[project]\n" + "".join(f"{key} = {value}\n" for key, value in fields.items())


def read(folder: Path, text: str) -> Manifest:
    path = folder / "signet.toml"
    path.write_text(text)
    return read_manifest(path)


def test_what_only_asks_for_heap(tmp_path):
    assert read(tmp_path, "[heap]\nreserve_kb = 32\ndata_kb = 20\n") == Manifest(heap=Heap(32, 20))
    assert read(tmp_path, "") == Manifest()
    assert read(tmp_path, "[heap]\ndata_kb = 1\n").heap == Heap(0, 1)


def test_a_whole_one(tmp_path):
    text = project(data="'files/of it'") + (
        "[heap]\nreserve_kb = 24\n[budget]\nimage_kb = 80\nheap_kb = 12\n"
        "[servers]\nhost = 'a.example'\nbroker_port = 8883\nntp_port = 8883\n"
    )
    about = About("lamp", "lamp-2", "B1", "1.2.0", 3, (1, 26, 0), tmp_path / "files/of it")
    servers = Servers("a.example", broker_port=8883, ntp_port=8883)
    assert read(tmp_path, text) == Manifest(about, Heap(24, 0), Budget(80, 12), servers)
    assert read(tmp_path, project()).about == About(
        "lamp", "lamp-2", "B1", "1.2.0", 3, (1, 26, 0), None
    )


NAME = "expected 1 to 31 of a-z, 0-9 and '-'"
FOLDER = "expected the name of a folder inside the project"
PLATFORM = "expected a text of the form '1.25.0', which is the oldest that there may be"
BAD = {
    "no TOML": ("heap = [", "not TOML"),
    "unknown table": ("[head]\n", "head is not known, expected project, heap, budget, servers"),
    "unknown key": ("[heap]\nkb = 1\n", "heap.kb is not known, expected reserve_kb, data_kb"),
    "no table": ("heap = 16\n", "heap is no table, expected [heap]"),
    "text": ("[heap]\nreserve_kb = '16'\n", "heap.reserve_kb is '16', expected 0 to 48"),
    "truth": ("[heap]\nreserve_kb = true\n", "heap.reserve_kb is True, expected 0 to 48"),
    "fraction": ("[heap]\ndata_kb = 1.5\n", "heap.data_kb is 1.5, expected 0 to 96"),
    "below 0": ("[heap]\ndata_kb = -1\n", "heap.data_kb is -1, expected 0 to 96"),
    "too much": ("[heap]\nreserve_kb = 49\n", "heap.reserve_kb is 49, expected 0 to 48"),
    "list of tables": ("[[project]]\n", "project is no table, expected [project]"),
    "empty project": ("[project]\n", f"project.name is missing, {NAME}"),
    "no model": (project("model"), f"project.model is missing, {NAME}"),
    "no hardware": (project("hardware"), "project.hardware is missing, expected 1 to 16 letters"),
    "no version": (project("version"), "project.version is missing, expected 1 to 31 letters"),
    "no counter": (project("counter"), "project.counter is missing, expected 0 to 4294967295"),
    "no MicroPython": (project("micropython"), f"project.micropython is missing, {PLATFORM}"),
    "name": (project(name="'A'"), f"project.name is 'A', {NAME}"),
    "name, a path": (project(name="'../a'"), f"project.name is '../a', {NAME}"),
    "name, a number": (project(name="5"), f"project.name is 5, {NAME}"),
    "name, no end": (project(name='"a\\n"'), f"project.name is 'a\\n', {NAME}"),
    "model": (project(model="'a b'"), f"project.model is 'a b', {NAME}"),
    "hardware": (project(hardware="'/'"), "project.hardware is '/', expected 1 to 16 letters"),
    "version": (project(version="'1 0'"), "project.version is '1 0', expected 1 to 31 letters"),
    "version, a number": (project(version="1.0"), "project.version is 1.0, expected 1 to 31"),
    "counter": (project(counter="-1"), "project.counter is -1, expected 0 to 4294967295"),
    "counter, large": (project(counter="4294967296"), "project.counter is 4294967296, expected 0"),
    "counter, huge": (project(counter="9" * 100), "project.counter is a huge number, expected 0"),
    "platform": (project(micropython="'1.25'"), f"project.micropython is '1.25', {PLATFORM}"),
    "platform, old": (
        project(micropython="'1.24.9'"),
        f"project.micropython is '1.24.9', {PLATFORM}",
    ),
    "platform, far": (project(micropython="'1.256.0'"), "project.micropython is '1.256.0', expect"),
    "platform, digits": (
        project(micropython="'1.٢٦.0'"),
        "project.micropython is '1.٢٦.0', expect",
    ),
    "data, above": (project(data="'a/../../b'"), f"project.data is 'a/../../b', {FOLDER}"),
    "data, elsewhere": (project(data="'/etc'"), f"project.data is '/etc', {FOLDER}"),
    "data, all": (project(data="'.'"), f"project.data is '.', {FOLDER}"),
    "data, nothing": (project(data="''"), f"project.data is '', {FOLDER}"),
    "data, NUL": (project(data='"a\\u0000"'), f"project.data is 'a\\x00', {FOLDER}"),
    "image": ("[budget]\nimage_kb = 0\n", "budget.image_kb is 0, expected 1 to 16384"),
    "heap": ("[budget]\nheap_kb = 97\n", "budget.heap_kb is 97, expected 0 to 96"),
    "host": ("[servers]\nhost = 'a/b'\n", "servers.host is 'a/b', expected a host name or address"),
    "port": ("[servers]\nntp_port = 0\n", "servers.ntp_port is 0, expected 1 to 65535"),
    "port of another": (
        "[servers]\nbroker_port = 1\nimages_port = 1\n",
        "servers.images_port is 1, expected another one than broker_port",
    ),
}


@pytest.mark.parametrize(("text", "reason"), BAD.values(), ids=BAD)
def test_one_that_is_wrong(tmp_path, text, reason):
    with pytest.raises(SignetError) as error:
        read(tmp_path, text)
    assert str(error.value).startswith(f"{tmp_path / 'signet.toml'}: {reason}")


def test_one_that_is_not_utf8_or_not_there(tmp_path):
    path = tmp_path / "signet.toml"
    with pytest.raises(SignetError, match=r"signet\.toml"):
        read_manifest(path)
    path.write_bytes(b"\xff")
    with pytest.raises(SignetError, match="not TOML"):
        read_manifest(path)
