"""From power-on to the first script: main.c, _boot.py and flashbdev.py of the ESP32 port.

Settings (JSON in $VBOARD):
  flash, rtc     paths; chip.py says what is in them
  cause, wake    reset cause, 1 to 5; what ended a deep sleep, else 0
  app            address of the partition that the boot loader started
  mac            unique id, 12 hex digits
  control        optional path; two bytes, "1" or "0": the radio link; the heap is asked for,
                 which the board answers in the log and takes back
  cut_at, torn   optional: cut the power at this flash operation of this boot, counted from 1,
                 after this many of its bytes
  ops            optional path: log of the flash operations
  heap           optional path: log of the heap in use
  idf_heaps      {capability: heaps}, what esp32.idf_heap_info tells
Beside the flash may lie a file `efuses`: "address word" a line, both hexadecimal. And a file `air`:
a line for Ethernet (lan.py), then for each access point its name, a tab, and its passphrase.
This module is done, and gone from the heap, when the first script starts.
"""

import json
import os
import struct
import sys
import time

import chip
import esp32  # the shims must be in sys.modules before the host's files go
import ffi
import machine  # noqa: F401
import network  # noqa: F401
import uart
import vfs
from micropython import const

_CAUSE_SOFT = const(5)
_PR_SET_PDEATHSIG = const(1)
_SIGKILL = const(9)


def run():
    """Start the chip and mount its file system as "/"."""
    settings = json.loads(os.getenv("VBOARD"))
    try:  # let no board live on when the program that runs it is killed
        ffi.open(None).func("i", b"prctl", "iP")(_PR_SET_PDEATHSIG, _SIGKILL)
    except OSError:  # not Linux
        pass
    chip.app = settings["app"]
    chip.cause = settings["cause"]
    chip.wake = settings["wake"]
    chip.mac = bytes.fromhex(settings["mac"])
    chip.flash = open(settings["flash"], "r+b")  # noqa: SIM115
    chip.rtc = open(settings["rtc"], "r+b")  # noqa: SIM115
    try:
        for line in open(settings["flash"].replace("flash.bin", "efuses")):  # noqa: SIM115
            address, word = line.split()
            chip.efuses[int(address, 16)] = int(word, 16)
    except OSError:  # no such file: a chip as it leaves the factory
        pass
    try:
        chip.air = open(settings["flash"].replace("flash.bin", "air"), "rb")  # noqa: SIM115
    except OSError:  # everything that is asked for
        pass
    if settings.get("control"):
        chip.control = open(settings["control"], "r+b")  # noqa: SIM115
    if settings.get("cut_at") or settings.get("ops") or settings.get("heap"):
        import watch

        watch.start(settings, chip, time.ticks_ms)
        chip.watch = watch
        if settings.get("heap"):
            time.ticks_ms = watch.ticks_ms  # every event loop asks for the ticks
    chip.origin_ns, _, left_ms = struct.unpack("<qII", chip.rtc.read(16))
    if chip.cause == _CAUSE_SOFT and left_ms:  # a watchdog survives a soft reset
        chip.arm_watchdog(left_ms)
    uart.start()
    del uart.start  # done once, and on the chip it takes no heap
    for name in ("power_on", "scripts", "chip", "uart", "watch"):  # a chip has no such modules
        sys.modules.pop(name, None)
    sys.argv.clear()
    sys.path[:] = ("", ".frozen", "/lib")
    vfs.umount("/")
    found = esp32.Partition.find(esp32.Partition.TYPE_DATA, label="vfs")
    try:
        if found:
            vfs.mount(found[0], "/")
    except OSError:
        chip.import_rom("inisetup").setup(found[0])
