"""firmware.ondemand.store under CPython: files that survive a power cut."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from host_tests.played import Load


def test_store_round_trip(load: Load, tmp_path: Path) -> None:
    store = load("ondemand.store")
    path = str(tmp_path / "file")
    assert store.load(path, 100) is None
    assert not store.exists(path)
    store.save(path, b"one", bytearray(b"two"), memoryview(b"three"))
    assert store.load(path, 11) == b"onetwothree"
    assert store.exists(path)
    assert os.listdir(tmp_path) == ["file"]
    store.save(path, b"")
    assert store.load(path, 0) == b""
    for content in (b"one", b"0"):
        store.note(path, content)
        assert store.load(path, 3) == content
    store.remove(path)
    store.remove(path)
    assert os.listdir(tmp_path) == []


def test_store_does_not_read_more_than_it_may(load: Load, tmp_path: Path) -> None:
    store = load("ondemand.store")
    path = str(tmp_path / "file")
    store.save(path, b"x" * 101)
    assert store.load(path, 100) is None
    assert store.load(path, 101) == b"x" * 101
    assert store.load(str(tmp_path), 1 << 20) is None


def test_store_overwrites_what_a_power_cut_left(load: Load, tmp_path: Path) -> None:
    store = load("ondemand.store")
    path = tmp_path / "file"
    path.write_bytes(b"old")
    (tmp_path / "file.new").write_bytes(b"x" * 1000)
    assert store.load(str(path), 10) == b"old"
    store.save(str(path), b"new")
    assert store.load(str(path), 10) == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_store_that_fails_leaves_the_old_file(load: Load, tmp_path: Path) -> None:
    store = load("ondemand.store")
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def parts() -> Iterator[bytes]:
        yield b"new"
        raise OSError(28, "no space")

    class Full:
        def __iter__(self) -> Iterator[bytes]:
            return parts()

    with pytest.raises(OSError, match="no space"):
        store.save(str(path), *Full())
    (tmp_path / "file.new").mkdir()
    with pytest.raises(OSError, match="directory"):
        store.save(str(path), b"new")
    assert path.read_bytes() == b"old"
