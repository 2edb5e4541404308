"""The shims offer nothing that the ESP32 port has not: names, constants and signatures.

The reference is the stub package of the port, in .venv/typings. CORRECTIONS are the places where
it departs from the port's C source, which is then named.
"""

import ast
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from host_tests.board_helpers import make_board, run_board, said
from signet.board.virtual.board import IDF_HEAPS, VirtualBoard

SHIMS = Path(__file__).resolve().parents[2] / "tools/virtual_board"
STUBS = Path(sys.prefix) / "typings"
MODULES = ("esp32", "machine", "network", "time")
# What makes the shims work: the firmware cannot import it.
INSIDE = {
    "access", "addresses", "chip", "heap", "inisetup", "lan", "ota", "power_on", "scripts", "start",
    "uart", "watch",
}  # fmt: skip
REPO = SHIMS.parents[1]


@dataclass(frozen=True)
class Shape:
    """What calls a function takes: least and most positional arguments, which names may be given
    as keywords with their defaults (... if there is none or it is not a literal), any others."""

    least: int
    most: int
    names: tuple[tuple[str, Any], ...] = ()
    keyword_only: tuple[str, ...] = ()
    any_keyword: bool = False


CORRECTIONS = {
    # MP_DEFINE_CONST_FUN_OBJ_3: operation and argument, always.
    "esp32.Partition.ioctl": Shape(2, 2),
    # esp32_partition_find: all four by position or keyword; the stub lacks block_size.
    "esp32.Partition.find": Shape(
        0, 4, (("type", ...), ("subtype", 0xFF), ("label", None), ("block_size", 4096))
    ),
    # MP_DEFINE_CONST_FUN_OBJ_1: no keywords.
    "esp32.idf_heap_info": Shape(1, 1),
    # machine_wdt_make_new (extmod/machine_wdt.c): neither argument is keyword-only.
    "machine.WDT.__init__": Shape(0, 2, (("id", 0), ("timeout", 5000))),
    # get_lan (network_lan.c), without what is for a PHY on SPI.
    "network.LAN.__init__": Shape(
        0,
        1,
        (
            ("id", None),
            ("mdc", None),
            ("mdio", None),
            ("reset", None),
            ("power", None),
            ("phy_addr", ...),
            ("phy_type", ...),
            ("ref_clk_mode", ...),
            ("ref_clk", None),
        ),
        ("mdc", "mdio", "reset", "power", "phy_addr", "phy_type", "ref_clk_mode", "ref_clk"),
    ),
    # machine_rtc_make_new: mp_arg_check_num(…, 0, 0, false).
    "machine.RTC.__init__": Shape(0, 0),
}


def shape_of(function: ast.FunctionDef, is_method: bool) -> Shape:
    arguments = function.args
    positional = arguments.posonlyargs + arguments.args
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    defaults += arguments.defaults
    decorators = {ast.unparse(decorator) for decorator in function.decorator_list}
    bound = is_method and "staticmethod" not in decorators
    pairs = list(zip(positional, defaults, strict=True))[bound:]
    by_name = [pair for pair in pairs if pair[0] not in arguments.posonlyargs]
    by_name += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return Shape(
        least=sum(default is None for _, default in pairs),
        most=len(pairs),
        names=tuple((argument.arg, literal(default)) for argument, default in by_name),
        keyword_only=tuple(argument.arg for argument in arguments.kwonlyargs),
        any_keyword=arguments.kwarg is not None,
    )


def literal(node: ast.expr | None) -> Any:
    return node.value if isinstance(node, ast.Constant) else ...


def merge(left: Shape, right: Shape) -> Shape:
    """What either of two overloads takes."""
    return Shape(
        min(left.least, right.least),
        max(left.most, right.most),
        tuple(dict(left.names + right.names).items()),
        tuple(dict.fromkeys(left.keyword_only + right.keyword_only)),
        left.any_keyword or right.any_keyword,
    )


