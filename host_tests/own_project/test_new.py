"""`signet new`: from a template and from a folder, what stays behind, and nothing half made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from host_tests.tool_helpers import Signet, snapshot
from signet import files, project
from signet.app import bench, ports
from signet.errors import RefusedError, SignetError
from signet.project import new

pytest_plugins = ["host_tests.tool_fixtures"]

TEMPLATES = {
    "sensor": {"temperature_c"},
    "actuator": {"on", "left_s"},
    "battery": {"battery_mv"},
}  # and what it sends
SECRET = "-----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END EC PRIVATE KEY-----\n"


def test_every_template_is_known():
    assert set(TEMPLATES) == set(new.TEMPLATES)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_passes_its_own_tests_and_runs(tmp_path: Path, template: str):
    folder = tmp_path / "gadget-2"
    new.from_template(folder, template)
    made = project.load(folder)
    assert (made.name, made.model, made.version) == ("gadget-2", "gadget-2", "1.0.0")
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert tested.returncode == 0, tested.stdout
    project.build(made, "production")  # within its budget
    bench.make_state_folder(made)
    with bench.Bench(made, tmp_path / "bench", ports.choose(made.servers)) as running:
        board = running.make_board("gadget", tmp_path / "board", bench.build(made))
        with board:
            board.start()
            assert TEMPLATES[template] <= set(board.telemetry())
            board.state(status="confirmed")


def test_in_an_empty_folder(signet: Signet, tmp_path: Path):
    done = signet("new", "thermometer")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "thermometer: made from the template sensor; README.md there says what is next\n"
    )
    folder = tmp_path / "thermometer"
    assert set(snapshot(folder)) == {
        ".gitignore", "README.md", "app.py", "lib/lm75.py", "lib/simulated.py", "signet.toml",
        "tests/test_app.py", "tests/test_on_board.py",
    }  # fmt: skip
    assert (folder / "README.md").read_text().startswith("# thermometer\n")
    assert signet("build", cwd=folder).returncode == 0
    assert folder.stat().st_mode & 0o077 == 0o077 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_git_takes_no_key(tmp_path: Path):
    new.from_template(tmp_path / "lamp", "actuator")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path / "lamp", check=True)
    for name in (".signet/pki/release.key", "pki/release.key", "keys/my.key", "boards/1/flash.bin"):
        path = tmp_path / "lamp" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    listed = subprocess.run(
        ["git", "ls-files", "--others", "--exclude-standard"],
        cwd=tmp_path / "lamp", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert set(listed.stdout.split()) == {
        ".gitignore", "README.md", "app.py", "lib/relay.py", "signet.toml",
        "tests/test_app.py", "tests/test_on_board.py",
    }  # fmt: skip


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of a user's, in which he has worked."""
    folder = tmp_path / "own"
    new.from_template(folder, "sensor")
    for name, text in {
        ".signet/pki/release.key": SECRET, "pki/release.pub": "", "build/x.img": "",
        "lib/__pycache__/lm75.pyc": "", ".git/config": "", ".ruff_cache/x": "",
        "notes/release.key": "", "notes/server.pem": SECRET, "board/flash.bin": "",
        "data/ca.pem": "-----BEGIN CERTIFICATE-----\n", "lib/build/inner.py": "", "run.sh": "",
    }.items():  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "run.sh").chmod(0o755)
    return folder


def test_from_a_folder_of_ones_own(signet: Signet, own: Path, tmp_path: Path):
    (own / ".gitignore").unlink()
    text = (own / "signet.toml").read_text()
    (own / "signet.toml").write_text(text.replace('name = "own"', "name='own' # mine"))
    done = signet("new", "copy", "--from", "own")
    assert (done.returncode, done.stdout) == (0, "copy: made like own\n")
    assert done.stderr.splitlines() == [
        f"signet: note: own/{name}: a secret, which stays where it is"
        for name in ("board/flash.bin", "notes/release.key", "notes/server.pem")
    ]
    found = snapshot(tmp_path / "copy")
    assert set(found) == {
        ".gitignore", "README.md", "app.py", "data/ca.pem", "lib/build/inner.py", "lib/lm75.py",
        "lib/simulated.py", "run.sh", "signet.toml", "tests/test_app.py", "tests/test_on_board.py",
    }  # fmt: skip
    assert b'name="copy" # mine' in found["signet.toml"]
    assert b'model = "copy"' in found["signet.toml"]
    assert os.access(tmp_path / "copy/run.sh", os.X_OK)
    assert found["app.py"] == (own / "app.py").read_bytes()


