"""A sample of `make fuzz`, and what it found: each find with a name.

What loops or takes all memory would end the tests: the parsers run in processes of their own.
"""

import base64
import contextlib
import random
import struct
import subprocess
import sys
import zlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from littlefs.errors import LittleFSError

from host_tests.fuzz import mutate
from host_tests.fuzz.parsers import PARSERS, make_samples
from host_tests.tool_helpers import REPO
from signet import files
from signet.device import identity
from signet.errors import RefusedError, SignetError
from signet.formats import filesystem, mpy_file, romfs, secure_cert
from signet.image import symbols
from signet.project import manifest

pytest_plugins = ["host_tests.tool_fixtures"]

RUNS = 60


@pytest.fixture(scope="module")
def samples(tmp_path_factory, keys, project):
    folder = tmp_path_factory.mktemp("samples")
    make_samples(folder, keys, project)
    return folder


def test_a_sample_of_make_fuzz(samples):
    """Another seed each time: it is printed, and gives the same inputs again."""
    seed = random.randrange(1 << 32)
    command = [sys.executable, "-m", "host_tests.fuzz", "--runs", str(RUNS), "--seed", str(seed)]
    done = subprocess.run([*command, "--samples", str(samples)], cwd=REPO, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    assert done.stdout.count("findings: 0") == len(PARSERS)


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_takes_its_samples(samples, tmp_path, name):
    """Else nothing behind its first check would be fuzzed."""
    for number, sample in enumerate(PARSERS[name].samples):
        (samples / "work").mkdir(exist_ok=True)
        path = samples / "work" / f"{number}"
        path.write_bytes((samples / sample).read_bytes())
        path.chmod(0o600)
        refused = (name, sample) in REFUSED_SAMPLES
        with pytest.raises(SignetError) if refused else contextlib.nullcontext():
            PARSERS[name].run(path)


# The keys that these parsers are given are none; a virtual board's flash has no boot loader.
REFUSED_SAMPLES = {
    ("signed image", "signed.img"), ("signature", "signed.img"), ("esp_secure_cert", "identity"),
    ("flash file", "flash.bin"), ("credentials", "chain.pem"),
}  # fmt: skip


# --- a process that hangs, or takes all memory, is a finding


@pytest.mark.parametrize("how", ["loop", "memory", "exit", "foreign error"])
def test_the_fuzzer_notices(samples, how):
    hostile = {
        "loop": "exec('while True: pass')",
        "memory": "bytearray(1 << 40)",
        "exit": "__import__('os')._exit(0)",
        "foreign error": "{}['x']",
    }[how]
    program = (
        "import sys, host_tests.fuzz.__main__ as fuzz; fuzz.TIMEOUT_S = 0.2\n"
        f"fuzz.PARSERS['manifest'] = fuzz.Parser(lambda path: {hostile}, ('signet.toml',))\n"
        "sys.argv[1:] = '--runs 1 --seed 5 manifest'.split()\n"
        f"sys.argv += ['--samples', {str(samples)!r}]\n"
        "sys.exit(fuzz.main())"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert "manifest, seed 5" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 1


# --- what was found


def romfs_with(index: bytes) -> bytes:
    size = len(index)
    number = bytes([0x80 | size >> 14 & 127, 0x80 | size >> 7 & 127, size & 127])
    return b"\xd2\xcd\x31" + number + index


def folder(name: bytes, content: bytes) -> bytes:
    return romfs._record(4, bytes([len(name)]) + name + content)


def test_romfs_folders_of_one_name():
    """The first of them is found for each: 30 in 30 in 30 … are listed 30 ** 8 times."""
    tree = b""
    for _ in range(8):
        tree = folder(b"a", tree) + folder(b"a", b"") * 29
    with pytest.raises(RefusedError, match="archive: took more than 1000000 steps to read"):
        romfs.read_files(romfs_with(tree))


def test_romfs_folders_without_a_name():
    """Each is the folder that it is in."""
    with pytest.raises(RefusedError, match="archive: more than 8 levels"):
        romfs.read_files(romfs_with(folder(b"", b"")))


def test_romfs_files_that_share_their_data():
    """900 names for the same 100 KB are 90 MB."""
    data = romfs._record(2, bytes(100_000))
    names = [f"{number:03}".encode() for number in range(900)]
    place = romfs._number(100_000) + romfs._number(4)
    index = b"".join(romfs._record(5, b"\x03" + name + romfs._record(3, place)) for name in names)
    with pytest.raises(RefusedError, match="archive: its files are larger than it is"):
        romfs.read_files(romfs_with(data + index))


class Block:
    """A block of littlefs's metadata, as its tags: littlefs SPEC.md, "Metadata pairs"."""

    def __init__(self, block: bytes):
        self.revision, self.tags = block[:4], []
        at, tag = 4, 0xFFFF_FFFF
        while True:
            tag ^= int.from_bytes(block[at : at + 4], "big")
            if tag >> 31:
                return
            length = 0 if tag & 0x3FF == 0x3FF else tag & 0x3FF
            if tag >> 20 & 0x700 != 0x500:  # a CRC
                self.tags.append((tag, block[at + 4 : at + 4 + length]))
            elif tag >> 20 != 0x5FF:
                tag ^= (tag >> 20 & 1) << 31
            at += 4 + length

    def pack(self) -> bytes:
        content, before = self.revision, 0xFFFF_FFFF
        for tag, data in self.tags:
            content += (tag ^ before).to_bytes(4, "big") + data
            before = tag
        content += ((0x500 << 20 | 0x3FF << 10 | 4) ^ before).to_bytes(4, "big")
        content += struct.pack("<I", zlib.crc32(content) ^ 0xFFFF_FFFF)
        return content.ljust(filesystem.BLOCK_LEN, b"\xff")


SOFT_TAIL, HARD_TAIL, FOLDER = 0x600, 0x601, 0x200


def circle(with_files: bool) -> bytearray:
    """A folder, /a, that is chained to itself.

    Mounting looks for circles among all folders; one that is not in that chain goes unseen.
    """
    image = bytearray(filesystem.pack({"/a/b": b"1", "/a/c": b"2"}, 16))
    size = filesystem.BLOCK_LEN

    def newest(pair: tuple[int, int]) -> int:
        revisions = {number: image[number * size :][:4] for number in pair}
        written = [number for number in pair if revisions[number] != b"\xff" * 4]
        return max(written, key=lambda number: revisions[number][::-1])

    root_at = newest((0, 1))
    root = Block(bytes(image[root_at * size :][:size]))
    pair = next(data for tag, data in root.tags if tag >> 20 == FOLDER)
    root.tags = [(tag, data) for tag, data in root.tags if tag >> 20 != SOFT_TAIL]
    image[root_at * size : (root_at + 1) * size] = root.pack()
    inner_at = newest(struct.unpack("<II", pair))
    inner = Block(bytes(image[inner_at * size :][:size]))
    inner.tags = [
        (tag, data)
        for tag, data in inner.tags
        if tag >> 20 not in (SOFT_TAIL, HARD_TAIL) and (with_files or tag >> 10 & 0x3FF == 0x3FF)
    ]
    inner.tags.append((HARD_TAIL << 20 | 0x3FF << 10 | 8, pair))
    image[inner_at * size : (inner_at + 1) * size] = inner.pack()
    return image


@pytest.mark.parametrize("with_files", [True, False])
def test_littlefs_folder_that_is_chained_to_itself(with_files):
    """Its files come again and again; if it has none, folders without a name do."""
    with pytest.raises(RefusedError, match="more than 1000 files or 8 levels"):
        filesystem.list_files(bytes(circle(with_files)))


def test_littlefs_that_is_read_for_ever_falls_silent():
    """Asked for that folder alone, littlefs itself does not come back."""
    fs = filesystem._open(filesystem._Bounded(circle(with_files=False)), 16)
    fs.mount()
    with pytest.raises(LittleFSError, match="CORRUPT"):
        list(fs.scandir("/a"))


def test_littlefs_s_checksums_are_mended():
    """So that what is altered is read."""
    image = filesystem.pack({"/name": b"1"}, 16)
    assert mutate.mend_littlefs(image) == image
    altered = image.replace(b"name", b"nama")
    assert filesystem.list_files(altered) == {}  # the commit before it
    assert list(filesystem.list_files(mutate.mend_littlefs(altered))) == ["/nama"]


def test_littlefs_name_that_is_no_utf_8():
    image = filesystem.pack({"/name": b"1"}, 16).replace(b"name", b"na\xff\xfe")
    with pytest.raises(RefusedError, match="not a sound littlefs file system"):
        filesystem.list_files(mutate.mend_littlefs(image))


def test_mpy_number_without_end():
    """It grew by seven bits a byte, and took a minute for a megabyte."""
    for content in (
        b"M\x06\0\x1f" + b"\xff" * 1_000_000,
        b"M\x06\0\x1f\0\0\x82\0" + b"\xff" * 1000,
    ):
        with pytest.raises(RefusedError, match="is damaged"):
            mpy_file.parse(content)


def test_esp_secure_cert_of_a_megabyte():
    content = secure_cert._pack_entry(secure_cert.Entry(99, 0, b"")) * 50_000
    with pytest.raises(RefusedError, match="esp_secure_cert: 800000 bytes, at most"):
        secure_cert.unpack(content)


def test_json_of_too_many_levels(tmp_path):
    """Python's reader calls it a RecursionError."""
    (tmp_path / "x").write_bytes(b'{"a":' * 100_000)
    with pytest.raises(SignetError, match="no symbol map"):
        symbols.read_map(tmp_path / "x")


TOML = {
    "levels": b"a = " + b"[" * 100_000,
    "decimal digits": b"[heap]\ndata_kb = " + b"9" * 5000,
    "hexadecimal digits": b"[heap]\ndata_kb = 0x" + b"f" * 5000,
}


@pytest.mark.parametrize("content", TOML.values(), ids=TOML)
def test_manifest_of_too_many(tmp_path, content):
    (tmp_path / "signet.toml").write_bytes(content)
    with pytest.raises(SignetError, match=r"not TOML|heap.data_kb is a huge number, expected 0 to"):
        manifest.read_manifest(tmp_path / "signet.toml")


def test_file_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_MAX_LEN", 1 << 20)
    (tmp_path / "zero").symlink_to("/dev/zero")
    with pytest.raises(SignetError, match="zero: more than 1 MiB, which no image has"):
        files.read_file(tmp_path / "zero", "image")


def test_message_that_quotes_a_whole_file():
    assert len(str(SignetError("x" * 1_000_000))) == 4001


FINDS = {  # found by a seed; the bytes are as it left them, but for what made no difference
    "partition CSV": (b"a,data,fat,0x10000," + b"1" * 200_000, "field larger than field limit"),
    "boards CSV": (b"id\n" + b"x" * 200_000, "not CSV: field larger than field limit"),
    "eFuse plan": (b'{"chip": [], "release": []}', "not an eFuse plan"),
    "eFuse summary": (b'{"MAC": []}', "its summary is not what was expected"),
    "addresses": (b'{"pid": 1}', "expected what `signet fleet serve` wrote"),
    "document": (b"[]" + bytes(1216), "not a token: no JSON"),
    "figures": (b'{"runs": [1]}', "expected what `make qemu-check` keeps"),
}


@pytest.mark.parametrize(("name", "found"), FINDS.items(), ids=FINDS)
def test_a_find(samples, name, found):
    (samples / "work").mkdir(exist_ok=True)
    path = samples / "work" / "input"
    path.write_bytes(found[0])
    with pytest.raises(SignetError) as failure:
        PARSERS[name].run(path)
    assert found[1] in str(failure.value)


OF_A_CERTIFICATE = {  # an object identifier, and what is wrong with it when somebody asks
    "key": (b"\x2a\x86\x48\xce\x3d\x02\x01", b"\x2a\x96\x48\xce\x3d\x02\x01"),
    "curve": (b"\x2a\x86\x48\xce\x3d\x03\x01\x07", b"\x2a\x86\x48\xce\x3d\x03\x01\x77"),
    "key's point": (b"\x03\x42\x00\x04", b"\x03\x42\x00\x05"),
    "purpose": (b"\x06\x03\x55\x1d\x25", b"\x06\x03\x55\x1d\x13"),  # two basic constraints
}


@pytest.mark.parametrize(("old", "new"), OF_A_CERTIFICATE.values(), ids=OF_A_CERTIFICATE)
def test_certificate_with_a_part_that_cannot_be_read(samples, keys, old, new):
    """It loads; the error came later, when the part was asked for."""
    leaf = x509.load_pem_x509_certificates((samples / "chain.pem").read_bytes())[0]
    der = leaf.public_bytes(Encoding.DER)
    assert old in der
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der.replace(old, new))
    pem += b"-----END CERTIFICATE-----\n"
    root = (keys / "device-ca.pem").read_bytes()
    with pytest.raises(RefusedError, match=r"device certificate|device key"):
        identity.check_device_credentials(pem, (samples / "key.pem").read_bytes(), "dev-0001", root)
