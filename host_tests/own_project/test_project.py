"""A project of one's own: loaded and built from its folder, with Signet's device code."""

from collections.abc import Callable
from pathlib import Path

import pytest

from host_tests.tool_helpers import REPO
from signet import project
from signet.errors import RefusedError, SignetError
from signet.image import slot_image

APP = "from lamp import colour\n\nasync def run(device):\n    await device.sleep(colour.RED)\n"
MANIFEST = """\
[project]
name = "lamp"
model = "lamp-2"
hardware = "B"
version = "1.2.0"
counter = 3
micropython = "1.26.0"
"""
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a project: more TOML, and more files by their path."""

    def write(more: str = "", **files: str) -> Path:
        folder = tmp_path / "lamp"
        contents = {"app.py": APP, "signet.toml": MANIFEST + more}
        contents |= {"lib/lamp/__init__.py": "", "lib/lamp/colour.py": "RED = 1\n"} | files
        for name, text in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        return folder

    return write


def test_a_project_is_loaded(make):
    folder = make('data = "data"\n[heap]\ndata_kb = 2\n', **{"data/table": "1"})
    loaded = project.load(folder)
    assert (loaded.name, loaded.model, loaded.hardware) == ("lamp", "lamp-2", "B")
    assert (loaded.version, loaded.counter, loaded.micropython) == ("1.2.0", 3, (1, 26, 0))
    assert (loaded.app, loaded.lib) == (folder / "app.py", folder / "lib")
    assert (loaded.data, loaded.state) == (folder / "data", folder / ".signet")
    assert loaded.heap.data_kb == 2
    assert loaded.budget.image_kb is loaded.servers.broker_port is None


def test_a_folder_that_is_no_project(make, tmp_path):
    with pytest.raises(SignetError, match=r"no project: expected signet\.toml in it"):
        project.load(tmp_path)
    folder = make('data = "tables"\n')
    with pytest.raises(SignetError, match=r"project\.data names .*tables, which is no folder"):
        project.load(folder)
    (folder / "app.py").unlink()
    with pytest.raises(SignetError, match=r"app\.py: no such file, expected the application"):
        project.load(folder)
    (folder / "signet.toml").write_text("[heap]\n")
    with pytest.raises(SignetError, match=r"project is missing, expected the table \[project\]"):
        project.load(folder)


def test_its_image_holds_its_own_files_and_signets(make):
    folder = make(
        'data = "data"\n[heap]\nreserve_kb = 20\n',
        **{"data/table": "1", "lib/unused.py": "", "tests/test_app.py": ""},
    )
    built = project.build(project.load(folder), "production", 1_700_000_000)
    report = slot_image.inspect_image(built.content)
    described = report.descriptor
    assert (described.version, described.model, described.counter) == ("1.2.0", "lamp-2", 3)
    assert (described.platform, described.heap) == (1 << 16 | 26 << 8, 20)
    assert described.build_time == 1_700_000_000
    own = {"/lamp/__init__.mpy", "/lamp/colour.mpy", "/data/table", "/firmware/app.mpy"}
    assert own < set(report.files)
    assert "/firmware/agent.mpy" in report.files
    assert not any("unused" in name or "test" in name for name in report.files)


def test_a_project_without_lib_is_built(make):
    folder = make(**{"app.py": "async def run(device):\n    pass\n"})
    for path in sorted((folder / "lib").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (folder / "lib").rmdir()
    project.build(project.load(folder), "dev")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("mqtt/client.py", "a module of Signet", id="in the slot"),
        pytest.param("trust.py", "a module of Signet", id="of stage 1"),
        pytest.param("firmware/agent.py", "a module of Signet", id="the agent"),
        pytest.param("asyncio/__init__.py", "a module of MicroPython", id="frozen"),
        pytest.param("time.py", "a module of MicroPython", id="built in"),
        pytest.param("data/__init__.py", "the folder of data files", id="data"),
    ],
)
def test_a_module_that_hides_another_is_refused(make, name, reason):
    folder = make(**{f"lib/{name}": ""})
    top = name.partition("/")[0].removesuffix(".py")
    with pytest.raises(SignetError) as error:
        project.build(project.load(folder), "production")
    assert str(error.value) == f"{folder}/lib/{name}: {top} is {reason}, which it would hide"


def test_an_import_beyond_the_top_is_left_to_the_board(make):
    folder = make(**{"lib/lamp/colour.py": "RED = 1\n\ndef other():\n    from ... import x\n"})
    project.build(project.load(folder), "production")


@pytest.mark.parametrize(("key", "most"), [("image_kb", 40), ("heap_kb", 1)])
def test_a_build_above_the_budget_is_refused(make, key, most):
    folder = make(f"[heap]\ndata_kb = 2\n[budget]\n{key} = {most}\n")
    loaded = project.load(folder)
    with pytest.raises(
        RefusedError, match=rf"budget\.{key} is {most}, and the build takes \d+\.\d"
    ):
        project.build(loaded, "production")
    project.build(loaded, "dev")  # larger than what is shipped, and not shipped


def test_an_application_that_fits_no_board_is_refused(make):
    folder = make("[heap]\ndata_kb = 40\n")
    with pytest.raises(RefusedError, match="which does not fit"):
        project.build(project.load(folder), "dev")


def test_what_it_takes(make):
    loaded = project.load(make("[heap]\ndata_kb = 2\n"))
    release, built, weight = project.make(loaded, "production")
    assert weight.image == len(built.content) + 4096
    assert weight.cost.data == 2048
    assert weight.cost.code > 0
    plain = slot_image.build(release, REPO)
    assert abs(len(built.content) - len(plain.content)) < 3 * 4096
