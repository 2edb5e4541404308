"""`signet build`, as its user meets it: what it prints, writes and refuses."""

import re
from pathlib import Path

import pytest

from host_tests.tool_helpers import Signet, snapshot
from signet.image import slot_image

pytest_plugins = ["host_tests.tool_fixtures"]

APP = "import lamp\n\nasync def run(device):\n    await device.sleep(lamp.RED)\n"
MANIFEST = """\
[project]
name = "lamp"
model = "lamp-2"
hardware = "B"
version = "1.2.0"
counter = 3
micropython = "1.25.0"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project."""
    folder = tmp_path / "lamp"
    (folder / "lib").mkdir(parents=True)
    (folder / "app.py").write_text(APP)
    (folder / "lib/lamp.py").write_text("RED = 1\n")
    (folder / "signet.toml").write_text(MANIFEST)
    return folder


def test_in_the_folder_of_a_project(signet: Signet, folder: Path):
    with (folder / "signet.toml").open("a") as file:
        file.write("[budget]\nimage_kb = 80\nheap_kb = 12\n")
    done = signet("build", cwd=folder, SOURCE_DATE_EPOCH="1700000000")
    assert (done.returncode, done.stderr) == (0, "")
    first, second, image, application, *rooms, left = done.stdout.splitlines()
    assert first == "build/lamp-1.2.0.img: unsigned"
    assert second == "  1.2.0 for lamp-2, production, counter 3"
    content = (folder / "build/lamp-1.2.0.img").read_bytes()
    size_kb = (len(content) + 4096) / 1024
    assert image == f"  the image takes {size_kb:.1f} KB, signed"
    taken = re.match(r"  the application takes (\d+\.\d) KB of heap: code ", application)
    assert taken
    assert [line.split(",")[0] for line in rooms] == [
        "  MicroPython 1.25.0",
        "  MicroPython 1.26.0",
    ]
    said = re.fullmatch(
        r"  budget: (\d+\.\d) of 80 KB left for the image, (\d+\.\d) of 12 KB left on the heap",
        left,
    )
    assert said
    assert float(said[1]) == 80 - size_kb
    assert abs(float(said[2]) + float(taken[1]) - 12) < 0.11
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert "/lamp.mpy" in slot_image.inspect_image(content).files
    assert (folder / "build/lamp-1.2.0.img.symbols").is_file()


def test_signed_from_elsewhere(signet: Signet, folder: Path, keys: Path, tmp_path: Path):
    done = signet("build", "lamp", "--key", keys / "release.key", "-o", "out.img")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("out.img: signed by key\n  ")
    verified = signet("image", "verify", "out.img", "--key", keys / "release.pub")
    assert verified.stdout == "out.img: verified: 1.2.0 for lamp-2, production, counter 3\n"
    assert not (folder / "build").exists()
    # A report of the board is read with the map beside it, as with that of an unsigned one.
    assert signet("image", "symbols", "out.img.symbols", "well").stdout == "well\n"


@pytest.mark.parametrize(
    ("manifest", "options", "code", "reason"),
    [
        pytest.param("", (), 2, "signet.toml: project is missing", id="no project"),
        pytest.param(MANIFEST + "[budget]\nimage_kb = 50\n", (), 1,
                     "signet.toml: budget.image_kb is 50, and the build takes 7", id="budget"),
        pytest.param(MANIFEST, ("--key", "app.py"), 2, "app.py: not an unencr", id="no key"),
        pytest.param(MANIFEST, ("-o", "app.py"), 1, "app.py: exists and is a file", id="another"),
        pytest.param(MANIFEST, ("-o", "no/x"), 2, "no/x.symbols: cannot write", id="no folder"),
    ],
)  # fmt: skip
def test_what_is_refused_leaves_nothing(signet, folder, manifest, options, code, reason):
    (folder / "signet.toml").write_text(manifest)
    before = snapshot(folder)
    done = signet("build", *options, cwd=folder)
    assert (done.returncode, done.stdout) == (code, "")
    assert reason in done.stderr
    assert snapshot(folder) == before
    assert sorted(path.name for path in folder.iterdir()) == ["app.py", "lib", "signet.toml"]


def test_a_folder_that_is_a_file(signet: Signet, folder: Path):
    (folder / "build").write_text("")
    done = signet("build", cwd=folder)
    assert done.returncode == 2
    assert "build: cannot make the folder: File exists" in done.stderr
