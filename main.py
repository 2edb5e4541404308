"""Stage 1, wired to the board: verify a slot, mount it read-only, run its agent."""

import sys
import time

import machine
import vfs
from esp32 import Partition

from romfs import Archive, Blocks


def run():
    """Boot the best slot; True if the console is to open, of every other return a restart.

    The port then runs this file as a script before the REPL begins: that must do nothing.
    """
    rtc = machine.RTC()
    if rtc.memory() == b"console":  # firmware/ondemand/service.py has accepted a token
        rtc.memory(b"0 console was open")  # before it opens: the next reset shuts it again
        return True
    global _mount_slot
    boot, watchdog = _mount_slot()
    _mount_slot = None  # on a stock build its code is in the heap, which the agent needs
    # No "" and no "/lib": what a slot imports comes out of the slot, or of stage 1's own packages.
    sys.path[:] = ("/slot", ".frozen")
    from firmware.ondemand import unload

    unload()  # the verifier, before the agent needs its memory
    from firmware import agent

    return agent.run(boot, watchdog) and not boot.profile  # Ctrl-C, in a dev image


def _mount_slot():
    """Verify a slot and mount it; a function, so that the verifier can be dropped after it."""
    if "/lib" in sys.path:  # a stock build; a sealed one has the verifier frozen
        blocks = Blocks("/stage1.romfs")  # one file, as to look for seven takes littlefs a while
        vfs.mount(Archive(blocks, 0, blocks.length), "/stage1", readonly=True)
        sys.path.insert(0, "/stage1")
    from trust import TrustError
    from trust.boot import select
    from trust.state import BootState

    # 0x3F is esp_secure_cert's own partition type.
    identity = Partition.find(0x3F, label="esp_secure_cert")
    if not identity:
        raise TrustError("no esp_secure_cert partition in the partition table")
    boot, length = select(
        identity[0],
        BootState(Partition("bootstate")),
        (Partition("slot_a"), Partition("slot_b")),
        sys.implementation.version,
    )
    print("signet: slot %s verified: %s" % ("ab"[boot.running], boot.version))
    watchdog = machine.WDT(timeout=boot.record["watchdog_s"] * 1000)
    slot = Archive(boot.slots[boot.running], 4096, length)
    if hasattr(vfs, "VfsRom"):
        from romfs.files import in_place

        slot = in_place(slot, vfs.VfsRom)
    vfs.mount(slot, "/slot", readonly=True)
    return boot, watchdog


def note_failure(error):
    """Keep the reason over the restart, for the agent to report; then slow a crash loop."""
    restarts = machine.RTC().memory().split(b" ", 1)[0]
    reason = "%s: %s" % (type(error).__name__, error)
    machine.RTC().memory(restarts + b" " + reason[:200].encode())
    # Without a slot to run there is nobody to be quick for.
    trust = sys.modules.get("trust")
    time.sleep(5 if trust and isinstance(error, trust.TrustError) else 1)
