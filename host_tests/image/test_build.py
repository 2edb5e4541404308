"""signet.image: slot images, against tools and readers of other people."""

import hashlib
import os
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from host_tests.tool_helpers import RELEASE, REPO
from signet import run
from signet.errors import RefusedError, SignetError
from signet.image import mpy, slot_image

pytest_plugins = ["host_tests.tool_fixtures"]

PACKED = {
    "/firmware/agent.mpy",
    "/firmware/app.mpy",
    "/mqtt/codec.mpy",
    "/mtls.mpy",
}
SLOT_LEN = 0x40000

# As stage 1 mounts a slot (main.py), and as a build that has VfsRom and maps its flash does.
MOUNT = """
import os, sys, vfs
from hashlib import sha256
path, size, library, native = sys.argv[1:]
sys.path[:] = (library, ".frozen")
from romfs import Archive, Blocks
from romfs.files import in_place
class Mapped(bytearray):
    def readblocks(self, number, buffer, offset=0):
        start = number * 4096 + offset
        buffer[:] = self[start : start + len(buffer)]
device = Blocks(path)
if native:
    with open(path, "rb") as file:
        device = Mapped(file.read())
slot = in_place(Archive(device, 4096, int(size)), vfs.VfsRom)
print(type(slot).__name__)
vfs.mount(slot, "/slot", readonly=True)
sys.path[:] = ("/slot", ".frozen")
def show(folder):
    for entry in os.ilistdir(folder):
        path = folder + "/" + entry[0]
        if entry[1] == 0x4000:
            show(path)
        else:
            file, buffer, hasher = open(path, "rb"), bytearray(100), sha256()
            while got := file.readinto(buffer):  # as an import does
                hasher.update(memoryview(buffer)[:got])
            print(path, hasher.digest().hex())
show("/slot")
from firmware import agent
import mtls
from mqtt import codec
print(agent.GREETING, mtls.VERSION, len(codec.TABLE))
"""


def test_the_same_source_gives_the_same_bytes(project, unsigned):
    assert slot_image.build_image(RELEASE, project) == unsigned


def test_another_folder_and_other_times_give_the_same_bytes(project, unsigned, tmp_path):
    copy = tmp_path / "elsewhere" / "with a space"
    for number, path in enumerate(sorted(project.rglob("*"), reverse=True)):
        target = copy / path.relative_to(project)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            shutil.copyfile(path, target)
            os.utime(target, (number * 1000, number * 7919))
    assert slot_image.build_image(RELEASE, copy) == unsigned


def test_other_source_gives_other_bytes(project, unsigned, tmp_path):
    app = tmp_path / "app.py"
    app.write_text("def run():\n    return 'appl'\n")
    assert slot_image.build_image(RELEASE, project, app) != unsigned


def test_no_path_of_this_machine_is_in_an_image(project, unsigned):
    assert b"firmware.agent" in unsigned
    for leak in (str(project), str(REPO), str(Path.home()), "/tmp"):
        assert leak.encode() not in unsigned


def test_an_image_holds_what_stage_1_does_not(unsigned):
    assert set(slot_image.inspect_image(unsigned).files) == PACKED


def test_the_project_itself_builds():
    content = slot_image.build_image(RELEASE, REPO)
    found = slot_image.inspect_image(content).files
    assert "/firmware/app.mpy" in found
    # What verifies a slot does not come out of it, though the agent imports it.
    assert not any(path.startswith(("/trust", "/romfs")) for path in found)
    assert len(content) + 4096 <= SLOT_LEN


def test_app_takes_the_place_of_the_application(project, unsigned, tmp_path):
    app = tmp_path / "crash.py"
    app.write_text("raise RuntimeError('crashes at start')\n")
    content = slot_image.build_image(RELEASE, project, app)
    assert b"crashes at start" in content
    assert b"crash.py" not in content
    assert set(slot_image.inspect_image(content).files) == PACKED


def test_the_descriptor_is_the_documented_struct(unsigned):
    fields = struct.unpack_from("<8sHHIIIQ32s32sI", unsigned)
    assert fields[:7] == (
        *(b"SGNTSLOT", 2, 1),
        *(len(unsigned) - 4096, 1, 1 << 16 | 25 << 8, 1_700_000_000),
    )
    assert fields[7].rstrip(b"\0") == b"1.0.0"
    assert fields[8].rstrip(b"\0") == b"signet-demo"
    assert fields[9] == 0
    assert set(unsigned[100:4096]) == {0xFF}
    unsigned = slot_image.pack_descriptor(replace(RELEASE, heap=32), 4096)
    assert unsigned[96:101] == b"\x20\0\0\0\xff"


