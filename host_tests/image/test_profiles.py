"""Profiles of images, and the debug code that only a dev image holds."""

import ast
from collections import Counter
from dataclasses import replace

import pytest

from host_tests.tool_helpers import RELEASE, REPO
from signet.errors import RefusedError, SignetError
from signet.formats import signing
from signet.image import mpy, slot_image
from trust.identity import PROFILES
from trust.image import Descriptor

pytest_plugins = ["host_tests.tool_fixtures"]

SWITCH = "from micropython import const\n_DEBUG = const(False)\n"


def debug_strings() -> set[bytes]:
    """What the device's modules would print in a dev image, up to the first value."""
    found = set()
    for path in mpy.python_files(REPO, ("firmware", "lib")).values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and "signet: debug: " in str(node.value):
                found.add(str(node.value).partition("%")[0].encode())
    return found


def test_only_a_dev_image_holds_debug_code(tmp_path):
    images = {
        profile: slot_image.build_image(replace(RELEASE, profile=profile), REPO)
        for profile in PROFILES
    }
    assert [Descriptor(content).profile for content in images.values()] == [0, 1, 2]
    assert images["production"][4096:] == images["sealed"][4096:]
    wanted = debug_strings()
    assert len(wanted) >= 3
    for profile, content in images.items():
        sources = slot_image.slot_sources(REPO)
        code = b"".join(mpy.compile_sources(sources, debug=profile == "dev").values())
        for found in (content, code):
            assert (b"signet: debug" in found, b"_DEBUG" in found) == (profile == "dev", False)
        assert {text for text in wanted if text in code} == (wanted if profile == "dev" else set())
        # The traces and Ctrl-C of a dev image, too.
        for name in (b"print_exception", b"kbd_intr"):
            assert (name in code) == (profile == "dev")


SWITCHES = {
    "left on": "_DEBUG = const(True)\n",
    "not folded": "_DEBUG = False\n",
    "spaced": "_DEBUG  = const(False)\n",
    "with a comment": "_DEBUG = const(False)  # off\n",
    "indented": "if True:\n    _DEBUG = const(False)\n",
    "imported": "from firmware.log import _DEBUG\n",
    "another condition": SWITCH + "if _DEBUG or True:\n    pass\n",
    "the other way round": SWITCH + "if not _DEBUG:\n    pass\n",
    "set again": SWITCH + "_DEBUG = 1\n",
    "no switch": "def f():\n    if _DEBUG:\n        pass\n",
}


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("name", SWITCHES)
def test_another_debug_switch_is_refused(tmp_path, name, debug):
    path = tmp_path / "module.py"
    path.write_text(SWITCHES[name])
    with pytest.raises(SignetError, match="debug code is switched by the line") as failure:
        mpy.compile_sources({"module.py": path}, debug)
    assert str(path) in str(failure.value)


def test_the_debug_switch_works(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(SWITCH + "if _DEBUG:\n    print('a rare word')\n")
    found = [mpy.compile_sources({"module.py": path}, debug) for debug in (False, True)]
    assert [b"a rare word" in files["module.mpy"] for files in found] == [False, True]


def test_device_code_prints_in_three_levels():
    """`signet: …`, `signet: error: …`, and in a dev image `signet: debug: …`."""
    sources = mpy.python_files(REPO, ("firmware", "lib")) | {
        name: REPO / name for name in ("boot.py", "main.py")
    }
    levels: Counter[str] = Counter()
    for name, path in sources.items():
        tree = ast.parse(path.read_text())
        in_debug = {
            inner
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "_DEBUG"
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or ast.unparse(node.func) != "print":
                continue
            parts = [part for part in ast.walk(node.args[0]) if isinstance(part, ast.Constant)]
            text = str(parts[0].value)
            assert text.startswith("signet:"), f"{name}: {text}"
            assert ("signet: debug: " in text) == (node in in_debug), f"{name}: {text}"
            level = text.removeprefix("signet:").lstrip().partition(":")[0]
            levels[level if level in ("error", "debug") else "info"] += 1
    assert min(levels.values()) >= 3
    assert len(levels) == 3


def test_a_profile_is_one_of_three(project):
    with pytest.raises(SignetError, match="profile 'debug', expected one of dev, production, sea"):
        slot_image.build_image(replace(RELEASE, profile="debug"), project)


def test_a_board_takes_no_image_below_its_profile(keys, project):
    digests = [signing.key_digest(keys / "release.pub")]
    signed = slot_image.sign_image(
        slot_image.build_image(replace(RELEASE, profile="dev"), project), keys / "release.key"
    )
    assert slot_image.verify_image(signed, digests).profile == 0
    for profile in ("production", "sealed"):
        with pytest.raises(RefusedError, match=f"dev image, this is a {profile} board"):
            slot_image.verify_image(signed, digests, profile=profile)
