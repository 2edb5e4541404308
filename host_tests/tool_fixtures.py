"""Fixtures for the tests of the tools: a small project, a fleet's keys, a signed image.

A plugin, so that the keys are made once a session: `pytest_plugins = ["host_tests.tool_fixtures"]`.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from host_tests.tool_helpers import RELEASE, REPO, Signet
from signet.image import slot_image
from signet.pki import authority

_FIRMWARE = {
    "firmware/agent.py": "import mtls, mqtt.codec\nGREETING = 'hello from the slot'\n",
    "firmware/app.py": "def run():\n    return 'app'\n",
    "firmware/board/manifest.py": "raise SystemExit('never packed')\n",
    "lib/mtls.py": "VERSION = 3\n",
    "lib/mqtt/codec.py": f"TABLE = {tuple(f'{n:0300}' for n in range(20))}\n",
}


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder: the repository's stage 1 and flash map, and a little firmware."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("boot.py", "main.py", slot_image.LAYOUT):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, folder / name)
    for name in ("lib/romfs", "lib/trust"):
        shutil.copytree(REPO / name, folder / name)
    for name, text in _FIRMWARE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet's PKI folder."""
    folder = tmp_path_factory.mktemp("fleet") / "pki"
    authority.init_pki(folder, ["localhost", "127.0.0.1"])
    return folder


@pytest.fixture(scope="session")
def unsigned(project: Path) -> bytes:
    """An unsigned image, RELEASE of the project."""
    return slot_image.build_image(RELEASE, project)


@pytest.fixture(scope="session")
def signed(unsigned: bytes, keys: Path) -> bytes:
    """The same, signed with the fleet's release key."""
    return slot_image.sign_image(unsigned, keys / "release.key")


@pytest.fixture
def signed_file(signed: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "signed.img"
    path.write_bytes(signed)
    return path


@pytest.fixture
def signet(tmp_path: Path) -> Signet:
    """Runs the program `signet` and returns its exit code, stdout and stderr.

    Its temporary folder is `temp` in tmp_path; a test can look for what was left there.
    """
    (tmp_path / "temp").mkdir()

    def run(
        *args: str | Path, cwd: Path = tmp_path, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "signet", *map(str, args)],
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd,
            env=os.environ | {"TMPDIR": str(tmp_path / "temp")} | environment,
        )

    return run
