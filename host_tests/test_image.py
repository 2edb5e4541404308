"""signet.image, signing and filesystem: slot images, against tools and readers of other people."""

import ast
import hashlib
import os
import shutil
import struct
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from host_tests.tool_helpers import RELEASE, REPO, run_program, snapshot
from signet import run
from signet.errors import RefusedError, SignetError
from signet.formats import filesystem, signing
from signet.image import mpy, slot_image
from trust.identity import PROFILES
from trust.image import Descriptor

pytest_plugins = ["host_tests.tool_fixtures"]

PACKED = {
    "/firmware/agent.mpy",
    "/firmware/app.mpy",
    "/lib/mqtt/codec.mpy",
    "/lib/mtls.mpy",
}
SLOT_LEN = 0x60000

# As stage 1 mounts a slot (main.py): the payload alone, with large reads.
MOUNT = """
import os, sys, vfs
from hashlib import sha256
class Payload:
    def __init__(self, path, size):
        self.file, self.count = open(path, "rb"), size // 4096
    def readblocks(self, number, buffer, offset=0):
        if number >= self.count:
            raise OSError(5)
        self.file.seek((number + 1) * 4096 + offset)
        self.file.readinto(buffer)
    def ioctl(self, operation, argument):
        return {4: self.count, 5: 4096}.get(operation, 0)
payload = Payload(sys.argv[1], int(sys.argv[2]))
vfs.mount(vfs.VfsLfs2(payload, readsize=256, progsize=256), "/slot", readonly=True)
sys.path[:] = ("/slot", "/slot/lib", ".frozen")
def show(folder):
    for entry in os.ilistdir(folder):
        path = folder + "/" + entry[0]
        if entry[1] == 0x4000:
            show(path)
        else:
            with open(path, "rb") as file:
                print(path, sha256(file.read()).digest().hex())
show("/slot")
from firmware import agent
import mtls
from mqtt import codec
print(agent.GREETING, mtls.VERSION, len(codec.TABLE))
"""


@pytest.fixture(scope="session")
def other_key(tmp_path_factory):
    """An RSA-3072 key of somebody else."""
    path = tmp_path_factory.mktemp("other") / "other.key"
    write_key(path, rsa.generate_private_key(65537, 3072))
    return path


def write_key(path: Path, key) -> None:
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def flip(content: bytes, offset: int) -> bytes:
    changed = bytearray(content)
    changed[offset] ^= 1
    return bytes(changed)


# --- building


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
    assert "/firmware/app.mpy" in slot_image.inspect_image(content).files
    assert len(content) + 4096 <= SLOT_LEN


def test_app_takes_the_place_of_the_application(project, unsigned, tmp_path):
    app = tmp_path / "crash.py"
    app.write_text("raise RuntimeError('crashes at start')\n")
    content = slot_image.build_image(RELEASE, project, app)
    assert b"crashes at start" in content
    assert b"crash.py" not in content
    assert set(slot_image.inspect_image(content).files) == PACKED


def test_the_descriptor_is_the_documented_struct(unsigned):
    fields = struct.unpack_from("<8sHHIIIQ32s32s", unsigned)
    assert fields[:7] == (
        *(b"SGNTSLOT", 1, 1),
        *(len(unsigned) - 4096, 1, 1 << 16 | 25 << 8, 1_700_000_000),
    )
    assert fields[7].rstrip(b"\0") == b"1.0.0"
    assert fields[8].rstrip(b"\0") == b"signet-demo"
    assert set(unsigned[96:4096]) == {0xFF}


