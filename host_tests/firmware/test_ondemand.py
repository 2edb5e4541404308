"""What `unload` drops, under MicroPython: all that lies in its places, and nothing else."""

import os
import shutil
import subprocess
from pathlib import Path

SCRIPT = """
import sys
import trust.boot, trust.image, mqtt.client, mqtt.connect, firmware.supervisor
import firmware.ondemand.install, firmware.ondemand.newcomer
from firmware.ondemand import unload

unload()
print(sorted(name for name in sys.modules if name.split(".")[0] in ("trust", "mqtt", "firmware")))
print([name for name in ("image", "state", "payload") if hasattr(trust, name)])
print(hasattr(firmware.ondemand, "newcomer"), hasattr(mqtt, "connect"))
from trust import image
print(image.BLOCK_LEN)
"""


def test_unload_needs_no_list(micropython: Path, repo: Path, tmp_path: Path) -> None:
    shutil.copytree(repo / "firmware", tmp_path / "firmware")
    Path(tmp_path, "firmware/ondemand/newcomer.py").write_text("import mqtt.codec\n")
    script = tmp_path / "script.py"  # a file's folder comes first in sys.path
    script.write_text(SCRIPT)
    environment = {**os.environ, "MICROPYPATH": f"{repo / 'lib'}:.frozen"}
    said = subprocess.run(
        [micropython, script], env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert said == [
        "['firmware', 'firmware.ondemand', 'firmware.supervisor', 'mqtt', 'mqtt.client',"
        " 'mqtt.codec', 'mqtt.link', 'trust']",
        "[]",
        "False False",
        "4096",
    ]