def read_module(path: Path, name: str) -> dict[str, Any]:
    """Dotted names of a source or stub: a Shape for functions, a value or ... for the rest."""
    found: dict[str, Any] = {}

    def visit(body: list[ast.stmt], prefix: str, is_class: bool) -> None:
        for node in body:
            match node:
                case ast.FunctionDef():
                    key, shape = prefix + node.name, shape_of(node, is_class)
                    before = found.get(key)
                    found[key] = merge(before, shape) if before else shape
                case ast.ClassDef() if prefix + node.name not in found:  # of two, the port's own
                    found[prefix + node.name] = ...
                    visit(node.body, f"{prefix}{node.name}.", True)
                    found.setdefault(f"{prefix}{node.name}.__init__", Shape(0, 0))
                case ast.Assign(targets=[ast.Name(id=target)], value=value):
                    alias = isinstance(value, ast.Name) and found.get(prefix + value.id)
                    found[prefix + target] = alias or literal(value)
                case ast.ImportFrom(module="utime", names=names):  # the same C code as the port's
                    found.update({prefix + (name.asname or name.name): ... for name in names})
                case ast.AnnAssign(target=ast.Name(id=target)):
                    found[prefix + target] = literal(node.value)

    visit(ast.parse(path.read_text()).body, f"{name}.", False)
    return found


def compare(shim: dict[str, Any], stub: dict[str, Any]) -> list[str]:
    """Where a shim goes beyond the port, or differs from it."""
    faults = []
    for key, offered in shim.items():
        owner, _, last = key.rpartition(".")
        if last.startswith("_") and (last != "__init__" or "._" in owner):
            continue
        if key not in stub:
            faults.append(f"{key}: the port has no such name")
            continue
        wanted = CORRECTIONS.get(key, stub[key])
        if offered is ...:
            continue
        if isinstance(wanted, Shape) != isinstance(offered, Shape):
            faults.append(f"{key}: {offered}, the port has {wanted}")
        elif isinstance(offered, Shape):
            faults += [f"{key}: {fault}" for fault in compare_shapes(offered, wanted)]
        elif wanted is not ... and offered != wanted:
            faults.append(f"{key}: is {offered}, the port's is {wanted}")
    return faults


def compare_shapes(offered: Shape, wanted: Shape) -> list[str]:
    """MicroPython has no positional-only arguments, so a shim may name what the port does not."""
    faults = []
    for field in ("least", "most", "keyword_only", "any_keyword"):
        left, right = getattr(offered, field), getattr(wanted, field)
        if left != right:
            faults.append(f"{field} is {left}, the port's is {right}")
    names = dict(offered.names)
    for name, default in wanted.names:
        if name not in names:
            faults.append(f"has no {name}")
        elif default is not ... and names[name] != default:
            faults.append(f"default of {name} is {names[name]}, the port's is {default}")
    return faults


@pytest.mark.parametrize("name", MODULES)
def test_shim_offers_nothing_that_the_port_has_not(name: str) -> None:
    stub = read_module(STUBS / f"{name}.pyi", name)
    assert len(stub) > 10
    assert compare(read_module(SHIMS / f"{name}.py", name), stub) == []


def test_what_comes_with_ethernet_is_the_ports_too() -> None:
    stub = read_module(STUBS / "network.pyi", "network")
    offered = read_module(SHIMS / "lan.py", "network")
    assert {"network.LAN.active", "network.PHY_LAN8720", "network.ETH_GOT_IP"} <= set(offered)
    assert compare(offered, stub) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "fault"),
    [
        ("machine", "def reset():", "def reboot():", "machine.reboot: the port has no such name"),
        ("machine", "def reset():", "def reset(hard):", "machine.reset: least is 1"),
        ("machine", "def reset():", "def reset(hard=1):", "machine.reset: most is 1"),
        ("machine", "WDT_RESET = 3", "WDT_RESET = 4", "machine.WDT_RESET: is 4"),
        ("machine", "timeout=5000", "timeout=500", "machine.WDT.__init__: default of timeout"),
        ("machine", "def feed(self)", "def kick(self)", "machine.WDT.kick: the port has no such"),
        ("machine", "def memory(self, data", "def memory(self, what", "memory: has no data"),
        ("esp32", "    BOOT = 0", "    BOOT = 5", "esp32.Partition.BOOT: is 5"),
        ("esp32", "op, arg)", "op, arg=0)", "esp32.Partition.ioctl: least is 1"),
        ("esp32", "HEAP_DATA = 4", "HEAP_DATA = 5", "esp32.HEAP_DATA: is 5, the port's is 4"),
        ("esp32", "idf_heap_info(id)", "idf_heap_info()", "esp32.idf_heap_info: least is 0"),
        ("network", "*, bssid=None", "bssid=None", "network.WLAN.connect: most is 3"),
        ("network", ", **kwargs", "", "network.WLAN.config: any_keyword is False"),
        ("time", "localtime = gmtime", "localtime = 0", "time.localtime: 0, the port has Shape"),
        ("time", "sleep_ms,", "sleep_ms,\n    clock,", "time.clock: the port has no such name"),
    ],
)
def test_a_departure_is_found(tmp_path: Path, name: str, old: str, new: str, fault: str) -> None:
    source = (SHIMS / f"{name}.py").read_text()
    assert old in source
    (tmp_path / "changed.py").write_text(source.replace(old, new, 1))
    stub = read_module(STUBS / f"{name}.pyi", name)
    faults = compare(read_module(tmp_path / "changed.py", name), stub)
    assert [text for text in faults if fault in text]


