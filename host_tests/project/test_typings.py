"""The type check of the device code notices what it is there for; a stub gone missing is silent."""

import re
import subprocess
import sys
from pathlib import Path

# Right lines, and after each the wrong one that must not pass.
CODE = """\
import asyncio
import functools  # wrong: CPython's
import machine
import time
import tls
import vfs
from esp32 import Partition


async def run():
    Partition("slot_a", 4096)
    Partition("slot_a", 4096, 1)  # wrong: too many arguments
    Partition.find(0x3F, label="esp_secure_cert")
    Partition.find(0x3F, name="esp_secure_cert")  # wrong: argument's name
    Partition("slot_a").readblocks(0, memoryview(bytearray(4096)), 96)
    Partition("slot_a").read_blocks(0, bytearray(4096))  # wrong: method's name
    Partition("slot_a").ioctl(6, 0)
    Partition("slot_a").ioctl(6)  # wrong: too few arguments
    machine.WDT(timeout=30000).feed()
    machine.WDT(timeout_ms=30000)  # wrong: argument's name
    machine.reset_cause()
    machine.restart()  # wrong: function's name
    time.sleep_ms(1)
    time.monotonic()  # wrong: CPython's
    b"".hex()
    b"".removeprefix(b"a", b"b")  # wrong: too many arguments
    context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    context.check_hostname = True  # wrong: CPython's
    vfs.VfsLfs2(Partition("vfs"), readsize=256)
    vfs.VfsLfs2(Partition("vfs"), read_size=256)  # wrong: argument's name
    stream, _ = await asyncio.open_connection("localhost", 1)
    await stream.readinto(bytearray(1))
    await stream.readuntil()  # wrong: CPython's
    asyncio.Lock()
    asyncio.Queue()  # wrong: CPython's
"""


def test_wrong_lines_are_noticed_and_right_ones_are_not(repo: Path, tmp_path: Path) -> None:
    source = tmp_path / "sample.py"
    source.write_text(CODE)
    command = [sys.executable, "-m", "mypy", "--config-file", "typings/mypy.ini", str(source)]
    printed = subprocess.run(command, cwd=repo, capture_output=True, text=True).stdout
    lines = CODE.splitlines()
    noticed = {int(number) for number in re.findall(r"sample\.py:(\d+): error", printed)}
    wrong = {number for number, line in enumerate(lines, 1) if "# wrong" in line}
    assert [lines[n - 1] for n in wrong - noticed] == []
    assert [lines[n - 1] for n in noticed - wrong] == []
