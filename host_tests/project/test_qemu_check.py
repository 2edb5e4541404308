"""`make qemu-check`, as far as it goes without an emulator, and what `make bench` prints of it."""

import os
import subprocess
import sys

import pytest

from bench import application, qemu_check
from bench.application import Size
from host_tests.tool_helpers import REPO
from signet.board.measure.figures import Row, Run
from signet.errors import SignetError
from signet.image import mpy, slot_image
from signet.project.manifest import Heap, read_manifest


def run(*args: str, path: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench.qemu_check", *args],
        capture_output=True, text=True, check=False, cwd=REPO,
        env=os.environ | {"PYTHONPATH": "tools", "PATH": path},
    )  # fmt: skip


def test_without_an_emulator_it_says_what_is_missing(tmp_path):
    image = tmp_path / "micropython.bin"
    image.touch()
    done = run(str(image), path=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("qemu-check: error: qemu-system-xtensa: not installed")
    assert "qemu-check: hint: it takes a QEMU with the machine esp32" in done.stderr
    done = run(str(image), "--app", "data=16", path=str(tmp_path))
    assert done.returncode == 2
    assert "application 'data=16', expected the form data=16,mpy=6" in done.stderr
    assert run().returncode == run(str(tmp_path / "none.bin")).returncode == 2


@pytest.mark.parametrize("size", [Size(0, 0), Size(16, 6), Size(32, 8)])
def test_an_application_has_the_size_that_was_asked_for(tmp_path, size):
    path = tmp_path / "app.py"
    path.write_text(application.make_source(size))
    assert path.read_text() == application.make_source(size)
    (code,) = mpy.compile_sources({"firmware/app.py": path}).values()
    least = max(size.mpy_kb * 1024, 200)
    assert least <= len(code) < least + 1024
    names = {"__name__": "app"}
    exec(path.read_text(), names)  # what is loaded runs without an error
    assert {"run", "self_test"} < names.keys()


def test_sizes_are_read():
    assert application.parse_size("data=16,mpy=6") == Size(16, 6)
    assert application.parse_size("data=16,mpy=6,reserve=32") == Size(16, 6, 32)
    assert str(Size(16, 6)) == "16 KB of data and 6 KB of .mpy"
    after = ("x=1", "reserve=")
    wrong = ["", "data=16", "mpy=6,data=16", "data=-1,mpy=6"]
    for text in (*wrong, *(f"data=16,mpy=6,{more}" for more in after)):
        with pytest.raises(SignetError, match="expected the form"):
            application.parse_size(text)


def test_an_application_says_what_it_needs_and_the_build_checks_it(tmp_path, monkeypatch):
    small, chosen, large = (tmp_path / name for name in ("small", "chosen", "large"))
    for folder in (small, chosen, large):
        folder.mkdir()
    application.write(Size(2, 1), small)
    assert read_manifest(small / "signet.toml").heap == Heap(16, 2)
    application.write(Size(2, 1, 20), chosen)
    assert read_manifest(chosen / "signet.toml").heap == Heap(20, 2)
    application.write(Size(90, 1), large)
    assert read_manifest(large / "signet.toml").heap == Heap(48, 90)
    monkeypatch.chdir(REPO)
    (tmp_path / "pki").mkdir()
    bench = qemu_check.Bench(tmp_path / "pki", Size(2, 1, 20), "wifi")
    for path in (bench.first, bench.update, bench.bad):
        assert slot_image.inspect_image(path.read_bytes()).descriptor.heap == 20
    with pytest.raises(SignetError, match=r"image build: .* which does not fit"):
        qemu_check.Bench(large, Size(90, 1), "wifi")


def test_a_verdict_says_what_is_wrong():
    run = Run("board", True, "2026-01-01")
    for free in (40_000, 24_000, 50_000):
        run.rows.append(Row("step", 1, {"idf_free": free}))
    run.rows.append(Row("order", 1))
    assert qemu_check.verdict(run, None) is None
    assert qemu_check.verdict(run, 23) is None
    assert qemu_check.verdict(run, 24) == (
        "the IDF had 24,000 bytes left at a step, expected 24 KB"
    )
    run.failure = "order: no report"
    assert qemu_check.verdict(run, 23) == "order: no report"
