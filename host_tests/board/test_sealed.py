"""The sealed build, as far as it can be checked without a compiler for the chip.

Where SIGNET_IDF and SIGNET_MICROPYTHON name source trees, every option is looked up in them, and
the IDF's own tool reads the partition tables.
"""

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import sealed_build
from host_tests.board.sealed_options import BOARD, SIZES, documented_options, used_options
from host_tests.conftest import find_program
from host_tests.tool_helpers import REPO, run_program
from signet.device.sealing.efuse_plan import CHIPS
from signet.formats import flash

STOCK = REPO / "firmware/board/partitions.csv"
OURS = {"esp_secure_cert", "bootstate", "slot_a", "slot_b", "vfs"}


def table_of(size: int) -> tuple[flash.Partition, ...]:
    rows = flash.load_layout(BOARD / f"partitions-{size}mb.csv")
    assert flash.flash_len(rows) == size << 20
    return rows


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
