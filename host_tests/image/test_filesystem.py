"""signet.filesystem: what littlefs holds, read by MicroPython."""

import struct
import subprocess

import pytest

from signet.errors import RefusedError
from signet.formats import filesystem
from signet.image import mpy, slot_image

pytest_plugins = ["host_tests.tool_fixtures"]

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
size = int(sys.argv[2])
vfs.mount(vfs.VfsLfs2(Disk(sys.argv[1]), readsize=size, progsize=size), "/disk")
for name in os.listdir("/disk"):
    with open("/disk/" + name, "rb") as file:
        print(name, file.read() == bytes([int(name) % 251]) * int(name))
"""


@pytest.mark.parametrize("geometry", [filesystem.SLOT, filesystem.VFS])
def test_micropython_reads_files_of_every_size(micropython, tmp_path, geometry):
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
    (tmp_path / "disk").write_bytes(filesystem.pack(files, geometry, 40))
    (tmp_path / "read.py").write_text(READ_ALL)
    command = [micropython, tmp_path / "read.py", tmp_path / "disk", str(geometry.access_len)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert sorted(done.stdout.splitlines()) == sorted(f"{size} True" for size in sizes)


def test_the_superblock_is_what_micropython_expects(unsigned):
    payload = unsigned[4096:]
    assert payload[8:16] == b"littlefs"
    # littlefs SPEC.md, "LFS_TYPE_SUPERBLOCK": version, block size and count, longest name
    fields = struct.unpack_from("<4I", payload, 20)
    assert fields == (0x0002_0001, 4096, len(payload) // 4096, 255)


def test_the_order_of_files_makes_no_difference():
    files = {f"lib/{number}.mpy": bytes([number]) * 300 * number for number in range(9)}
    backwards = dict(reversed(files.items()))
    packed = filesystem.pack(files, filesystem.SLOT, 20)
    assert filesystem.pack(backwards, filesystem.SLOT, 20) == packed


def test_the_payload_has_no_block_too_many(project, unsigned):
    compiled = mpy.compile_sources(slot_image.slot_sources(project))
    blocks = len(unsigned) // 4096 - 1
    assert filesystem.pack(compiled, filesystem.SLOT, blocks) == unsigned[4096:]
    with pytest.raises(RefusedError, match=f"do not fit into {blocks - 1} blocks of 4096"):
        filesystem.pack(compiled, filesystem.SLOT, blocks - 1)


def test_small_files_share_blocks():
    files = {f"{number}.mpy": b"x" * 100 for number in range(20)}
    assert len(filesystem.pack_smallest(files, filesystem.SLOT, 94)) <= 4 * 4096
