"""modules/inisetup.py of the ESP32 port: what happens when `vfs` does not mount.

An erased partition is formatted and gets an empty boot.py. Anything else stops the boot in a loop
of messages; there is no console here to break it with.
"""

import time

import vfs

_BOOT = "# This file is executed on every boot (including wake-boot from deepsleep)\n"


def setup(device):
    """Format the block device and mount it as "/", or print for ever."""
    sector = bytearray(4096)
    device.readblocks(0, sector)
    while sector != b"\xff" * 4096:
        print("The filesystem appears to be corrupted.")
        time.sleep(3)
    print("Performing initial setup")
    vfs.VfsLfs2.mkfs(device)
    vfs.mount(vfs.VfsLfs2(device), "/")
    with open("boot.py", "w") as file:
        file.write(_BOOT)
