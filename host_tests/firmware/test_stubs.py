"""The stubs that an application's author has are those of the real `device`."""

import ast
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from firmware.ondemand.check import verify
from host_tests.played import Load

STUBS = "typings/firmware-stubs"


class ConfiguredError(Exception):
    """The schema was one."""


Function = ast.FunctionDef | ast.AsyncFunctionDef

RIGHT = """\
import machine
from firmware.device import Device


async def run(device: Device):
    device.configure({
        "interval_s": (10, 1, 3600), "gain": (0.5, 0, 2.5), "name": ("kitchen", 32),
        "mode": ("auto", ("auto", "off")), "step": (1, [1, 2]), "loud": False,
    })
    device.commands["blink"] = blink, {"times": (int, 1, 10), "fast": bool}
    device.commands["who"] = who
    device.log("info", "started %s", device.version)
    device.log.least = "debug"
    with device.files.open("a.csv") as file:
        first = file.readline().split(",")
    with device.files.open("a.bin", "rb") as raw:
        head = raw.read(4)[0] + 1
    while True:
        seconds, trust = device.time()
        device.telemetry({"first": first, "head": head, "at": seconds if trust else None})
        device.telemetry({"reset": machine.reset_cause()}, qos=1)
        device.keep({"litres": 5})
        device.keep.flush()
        device.event("door", open=True)
        device.beat()
        device.rtc = bytes(4)
        await device.deep_sleep(900, connect=False)
        await device.sleep(device.config["interval_s"])


async def blink(device: Device, args: dict):
    await device.sleep(args["times"])


def who(device: Device, args: dict):
    return {"id": device.id.upper(), "names": device.files.names()}
"""
WRONG = """\
from firmware.device import Device


async def run(device: Device):
    device.telemtry({})
    device.telemetry("text")
    device.telemetry({}, qos=2)
    device.configure({"a": 5})
    device.configure({"a": (int, 1, 10)})
    device.configure({"a": (10, 1)})
    device.configure({"a": ("x", (1, 2))})
    device.commands["a"] = 5
    device.commands["a"] = lambda: None
    device.commands["a"] = who, {"times": (1, 2, 3, 4)}
    device.log("loud", "text")
    device.log("info")
    device.log.least = "all"
    device.files.open("a", "w")
    device.files.names().upper()
    device.time() + 1
    device.keep(5)
    device.keep.drop()
    device.sleep(5)
    await device.sleep("5")
    await device.deep_sleep()
    await device.beat()
    device.event(5)
    device.rtc = "text"
    device.id = 5


def who(device: Device, args: dict):
    return device.uptime
"""


def check(repo: Path, folder: Path, source: str) -> str:
    """What mypy says of an application, with the stubs where a wheel puts them."""
    shutil.copytree(repo / STUBS, folder / "stubs/firmware")
    (folder / "app.py").write_text(source)
    config = folder / "mypy.ini"
    config.write_text(
        f"[mypy]\nmypy_path = {folder / 'stubs'}:{repo / '.venv/typings'}\n"
        "check_untyped_defs = True\nfollow_imports = silent\n"
        "follow_imports_for_stubs = True\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", str(config), str(folder / "app.py")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.stdout + done.stderr


def test_a_right_application_is_right(repo: Path, tmp_path: Path) -> None:
    assert "Success: no issues" in check(repo, tmp_path, RIGHT)


def test_what_the_document_shows_is_right(repo: Path, tmp_path: Path) -> None:
    shown, _ = re.findall(r"```python\n(.*?)```", (repo / "docs/application.md").read_text(), re.S)
    assert "Success: no issues" in check(repo, tmp_path, shown)
    namespace: dict[str, Any] = {}
    exec(shown.replace("from firmware.device import Device", "Device = None"), namespace)

    def configure(schema: dict[str, Any]) -> None:
        verify(schema, True)
        raise ConfiguredError

    with pytest.raises(ConfiguredError):
        namespace["run"](SimpleNamespace(configure=configure)).send(None)


def test_each_mistake_is_noticed(repo: Path, tmp_path: Path) -> None:
    said = check(repo, tmp_path, WRONG)
    noticed = {int(number) for number in re.findall(r"app\.py:(\d+): error", said)}
    lines = WRONG.splitlines()
    wrong = {
        number
        for number, line in enumerate(lines, 1)
        if line.startswith("    ") and number > lines.index("async def run(device: Device):")
    }
    assert [lines[number - 1] for number in sorted(wrong - noticed)] == []
    assert noticed <= wrong, said


# against the real ones


@pytest.fixture(scope="module")
def stubs(repo: Path) -> dict[str, ast.ClassDef]:
    tree = ast.parse((repo / STUBS / "device.pyi").read_text())
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def members(stub: ast.ClassDef) -> tuple[dict[str, Function], dict[str, str]]:
    """Methods, and attributes with their types."""
    methods: dict[str, Function] = {}
    attributes: dict[str, str] = {}
    for node in stub.body:
        if isinstance(node, Function):
            methods.setdefault(node.name, node)  # of overloads the first, as it is called most
        elif isinstance(node, ast.AnnAssign):
            attributes[ast.unparse(node.target)] = ast.unparse(node.annotation)
    return methods, attributes


def same(name: str, stub: Function, real: Any) -> None:
    """Parameters, their defaults, and whether it is to be awaited."""
    expected = stub.args
    names = [each.arg for each in expected.args][1:]
    found = list(inspect.signature(real).parameters.values())
    plain = [each for each in found if each.kind == each.POSITIONAL_OR_KEYWORD]
    assert [each.name for each in plain] == names, name
    defaults = [ast.literal_eval(each) for each in expected.defaults]
    assert [each.default for each in plain if each.default is not each.empty] == defaults, name
    stars = {each.kind: each.name for each in found if each not in plain}
    wanted = {
        kind: star.arg
        for kind, star in (
            (inspect.Parameter.VAR_POSITIONAL, expected.vararg),
            (inspect.Parameter.VAR_KEYWORD, expected.kwarg),
        )
        if star
    }
    assert stars == wanted, name
    assert inspect.iscoroutinefunction(real) == isinstance(stub, ast.AsyncFunctionDef), name


def public(thing: Any) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


def test_the_stubs_have_what_the_device_has_and_nothing_else(
    repo: Path, load: Load, device: Any, posts: Any, stubs: dict[str, ast.ClassDef]
) -> None:
    for path in sorted((repo / "firmware/ondemand/extras").glob("*.py")):
        load(f"ondemand.extras.{path.stem}")
    posts.held = ""
    methods, attributes = members(stubs["Device"])
    loaded = {path.stem for path in (repo / "firmware/ondemand/extras").glob("*.py")}
    assert public(device) | loaded == methods.keys() | attributes.keys()
    for name, stub in methods.items():
        same(name, stub, getattr(device, name))
    for name, kind in attributes.items():
        real = getattr(device, name)
        if kind not in stubs:
            assert type(real).__name__ == kind.partition("[")[0], name
            continue
        assert type(real).__name__ == kind
        its_methods, its_attributes = members(stubs[kind])
        assert (
            public(real) == {each for each in its_methods if each[0] != "_"} | its_attributes.keys()
        )
        for its_name, stub in its_methods.items():
            same(f"{name}.{its_name}", stub, getattr(real, its_name))


def test_every_public_thing_says_what_it_is(stubs):
    for stub in stubs.values():
        assert ast.get_docstring(stub)
        said = {
            node.name
            for node in stub.body
            if isinstance(node, Function) and ast.get_docstring(node)
        }
        assert said | {"__call__"} >= members(stub)[0].keys(), stub.name