def test_a_model_of_its_own_stays(own: Path, tmp_path: Path):
    text = (own / "signet.toml").read_text()
    (own / "signet.toml").write_text(text.replace('model = "own"', 'model = "t-2"'))
    new.from_folder(tmp_path / "copy", own)
    copy = project.load(tmp_path / "copy")
    assert (copy.name, copy.model) == ("copy", "t-2")


def test_a_copy_inside_its_source(own: Path):
    new.from_folder(own / "copy", own)
    assert project.load(own / "copy").name == "copy"
    assert not (own / "copy/copy").exists()


def test_an_empty_folder_is_taken_and_another_is_not(signet: Signet, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    new.from_template(tmp_path / "empty", "sensor")
    before = snapshot(tmp_path)
    done = signet("new", "empty")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "signet: error: empty: exists and is no empty folder, and is left as it is\n"
        "signet: hint: choose another name\n"
    )
    assert snapshot(tmp_path) == before


def into(name: str) -> str:
    return f"project name {name!r}, expected 1 to 31 of a-z, 0-9 and '-'"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        *((name, into(name)) for name in ("Lamp", "la mp", "-lamp", "l" * 32, "lämp", "..")),
        (".", into("")),
        ("no/such/lamp", "no/such/lamp: cannot make the project: No such file or directory"),
        ("file/lamp", "file/lamp: cannot make the project: Not a directory"),
        ("link", "link: exists and is no empty folder"),
        ("file", "file: exists and is no empty folder"),
    ],
)
def test_a_place_that_will_not_do(tmp_path, monkeypatch, target, reason):
    (tmp_path / "file").write_text("")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SignetError) as error:
        new.from_template(Path(target), "sensor")
    assert str(error.value).startswith(reason)
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "file", "link"]
    assert not os.listdir(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        pytest.param(lambda own: (own / "signet.toml").unlink(), "no project", id="no project"),
        pytest.param(lambda own: (own / "x").symlink_to("/etc"), "x: a link or device", id="link"),
        pytest.param(lambda own: os.mkfifo(own / "lib/x"), "x: a link or device", id="pipe"),
        pytest.param(
            lambda own: (own / "signet.toml").write_text(
                "project={name='own',model='o',hardware='A',version='1',counter=1,"
                "micropython='1.25.0'}"
            ),
            'cannot change the name, expected a line name = "…"',
            id="name",
        ),
    ],
)
def test_a_folder_that_cannot_be_taken(own: Path, tmp_path: Path, break_it, reason):
    break_it(own)
    with pytest.raises(SignetError) as error:
        new.from_folder(tmp_path / "copy", own)
    assert reason in str(error.value)
    assert os.listdir(tmp_path) == ["own"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_is_interrupted_leaves_nothing(tmp_path: Path, monkeypatch, error):
    write = files.create_exclusive
    written: list[Path] = []

    def fail(path, data, mode):
        if len(written) == 3:
            raise error
        written.append(path)
        write(path, data, mode)

    monkeypatch.setattr(files, "create_exclusive", fail)
    with pytest.raises((SignetError, KeyboardInterrupt)):
        new.from_template(tmp_path / "lamp", "sensor")
    assert len(written) == 3
    assert os.listdir(tmp_path) == []


def test_somebody_else_is_faster(tmp_path: Path, monkeypatch):
    load = project.load

    def load_late(folder):
        (tmp_path / "lamp").mkdir()
        (tmp_path / "lamp/theirs").write_text("1")
        return load(folder)

    monkeypatch.setattr(project, "load", load_late)
    with pytest.raises(RefusedError, match="lamp: exists and is no empty folder"):
        new.from_template(tmp_path / "lamp", "sensor")
    assert snapshot(tmp_path) == {"lamp/theirs": b"1"}