def test_corrections_are_needed() -> None:
    for key, shape in CORRECTIONS.items():
        module = key.partition(".")[0]
        assert compare_shapes(shape, read_module(STUBS / f"{module}.pyi", module)[key]) != []


def test_names_of_the_running_shims(tmp_path: Path) -> None:
    """What is really there under MicroPython: imports that leak, attributes set from elsewhere."""
    main = (
        "import json, sys\n"
        "def names(thing): return [n for n in dir(thing) if not n.startswith('_')]\n"
        "for name in ('esp32', 'machine', 'network', 'time'):\n"
        " module = sys.modules[name]\n"
        " for n in names(module): print(json.dumps([name + '.' + n, str(getattr(module, n))]))\n"
        " for n in names(module):\n"
        "  if isinstance(getattr(module, n), type):\n"
        "   for m in names(getattr(module, n)):\n"
        "    print(json.dumps(['.'.join((name, n, m)), str(getattr(getattr(module, n), m))]))\n"
    )
    lines = run_board(tmp_path, main).lines[:-2]
    found = dict(json.loads(line) for line in lines)
    stubs: dict[str, Any] = {}
    for name in MODULES:
        stubs |= read_module(STUBS / f"{name}.pyi", name)
    assert "esp32.Partition.writeblocks" in found
    assert "time.ticks_ms" in found
    assert sorted(found.keys() - stubs.keys()) == []
    for key, text in found.items():
        if isinstance(stubs[key], int):
            assert text == str(stubs[key]), key


def test_every_file_is_a_shim_that_is_compared_or_out_of_reach(tmp_path: Path) -> None:
    assert {path.stem for path in SHIMS.glob("*.py")} == INSIDE | set(MODULES)
    main = (
        f"for name in {sorted(INSIDE - {'inisetup'})}:\n"  # a module of that name is the port's
        " try:\n  __import__(name)\n  print('there is', name)\n except ImportError: pass\n"
    )
    assert said(run_board(tmp_path, main)) == []


def test_the_heaps_of_the_idf_are_what_the_host_says(tmp_path: Path) -> None:
    """A list of 4-tuples (esp32_idf_heap_info), empty where nothing has such memory."""
    heaps = {4: [(300, 200, 150, 100), (30, 20, 15, 10)]}
    main = "import esp32\nfor name in (esp32.HEAP_DATA, esp32.HEAP_EXEC):\n"
    make_board(tmp_path, main + " print(esp32.idf_heap_info(name))\n")
    with VirtualBoard(tmp_path, idf_heaps=heaps) as board:
        board.power_on()
        board.wait_until_stopped()
    assert said(board) == [str(heaps[4]), "[]"]
    board = run_board(tmp_path / "default", main + " print(esp32.idf_heap_info(name)[0])\n")
    assert said(board) == [str(IDF_HEAPS[capability][0]) for capability in (4, 1)]


# Where device code may use floats: an ESP32 has 24 bits of them, which are 16 s of a Unix time.
FLOATS = {
    "firmware/ondemand/check.py": 4,  # what an application says that a setting may be
    "firmware/ondemand/extras/deep_sleep.py": 1,  # what types a duration may have
    "lib/mqtt/client.py": 1,  # a random pause of up to a minute
    "lib/mqtt/check.py": 2,  # what types a duration may have
}


def floats_in(source: str) -> int:
    """Literals, divisions and conversions that make a float."""
    return sum(
        (isinstance(node, ast.Constant) and isinstance(node.value, float))
        or (isinstance(node, (ast.BinOp, ast.AugAssign)) and isinstance(node.op, ast.Div))
        or (isinstance(node, ast.Name) and node.id == "float")
        for node in ast.walk(ast.parse(source))
    )


def test_no_time_goes_through_a_float() -> None:
    sources = [REPO / "boot.py", REPO / "main.py"]
    sources += [*(REPO / "lib").rglob("*.py"), *(REPO / "firmware").rglob("*.py")]
    counts = {str(path.relative_to(REPO)): floats_in(path.read_text()) for path in sources}
    assert {name: count for name, count in counts.items() if count} == FLOATS
    assert floats_in("x = t / 2; x /= 3; y = 1.5; z = float(x)") == 4
