"""The file system of a verified slot, as a block device to mount.

Apart from `image`, because this stays in memory and the verifier need not.
"""

from micropython import const

_BLOCK_LEN = const(4096)


class Payload:
    """Read-only block device over the payload of a verified image.

    It ends where the payload ends: nothing behind the signed bytes can be read.
    """

    def __init__(self, device, payload_len):
        """device: the slot.  payload_len: bytes, of the verified descriptor."""
        self._device = device
        self._count = payload_len // _BLOCK_LEN

    def readblocks(self, number, buf, offset=0):
        if number * _BLOCK_LEN + offset + len(buf) > self._count * _BLOCK_LEN:
            raise OSError(5)  # EIO
        self._device.readblocks(number + 1, buf, offset)

    def writeblocks(self, number, buf, offset=0):
        raise OSError(30)  # EROFS

    def ioctl(self, op, arg):
        if op == 4:
            return self._count
        if op == 5:
            return _BLOCK_LEN
        if op == 6:  # erase
            return -30
        return 0
