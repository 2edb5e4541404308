"""Fixtures for the tests of `signet device`, `burn` too; they need tool_fixtures."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from host_tests.provisioning.bench import Bench as RunBench
from host_tests.provisioning.burn_bench import MAC, NAMES, Bench, blank_chip, flash_image
from host_tests.tool_helpers import Signet, run_program


@pytest.fixture
def bench(tmp_path, keys, project, signed_file):
    return RunBench(tmp_path, keys, project, signed_file)


@pytest.fixture(scope="session")
def flashes(keys: Path) -> dict[str, bytes]:
    return {chip: flash_image(chip, keys / "release.key") for chip in NAMES}


@pytest.fixture(scope="session")
def plans(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Path:
    """A folder with plan and flash key for each chip, made by the program."""
    folder = tmp_path_factory.mktemp("plans")
    for chip in NAMES:
        done = run_program(
            "signet", "device", "burn", "plan", "--chip", chip, "--mac", MAC,
            "--release-pub", keys / "release.pub", "--flash-key", folder / f"{chip}.key",
            "-o", folder / f"{chip}.json",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def bench_of(
    tmp_path: Path, signet: Signet, keys: Path, flashes: dict[str, bytes], plans: Path
) -> Callable[[str], Bench]:
    def make(chip: str) -> Bench:
        folder = tmp_path / "bench"
        folder.mkdir()
        made = Bench(
            chip, signet, keys / "release.pub",
            *(folder / name for name in ("plan.json", "flash.key", "efuses.bin", "flash.bin")),
        )  # fmt: skip
        made.flash.write_bytes(flashes[chip])
        blank_chip(made.efuses, chip)
        shutil.copy(plans / f"{chip}.json", made.plan)
        shutil.copy(plans / f"{chip}.key", made.key)
        return made

    return make