@pytest.mark.parametrize(("native", "kind"), [("", "Archive"), ("native", "VfsRom")])
def test_micropython_mounts_the_payload_and_runs_from_it(
    micropython, project, tmp_path, native, kind
):
    unsigned = slot_image.build_image(replace(RELEASE, profile="dev"), project)  # names as they are
    (tmp_path / "slot.img").write_bytes(unsigned)
    (tmp_path / "mount.py").write_text(MOUNT)
    done = subprocess.run(
        [micropython, tmp_path / "mount.py", tmp_path / "slot.img", str(len(unsigned) - 4096),
         REPO / "lib", native],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    found, *listed, greeting = done.stdout.splitlines()
    assert found == kind
    compiled = mpy.compile_sources(slot_image.slot_sources(project))
    expected = {
        f"/slot/{name.removeprefix('lib/')} {hashlib.sha256(code).hexdigest()}"
        for name, code in compiled.items()
    }
    assert set(listed) == expected
    assert greeting == "hello from the slot 3 20"


@pytest.mark.parametrize(
    ("fields", "reason"),
    {
        "no version": ({"version": ""}, "version ''"),
        "long version": ({"version": "1" * 32}, "version"),
        "version with a space": ({"version": "1 0"}, "version"),
        "version not ASCII": ({"version": "1.0é"}, "version"),
        "version with a newline": ({"version": "1.0\n"}, "version"),
        "model": ({"model": "Demo"}, "model 'Demo'"),
        "model with a slash": ({"model": "../demo"}, "model"),
        "negative counter": ({"counter": -1}, "security counter -1, expected 0 to 4294967295"),
        "large counter": ({"counter": 1 << 32}, "security counter"),
        "platform": ({"platform": (1, 256, 0)}, "platform version 256"),
        "build time": ({"build_time": 1 << 32}, "build time"),
        "build time in the future": ({"build_time": 0xFFFF_FFFF}, "build time .* ahead of now"),
    }.values(),
)
def test_a_wrong_field_is_refused(project, fields, reason):
    with pytest.raises(SignetError, match=reason):
        slot_image.build_image(replace(RELEASE, **fields), project)


def test_what_does_not_fit_into_a_slot_is_refused_with_sizes(project, tmp_path):
    app = tmp_path / "app.py"
    app.write_bytes(b"DATA = b'" + b"0123456789abcdef" * 0x4000 + b"'\n")
    with pytest.raises(RefusedError, match=r"270336 bytes of files .* room for 253952$"):
        slot_image.build_image(RELEASE, project, app)


def test_an_image_may_fill_its_slot(project, tmp_path):
    app = tmp_path / "app.py"
    app.write_bytes(b"DATA = b'" + b"x" * 247_000 + b"'\n")
    assert len(slot_image.build_image(RELEASE, project, app)) == SLOT_LEN - 4096


def test_a_file_that_does_not_compile_is_named_with_its_line(project, tmp_path):
    app = tmp_path / "app.py"
    app.write_text("x = 1\ndef run(:\n")
    with pytest.raises(SignetError, match=r"app\.py: does not compile: .*line 2.*SyntaxError"):
        slot_image.build_image(RELEASE, project, app)


def test_a_second_build_compiles_what_changed(project, tmp_path, monkeypatch):
    app = tmp_path / "app.py"
    app.write_text("x = 1\n")
    first = slot_image.build(RELEASE, project, app)
    compiled = []

    def run_program(*arguments, **options):
        compiled.append(arguments[3])
        return run.run_program(*arguments, **options)

    monkeypatch.setattr(mpy, "run_program", run_program)
    app.write_text("x = 2\n")
    second = slot_image.build(RELEASE, project, app)
    assert compiled == ["firmware.app"]
    changed = {name for name in first.files if first.files[name] != second.files[name]}
    assert changed == {"firmware/app.mpy"}


def test_a_folder_without_firmware_is_refused(tmp_path):
    with pytest.raises(SignetError, match="no Python files"):
        slot_image.build_image(RELEASE, tmp_path)


def test_what_nothing_imports_or_names_stays_out(project, tmp_path):
    source = tmp_path / "project"
    shutil.copytree(project, source)
    for name in ("unused", "used", "deep/inner", "deep/other", "named"):
        path = source / f"lib/{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    (source / "lib/deep/__init__.py").write_text("")
    (source / "lib/used.py").write_text("def later():\n    from deep import inner\n")
    app = tmp_path / "app.py"
    app.write_text("import used\n\ndef run():\n    __import__('named')\n")
    found = set(slot_image.inspect_image(slot_image.build_image(RELEASE, source, app)).files)
    assert found - PACKED == {"/used.mpy", "/deep/__init__.mpy", "/deep/inner.mpy", "/named.mpy"}


def test_data_are_files_that_nobody_runs(project, tmp_path):
    (tmp_path / "data/deep").mkdir(parents=True)
    (tmp_path / "data/deep/table.bin").write_bytes(b"1234")
    (tmp_path / "data/.hidden").write_bytes(b"")
    found = slot_image.inspect_image(
        slot_image.build_image(RELEASE, project, data=tmp_path / "data")
    ).files
    assert set(found) - PACKED == {"/data/deep/table.bin"}
    for name in ("driver.py", "deep/driver.mpy"):
        (tmp_path / "data" / name).write_text("")
        with pytest.raises(SignetError, match=f"{name}: a program is no data"):
            slot_image.build_image(RELEASE, project, data=tmp_path / "data")
        (tmp_path / "data" / name).unlink()
