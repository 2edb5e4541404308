"""An ESP32 in download mode on a pseudo-terminal, for esptool itself to talk to.

It speaks the serial protocol of the ROM loader and of the flasher stub (esptool's documentation,
"Serial Protocol"): SLIP frames, registers, the flash commands. It has a flash in memory, the
registers from which esptool learns chip and MAC, and takes the uploaded stub for its own. It knows
nothing of timing, baud rates and the DTR and RTS lines: a pseudo-terminal has none of them.
"""

import hashlib
import os
import select
import struct
import threading
import tty
import zlib
from typing import Self

ESP32, ESP8266 = 0x00F01D83, 0xFFF0C101  # what 0x40001000 reads
FLASH_LEN = 4 << 20
_MAGIC_REGISTER = 0x40001000
_EFUSE = 0x3FF5A000
_SPI_W0 = 0x3FF42080
_END, _ESCAPE = b"\xc0", b"\xdb"


class VirtualLoader:
    """A chip on the port `name`. flash: its content. fail_write: bytes that it forgets, at 0."""

    def __init__(self, mac: str, chip: int = ESP32, flash_len: int = FLASH_LEN):
        self.flash = bytearray(b"\xff" * flash_len)
        self.written = 0  # flash writes begun
        self.stuck_at: int | None = None  # an offset whose byte cannot be changed
        self.cut_after: int | None = None  # blocks after which it falls silent, once
        raw = bytes.fromhex(mac.replace(":", ""))
        self._registers = {
            _MAGIC_REGISTER: chip,
            _EFUSE + 4: int.from_bytes(raw[2:], "big"),
            _EFUSE + 8: int.from_bytes(raw[:2], "big"),
            _SPI_W0: (flash_len.bit_length() - 1) << 16 | 0x4020,
        }
        self._stub = False
        self._at = 0
        self._inflate = zlib.decompressobj()
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self.name = os.ttyname(self._slave)
        self._stop_reader, self._stop_writer = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.write(self._stop_writer, b"x")
        self._thread.join(10)
        for handle in (self._master, self._slave, self._stop_reader, self._stop_writer):
            os.close(handle)

    def _serve(self) -> None:
        while (frame := self._receive()) is not None:
            if len(frame) >= 8 and frame[0] == 0:
                op, length = struct.unpack_from("<BH", frame, 1)
                self._answer(op, frame[8 : 8 + length])

    def _receive(self) -> bytes | None:
        """The next SLIP frame; None at the end."""
        frame: bytearray | None = None
        while True:
            ready, _, _ = select.select([self._master, self._stop_reader], [], [])
            if self._stop_reader in ready:
                return None
            for byte in os.read(self._master, 1):
                if bytes([byte]) != _END:
                    if frame is not None:
                        frame.append(byte)
                elif frame:
                    return bytes(frame).replace(b"\xdb\xdc", _END).replace(b"\xdb\xdd", _ESCAPE)
                else:
                    frame = bytearray()

    def _send(self, data: bytes) -> None:
        escaped = data.replace(_ESCAPE, b"\xdb\xdd").replace(_END, b"\xdb\xdc")
        left = memoryview(_END + escaped + _END)
        while left:
            left = left[os.write(self._master, left) :]

    def _reply(self, op: int, value: int = 0, data: bytes = b"", error: int = 0) -> None:
        status = bytes([error != 0, error]) + (b"" if self._stub else bytes(2))
        self._send(struct.pack("<BBHI", 1, op, len(data + status), value) + data + status)

    def _answer(self, op: int, data: bytes) -> None:
        if self.cut_after is not None and op == 0x11:
            self.cut_after -= 1
            if self.cut_after < 0:
                return
        if op == 0x08:  # SYNC, after a reset
            self._stub = False
            for _ in range(8):
                self._reply(op, 0x20120707)
        elif op == 0x0A:  # READ_REG
            (address,) = struct.unpack("<I", data)
            self._reply(op, self._registers.get(address, 0))
        elif op == 0x06:  # MEM_END: the stub starts
            self._reply(op)
            self._stub = True
            self._send(b"OHAI")
        elif op == 0x13:  # SPI_FLASH_MD5
            at, length = struct.unpack_from("<II", data)
            digest = hashlib.md5(self.flash[at : at + length], usedforsecurity=False)
            self._reply(op, 0, digest.digest() if self._stub else digest.hexdigest().encode())
        elif op == 0xD2:  # READ_FLASH
            self._reply(op)
            self._read_flash(*struct.unpack_from("<III", data))
        elif op in (0x02, 0x10):  # FLASH_BEGIN, FLASH_DEFL_BEGIN
            length, _, _, self._at = struct.unpack_from("<IIII", data)
            self.flash[self._at : self._at + length] = b"\xff" * length
            self._inflate = zlib.decompressobj()
            self.written += bool(length)
            self._reply(op)
        elif op in (0x03, 0x11):  # FLASH_DATA, FLASH_DEFL_DATA
            block = data[16:]
            self._write_flash(self._inflate.decompress(block) if op == 0x11 else block)
            self._reply(op)
        elif op in (0x04, 0x05, 0x07, 0x09, 0x0B, 0x0D, 0x0F, 0x12):
            self._reply(op)  # ends, RAM, registers, SPI set-up, baud rate: nothing to do
        else:
            self._reply(op, error=5)

    def _write_flash(self, data: bytes) -> None:
        end = self._at + len(data)
        self.flash[self._at : end] = data
        if self.stuck_at is not None and self._at <= self.stuck_at < end:
            self.flash[self.stuck_at] ^= 1
        self._at = end

    def _read_flash(self, at: int, length: int, block_len: int) -> None:
        content = bytes(self.flash[at : at + length])
        for start in range(0, length, block_len):
            self._send(content[start : start + block_len])
            self._receive()  # the count so far
        self._send(hashlib.md5(content, usedforsecurity=False).digest())
