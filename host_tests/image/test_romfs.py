"""signet.formats.romfs: VfsRom reads what we pack, and we read what mpremote packs."""

import gc
import random
import subprocess
import sys
from pathlib import Path

import pytest

from romfs import Blocks
from signet.errors import RefusedError, SignetError
from signet.formats import romfs

READ_ALL = """
import os, sys, vfs
with open(sys.argv[1], "rb") as file:
    vfs.mount(vfs.VfsRom(file.read()), "/disk")
def show(folder):
    for name, kind, _, size in os.ilistdir(folder):
        path = folder + "/" + name
        if kind == 0x4000:
            show(path)
        else:
            with open(path, "rb") as file:
                content = file.read()
            print(path[len("/disk"):], size, sum(content) if len(content) == size else None)
show("/disk")
"""


def make_files() -> dict[str, bytes]:
    """Of many sizes in many folders: long and short numbers, an index of several windows."""
    draw = random.Random(20261121)
    sizes = [0, 1, 127, 128, 129, 4095, 4096, 16383, 16384, 16385, 30000]
    files = {f"{size}.bin": draw.randbytes(size) for size in sizes}
    for number in range(40):
        files[f"folder {number % 7}/n{'n' * number}/ü{number}"] = draw.randbytes(number * 11)
    return files


def test_micropython_reads_what_we_pack(micropython: Path, tmp_path: Path) -> None:
    files = make_files()
    (tmp_path / "archive").write_bytes(romfs.pack(files))
    (tmp_path / "read.py").write_text(READ_ALL)
    command = [micropython, tmp_path / "read.py", tmp_path / "archive"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    expected = {f"/{path} {len(content)} {sum(content)}" for path, content in files.items()}
    assert set(done.stdout.splitlines()) == expected


def test_we_list_what_we_pack() -> None:
    files = make_files()
    found = romfs.list_files(romfs.pack(files))
    assert found == {f"/{path}": len(content) for path, content in files.items()}


def test_we_read_what_mpremote_packs(tmp_path: Path) -> None:
    files = {"a.txt": b"one", "data/b.bin": bytes(range(256)) * 100, "data/deep/c": b""}
    for name, content in files.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    output = tmp_path / "theirs.romfs"
    program = Path(sys.executable).parent / "mpremote"
    done = subprocess.run(
        [program, "romfs", "--no-mpy", "-o", output, "build", tmp_path / "tree"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = romfs.list_files(output.read_bytes())
    assert found == {f"/{name}": len(content) for name, content in files.items()}


def test_the_order_of_files_makes_no_difference() -> None:
    files = make_files()
    assert romfs.pack(dict(reversed(files.items()))) == romfs.pack(files)


@pytest.mark.parametrize("end", range(4096 - 40, 4096 + 40, 7))
def test_an_archive_is_whole_blocks_and_no_more(end: int) -> None:
    packed = romfs.pack({"x": bytes(end)})
    index_len = packed.index(bytes(64))
    assert len(packed) == -(-(index_len + end) // 4096) * 4096
    assert set(packed[index_len + end :]) <= {0xFF}


@pytest.mark.parametrize("path", ["", "/a", "a/", "a//b", "../a", "a/./b", "n" * 256])
def test_a_path_that_no_board_could_open_is_refused(path: str) -> None:
    with pytest.raises(SignetError, match="not a path that an archive can have"):
        romfs.pack({path: b""})


def test_a_file_and_a_folder_of_one_name_are_refused() -> None:
    with pytest.raises(SignetError, match="is a file"):
        romfs.pack({"a": b"", "a/b": b""})


@pytest.mark.parametrize("content", [b"", b"\xff" * 4096, b"littlefs" * 512])
def test_what_is_no_archive_is_refused(content: bytes) -> None:
    with pytest.raises(RefusedError, match="not a sound ROMFS archive"):
        romfs.list_files(content)


def test_stage_1_on_vfs_that_is_cut_short_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "stage1.romfs").write_bytes(bytes(4096) + b"x" * 904)
    blocks, buf = Blocks(str(tmp_path / "stage1.romfs")), bytearray(905)
    blocks.readblocks(1, memoryview(buf)[:904], 0)
    assert (blocks.length, bytes(buf)) == (5000, b"x" * 904 + b"\0")
    for number, offset in ((1, 0), (2, 0), (0, 4096)):
        with pytest.raises(OSError, match="5"):
            blocks.readblocks(number, buf, offset)


def test_a_maze_of_folders_is_given_up() -> None:
    with pytest.raises(RefusedError, match="more than 8 levels"):
        romfs.list_files(romfs.pack({"/".join("abcdefghijk"): b""}))
    with pytest.raises(RefusedError, match="more than 1000 files"):
        romfs.list_files(romfs.pack({str(number): b"" for number in range(1001)}))


def test_reading_an_archive_looks_at_no_garbage_of_others(monkeypatch):
    """A board collects at each file: here that would take seconds, in a process that has much."""
    looked_at = []
    monkeypatch.setattr(gc, "collect", lambda: looked_at.append(len(gc.get_objects())))
    romfs.read_files(romfs.pack({f"m{number}.mpy": b"M" for number in range(50)}))
    assert len(looked_at) == 50
    assert max(looked_at) < len(gc.get_objects()) / 10
    with pytest.raises(RefusedError):
        romfs.read_files(b"\xd2\xcd\x31")
    assert gc.get_freeze_count() == 0
