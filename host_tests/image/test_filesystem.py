"""signet.filesystem: what littlefs holds, read by MicroPython."""

import struct
import subprocess

import pytest

from signet.errors import RefusedError
from signet.formats import filesystem

READ_ALL = """
import os, sys, vfs
class Disk:
    def __init__(self, path):
        self.file, self.count = open(path, "rb"), os.stat(path)[6] // 4096
    def readblocks(self, number, buffer, offset=0):
        self.file.seek(number * 4096 + offset)
        self.file.readinto(buffer)
    def writeblocks(self, number, buffer, offset=0):
        raise OSError(30)
    def ioctl(self, operation, argument):
        return {4: self.count, 5: 4096}.get(operation, 0)
vfs.mount(vfs.VfsLfs2(Disk(sys.argv[1])), "/disk")
for name in os.listdir("/disk"):
    with open("/disk/" + name, "rb") as file:
        print(name, file.read() == bytes([int(name) % 251]) * int(name))
"""


def test_micropython_reads_files_of_every_size(micropython, tmp_path):
    """A small file lies inside its folder's block, and must fit the reader's cache."""
    sizes = [
        0,
        1,
        31,
        32,
        127,
        128,
        129,
        255,
        256,
        257,
        511,
        512,
        513,
        1023,
        4095,
        4096,
        4097,
        9999,
    ]
    files = {str(size): bytes([size % 251]) * size for size in sizes}
    (tmp_path / "disk").write_bytes(filesystem.pack(files, 40))
    (tmp_path / "read.py").write_text(READ_ALL)
    command = [micropython, tmp_path / "read.py", tmp_path / "disk"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert sorted(done.stdout.splitlines()) == sorted(f"{size} True" for size in sizes)


def test_the_superblock_is_what_micropython_expects():
    packed = filesystem.pack({}, 40)
    assert packed[8:16] == b"littlefs"
    # littlefs SPEC.md, "LFS_TYPE_SUPERBLOCK": version, block size and count, longest name
    assert struct.unpack_from("<4I", packed, 20) == (0x0002_0001, 4096, 40, 255)


def test_the_order_of_files_makes_no_difference():
    files = {f"lib/{number}.mpy": bytes([number]) * 300 * number for number in range(9)}
    backwards = dict(reversed(files.items()))
    assert filesystem.pack(backwards, 20) == filesystem.pack(files, 20)


def test_what_does_not_fit_is_refused():
    with pytest.raises(RefusedError, match="9000 bytes in 1 files do not fit into 4 blocks"):
        filesystem.pack({"a": bytes(9000)}, 4)