def test_micropython_mounts_the_payload_and_runs_from_it(micropython, project, unsigned, tmp_path):
    (tmp_path / "slot.img").write_bytes(unsigned)
    (tmp_path / "mount.py").write_text(MOUNT)
    done = subprocess.run(
        [micropython, tmp_path / "mount.py", tmp_path / "slot.img", str(len(unsigned) - 4096)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    *listed, greeting = done.stdout.splitlines()
    compiled = mpy.compile_sources(slot_image._slot_sources(project))
    expected = {
        f"/slot/{name} {hashlib.sha256(code).hexdigest()}" for name, code in compiled.items()
    }
    assert set(listed) == expected
    assert greeting == "hello from the slot 3 20"


READ_ALL = """
import os, sys, vfs
class Disk:
    def __init__(self, path):
        self.file, self.count = open(path, "rb"), os.stat(path)[6] // 4096
    def readblocks(self, number, buffer, offset=0):
        self.file.seek(number * 4096 + offset)
        self.file.readinto(buffer)
    def writeblocks(self, number, buffer, offset=0):
        raise OSError(30)
    def ioctl(self, operation, argument):
        return {4: self.count, 5: 4096}.get(operation, 0)
size = int(sys.argv[2])
vfs.mount(vfs.VfsLfs2(Disk(sys.argv[1]), readsize=size, progsize=size), "/disk")
for name in os.listdir("/disk"):
    with open("/disk/" + name, "rb") as file:
        print(name, file.read() == bytes([int(name) % 251]) * int(name))
"""


@pytest.mark.parametrize("geometry", [filesystem.SLOT, filesystem.VFS])
def test_micropython_reads_files_of_every_size(micropython, tmp_path, geometry):
    """A small file lies inside its folder's block, and must fit the reader's cache."""
    sizes = [
        0,
        1,
        31,
        32,
        127,
        128,
        129,
        255,
        256,
        257,
        511,
        512,
        513,
        1023,
        4095,
        4096,
        4097,
        9999,
    ]
    files = {str(size): bytes([size % 251]) * size for size in sizes}
    (tmp_path / "disk").write_bytes(filesystem.pack(files, geometry, 40))
    (tmp_path / "read.py").write_text(READ_ALL)
    command = [micropython, tmp_path / "read.py", tmp_path / "disk", str(geometry.access_len)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert sorted(done.stdout.splitlines()) == sorted(f"{size} True" for size in sizes)


def test_the_superblock_is_what_micropython_expects(unsigned):
    payload = unsigned[4096:]
    assert payload[8:16] == b"littlefs"
    # littlefs SPEC.md, "LFS_TYPE_SUPERBLOCK": version, block size and count, longest name
    fields = struct.unpack_from("<4I", payload, 20)
    assert fields == (0x0002_0001, 4096, len(payload) // 4096, 255)


def test_the_order_of_files_makes_no_difference():
    files = {f"lib/{number}.mpy": bytes([number]) * 300 * number for number in range(9)}
    backwards = dict(reversed(files.items()))
    packed = filesystem.pack(files, filesystem.SLOT, 20)
    assert filesystem.pack(backwards, filesystem.SLOT, 20) == packed


def test_the_payload_has_no_block_too_many(project, unsigned):
    compiled = mpy.compile_sources(slot_image._slot_sources(project))
    blocks = len(unsigned) // 4096 - 1
    assert filesystem.pack(compiled, filesystem.SLOT, blocks) == unsigned[4096:]
    with pytest.raises(RefusedError, match=f"do not fit into {blocks - 1} blocks of 4096"):
        filesystem.pack(compiled, filesystem.SLOT, blocks - 1)


def test_small_files_share_blocks():
    files = {f"{number}.mpy": b"x" * 100 for number in range(20)}
    assert len(filesystem.pack_smallest(files, filesystem.SLOT, 94)) <= 4 * 4096


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
    app.write_bytes(b"DATA = b'" + b"0123456789abcdef" * 0x6000 + b"'\n")
    with pytest.raises(RefusedError, match=r"393216 bytes, of which 385024 .* fit into 94 blocks"):
        slot_image.build_image(RELEASE, project, app)


def test_an_image_may_fill_its_slot(project, tmp_path):
    app = tmp_path / "app.py"
    app.write_bytes(b"DATA = b'" + b"x" * 341_000 + b"'\n")
    assert len(slot_image.build_image(RELEASE, project, app)) == SLOT_LEN - 4096


def test_a_file_that_does_not_compile_is_named(project, tmp_path):
    app = tmp_path / "app.py"
    app.write_text("def run(:\n")
    with pytest.raises(SignetError, match=r"app\.py: does not compile: .*SyntaxError"):
        slot_image.build_image(RELEASE, project, app)


def test_a_folder_without_firmware_is_refused(tmp_path):
    with pytest.raises(SignetError, match="no Python files"):
        slot_image.build_image(RELEASE, tmp_path)


# --- signing and verifying


def test_espsecure_accepts_what_we_sign(keys, signed_file):
    args = ("verify-signature", "--version", "2", "--keyfile")
    assert run_program("espsecure", *args, keys / "release.pub", signed_file).returncode == 0
    assert run_program("espsecure", *args, keys / "fleet.pub", signed_file).returncode != 0


def test_we_accept_what_espsecure_signs(keys, unsigned, tmp_path):
    (tmp_path / "u.img").write_bytes(unsigned)
    args = ("--version", "2", "--keyfile", keys / "release.key", "--output", tmp_path / "s.img")
    assert run_program("espsecure", "sign-data", *args, tmp_path / "u.img").returncode == 0
    digest = signing.key_digest(keys / "release.pub")
    found = slot_image.verify_image((tmp_path / "s.img").read_bytes(), [digest], "signet-demo")
    assert (found.version, found.counter) == ("1.0.0", 1)


def test_the_key_digest_is_espsecures(keys, tmp_path):
    run_program(
        "espsecure", "digest-sbv2-public-key", "--keyfile", keys / "release.pub",
        "--output", tmp_path / "digest",
    )  # fmt: skip
    digest = (tmp_path / "digest").read_bytes()
    assert signing.key_digest(keys / "release.pub") == digest
    assert signing.key_digest(keys / "release.key") == digest


def test_signed_bytes_are_the_data_its_padding_and_a_sector(keys):
    signed = signing.sign_bytes(b"an order", keys / "fleet.key")
    assert len(signed) == 8192
    assert signed[:4096] == b"an order".ljust(4096, b"\xff")
    data = signing.verify_bytes(signed, [signing.key_digest(keys / "fleet.pub")])
    assert data == signed[:4096]
    with pytest.raises(RefusedError, match="unknown key"):
        signing.verify_bytes(signed, [signing.key_digest(keys / "release.pub")])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda signed: flip(signed, 0), "espsecure changed the data"),
        (lambda signed: flip(signed, len(signed) - 1), "after the signature block"),
        (lambda signed: flip(signed, 4096 + 900), "CRC"),
    ],
)
def test_what_espsecure_writes_is_verified(keys, monkeypatch, change, reason):
    """With its own check and the program's exit code out of the way."""

    def faulty(_name, command, *args):
        if command == "sign-data":
            run.run_program("espsecure", command, *args)
            path = args[args.index("--output") + 1]
            path.write_bytes(change(path.read_bytes()))

    monkeypatch.setattr(signing, "run_program", faulty)
    with pytest.raises(RefusedError, match=reason):
        signing.sign_bytes(b"an order", keys / "fleet.key")


def test_what_espsecure_refuses_is_refused(keys, monkeypatch):
    def run_with_another_key(name, command, *args):
        if command == "verify-signature":
            args = (*args[:-2], keys / "release.pub", args[-1])
        return run.run_program(name, command, *args)

    monkeypatch.setattr(signing, "run_program", run_with_another_key)
    with pytest.raises(run.ProgramError, match="espsecure: failed with exit code"):
        signing.sign_bytes(b"an order", keys / "fleet.key")


@pytest.mark.parametrize("kind", ["rsa-2048", "ec", "public", "garbage", "encrypted", "missing"])
def test_a_key_that_cannot_sign_is_named(keys, unsigned, tmp_path, kind):
    path = tmp_path / "bad.key"
    if kind == "rsa-2048":
        write_key(path, rsa.generate_private_key(65537, 2048))
    elif kind == "ec":
        write_key(path, ec.generate_private_key(ec.SECP256R1()))
    elif kind == "public":
        shutil.copy(keys / "release.pub", path)
    elif kind == "garbage":
        path.write_text("not a key")
    elif kind == "encrypted":
        path.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n")
    before = snapshot(tmp_path)
    with pytest.raises(SignetError, match="espsecure" if kind == "public" else r"bad\.key"):
        slot_image.sign_image(unsigned, path)
    assert snapshot(tmp_path) == before


def broken_images(signed: bytes) -> dict[str, tuple[bytes, str]]:
    sector = len(signed) - 4096
    return {
        "empty": (b"", "descriptor"),
        "another file": (b"\x7fELF" + signed[4:], "magic"),
        "cut by a byte": (signed[:-1], "bytes, expected"),
        "without a signature": (signed[:sector], "not signed"),
        "trailing data": (signed + b"\xff", "bytes, expected"),
        "a block more": (signed + b"\xff" * 4096, "bytes, expected"),
        "descriptor": (flip(signed, 16), "digest does not match"),
        "padding of the descriptor": (flip(signed, 4000), "digest does not match"),
        "payload": (flip(signed, 5000), "digest does not match"),
        "last byte of the payload": (flip(signed, sector - 1), "digest does not match"),
        "signature": (flip(signed, sector + 812), "CRC"),
        "rest of the sector": (flip(signed, len(signed) - 1), "after the signature block"),
        "blank signature": (signed[:sector] + b"\xff" * 4096, "no signature"),
    }


@pytest.mark.parametrize("case", broken_images(bytes(12288)))
def test_a_broken_image_is_refused(keys, signed, case):
    content, reason = broken_images(signed)[case]
    with pytest.raises(RefusedError, match=reason):
        slot_image.verify_image(content, [signing.key_digest(keys / "release.pub")])


def test_an_image_by_another_key_or_for_another_model_is_refused(keys, unsigned, signed, other_key):
    digest = signing.key_digest(keys / "release.pub")
    with pytest.raises(RefusedError, match="'signet-demo', this is a 'other'"):
        slot_image.verify_image(signed, [digest], "other")
    with pytest.raises(RefusedError, match="unknown key"):
        slot_image.verify_image(slot_image.sign_image(unsigned, other_key), [digest])


@pytest.mark.parametrize("kind", ["signed", "cut", "longer", "not an image"])
def test_only_an_unsigned_image_is_signed(keys, unsigned, signed, kind):
    content, reason = {
        "signed": (signed, "signed already"),
        "cut": (unsigned[:-1], "bytes, expected"),
        "longer": (unsigned + b"x", "bytes, expected"),
        "not an image": (bytes(8192), "not a slot image"),
    }[kind]
    with pytest.raises(RefusedError, match=reason):
        slot_image.sign_image(content, keys / "release.key")


# --- inspecting


def test_a_whole_image_has_no_problems(keys, signed):
    report = slot_image.inspect_image(signed)
    assert report.problems == []
    assert report.key_digest == signing.key_digest(keys / "release.pub")
    assert report.descriptor.version == "1.0.0"
    assert report.length == len(signed)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda content: content[:-4096], "not signed"),
        (lambda content: content[:-1], "bytes, expected"),
        (lambda content: flip(content, 5000), "digest does not match"),
        (lambda content: content[:4096] + bytes(len(content) - 8192) + content[-4096:], "littlefs"),
    ],
    ids=["unsigned", "cut", "flipped", "no file system"],
)
def test_problems_are_told(signed, change, problem):
    report = slot_image.inspect_image(change(signed))
    assert any(problem in found for found in report.problems)


def test_what_is_no_image_is_refused():
    with pytest.raises(RefusedError, match="not a slot image"):
        slot_image.inspect_image(bytes(8192))


# --- profiles and debug code

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
        sources = slot_image._slot_sources(REPO)
        code = b"".join(mpy.compile_sources(sources, debug=profile == "dev").values())
        for found in (content, code):
            assert (b"debug" in found, b"_DEBUG" in found) == (profile == "dev", False)
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
