"""How much heap an agent reserves at start: what the record says, or the image, if that is more."""

import shutil
from dataclasses import replace

import pytest

from host_tests.tool_helpers import RELEASE, REPO, SETTINGS
from signet.board.virtual.board import VirtualBoard
from signet.device import flash_file
from signet.image import slot_image

pytest_plugins = ["host_tests.tool_fixtures"]

# The virtual board's heap cannot grow: here the module says what it was asked for, and what the
# agent keeps of its answer is asked of the application.
RESERVE = """
def reserve(size_kb):
    print("asked for", size_kb)
    return "kept"
"""
AGENT = ("        del start\n", "        print('it was', boot.heap)\n")


@pytest.fixture(scope="module")
def payload(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    source = tmp_path_factory.mktemp("source")
    for name in ("firmware", "lib"):
        shutil.copytree(REPO / name, source / name)
    for name in ("boot.py", "main.py"):  # whose names are kept
        shutil.copy(REPO / name, source / name)
    (source / "firmware/ondemand/reserve.py").write_text(RESERVE)
    agent = source / "firmware/agent.py"
    text = agent.read_text()
    assert text.count(AGENT[0]) == 1
    agent.write_text(text.replace(AGENT[0], AGENT[1] + AGENT[0]))
    return slot_image.build_image(RELEASE, source)[4096:]


@pytest.mark.parametrize(
    ("record", "image", "asked"),
    [(None, 0, 16), (20, 0, 20), (0, 0, 0), (0, 24, 24), (20, 40, 40), (40, 20, 40), (None, 8, 16)],
)
def test_the_larger_of_record_and_image(payload, keys, tmp_path, record, image, asked):
    unsigned = slot_image.pack_descriptor(replace(RELEASE, heap=image), len(payload)) + payload
    signed = tmp_path / "signed.img"
    signed.write_bytes(slot_image.sign_image(unsigned, keys / "release.key"))
    flash = tmp_path / "board/flash.bin"
    flash.parent.mkdir()
    flash_file.provision(replace(SETTINGS, heap_kb=record), keys, signed, REPO, flash)
    with VirtualBoard(flash.parent) as board:
        board.power_on()
        board.wait_for_line(f"asked for {asked}")
        board.wait_for_line("it was kept")
