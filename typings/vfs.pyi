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

# What a file system written in Python has to have for imports (extmod/vfs.c, mp_vfs_mount).
class _FileSystem(Protocol):
    def mount(self, readonly: bool, mkfs: bool, /) -> None: ...
    def stat(self, path: str, /) -> tuple[int, ...]: ...
    def open(self, path: str, mode: str, /) -> Any: ...

# extmod/vfs_rom.c; in no stock ESP32 build up to 1.27.
class VfsRom:
    def __init__(self, content: Any) -> None: ...

def mount(
    fsobj: VfsLfs2 | VfsRom | _BlockDevice | _FileSystem,
    mount_point: str,
    *,
    readonly: bool = False,
) -> None: ...
def umount(mount_point: str | VfsLfs2, /) -> None: ...
