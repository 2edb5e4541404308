# extmod/modvfs.c and vfs_lfsx.c, v1.25.0. The packaged stub takes only its own class of block
# device, the port any object with these methods.
from typing import Any, Protocol

class _BlockDevice(Protocol):
    def readblocks(self, block_num: int, buf: Any, offset: int = ..., /) -> Any: ...
    def writeblocks(self, block_num: int, buf: Any, offset: int = ..., /) -> Any: ...
    def ioctl(self, op: int, arg: int, /) -> int | None: ...

class VfsLfs2:
    def __init__(
        self,
        bdev: _BlockDevice,
        readsize: int = 32,
        progsize: int = 32,
        lookahead: int = 32,
        mtime: bool = True,
    ) -> None: ...
    @staticmethod
    def mkfs(
        bdev: _BlockDevice, readsize: int = 32, progsize: int = 32, lookahead: int = 32
    ) -> None: ...

def mount(fsobj: VfsLfs2 | _BlockDevice, mount_point: str, *, readonly: bool = False) -> None: ...
def umount(mount_point: str | VfsLfs2, /) -> None: ...
