"""`esp32` of the ESP32 port: Partition, as esp32_partition.c and the IDF's esp_partition do it.

And `idf_heap_info`, whose figures the host gives: there is no heap of the IDF here.

What the IDF keeps in ROM and flash (image check, otadata) is read from the host when it is needed
and dropped after, so that it takes no more heap than on the chip. Blocks below 4096 bytes, which
only the FAT file system uses, are not modelled.
"""

import chip as _chip
import uart as _uart
from micropython import const

_TABLE = const(0x8000)  # a sealed build's is a sector further
_SECTOR = const(4096)
_FLASH_LEN = const(0x400000)
_ANY = const(0xFF)
_READONLY = const(2)
_FAT = const(0x81)
del const  # the chip's module has none

HEAP_EXEC = 1
HEAP_DATA = 4


def idf_heap_info(id):
    return _chip.import_rom("heap").info(id)


def _check(code, name):
    """check_esp_err: an error of the IDF as an OSError with its negative number."""
    raise OSError(-code, name)


def _entries():
    """(type, subtype, address, size, label, flags) of the partitions, in the table's order."""
    row = bytearray(32)
    end = 0
    has_files = False
    _chip.read(_TABLE, row)
    table = _TABLE if row[0] == 0xAA else _TABLE + _SECTOR
    for address in range(table, table + 0xC00, 32):
        _chip.read(address, row)
        magic, kind, subtype, start, size, label, flags = _chip.struct.unpack("<HBBII16sI", row)
        if magic != 0x50AA:
            break
        label = label.split(b"\0")[0].decode()
        has_files = has_files or label in ("vfs", "ffat")
        end = max(end, start + size)
        yield kind, subtype, start, size, label, flags
    if not has_files and 0 < end < _FLASH_LEN:  # boardctrl_startup registers what is left over
        yield Partition.TYPE_DATA, _FAT, end, _FLASH_LEN - end, "vfs", 0


def _find(kind, subtype, label):
    if kind == _ANY and subtype != _ANY:
        return  # esp_partition_find refuses this
    for entry in _entries():
        matches = kind in (_ANY, entry[0]) and subtype in (_ANY, entry[1])
        if matches and label in (None, entry[4]):
            yield entry


def _new(entry, block_size):
    if entry is None:
        raise OSError(2)
    if block_size < _SECTOR:
        raise NotImplementedError("virtual board: block_size below 4096")
    partition = object.__new__(Partition)
    partition._entry = entry
    partition._block_size = block_size
    return partition


def _ota(name, *args):
    _uart.hold()
    try:
        return getattr(_chip.import_rom("ota"), name)(_chip, _entries, *args)
    finally:
        _uart.release()


class Partition:
    BOOT = 0
    RUNNING = 1
    TYPE_APP = 0
    TYPE_DATA = 1

    def __init__(self, id, block_size=4096):
        if id == Partition.BOOT:
            entry = _ota("boot_partition")
        elif id == Partition.RUNNING:
            entry = next((entry for entry in _entries() if entry[2] == _chip.app), None)
        elif isinstance(id, int):
            raise ValueError
        else:
            entry = next(_find(Partition.TYPE_APP, _ANY, id), None)
            entry = entry or next(_find(Partition.TYPE_DATA, _ANY, id), None)
        made = _new(entry, block_size)
        self._entry = made._entry
        self._block_size = made._block_size

    @staticmethod
    def find(type=TYPE_APP, subtype=0xFF, label=None, block_size=4096):
        return [_new(entry, block_size) for entry in _find(type, subtype, label)]

    def info(self):
        return self._entry[:5] + (False,)

    # littlefs calls these three from C: an interrupt that came up in them would go through it.

    def readblocks(self, block_num, buf, offset=0):
        _uart.hold()
        try:
            _chip.read(self._place(block_num * self._block_size + offset, len(buf)), buf)
        finally:
            _uart.release()

    def writeblocks(self, block_num, buf, offset=None):
        _uart.hold()
        try:
            start = block_num * self._block_size
            if offset is None:
                self._erase(start, len(buf))
                offset = 0
            self._check()
            _chip.program(self._place(start + offset, len(buf)), buf)
        finally:
            _uart.release()

    def ioctl(self, op, arg):
        _uart.hold()
        try:
            if 1 <= op <= 3:
                return 0
            if op == 4:
                return self._entry[3] // self._block_size
            if op == 5:
                return self._block_size
            if op == 6:
                if self._block_size != _SECTOR:
                    return -22
                self._erase(arg * _SECTOR, _SECTOR)
                return 0
        finally:
            _uart.release()

    def set_boot(self):
        _ota("set_boot", self._entry)

    def get_next_update(self):
        return _new(_ota("next_update", self._entry), 4096)

    @classmethod
    def mark_app_valid_cancel_rollback(cls):
        _ota("mark_valid")

    def _place(self, offset, length):
        """The address of `length` bytes at `offset`; OSError if they are not in the partition."""
        _, _, address, size, _, _ = self._entry
        if not 0 <= offset <= size:
            _check(0x102, "ESP_ERR_INVALID_ARG")
        if length > size - offset:
            _check(0x104, "ESP_ERR_INVALID_SIZE")
        return address + offset

    def _check(self):
        if self._entry[5] & _READONLY:
            _check(0x10D, "ESP_ERR_NOT_ALLOWED")
        if self._entry[2] == _chip.app:  # CONFIG_SPI_FLASH_DANGEROUS_WRITE_ABORTS, the default
            print("abort() was called: write to the running app")
            _chip.stop(_chip.HARD_RESET)

    def _erase(self, offset, length):
        self._check()
        address = self._place(offset, length)
        if length % _SECTOR:
            _check(0x104, "ESP_ERR_INVALID_SIZE")
        if offset % _SECTOR:
            _check(0x102, "ESP_ERR_INVALID_ARG")
        for sector in range(address, address + length, _SECTOR):
            _chip.erase(sector)
