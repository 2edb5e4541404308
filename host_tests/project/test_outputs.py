"""What a command writes replaces a file of its own kind, and no other."""

import os
from pathlib import Path

import pytest

from host_tests.tool_helpers import RELEASE, snapshot
from signet import cli, files
from signet.board.measure import figures
from signet.errors import RefusedError, SignetError
from signet.fleet import broker, folder, serving
from signet.image import slot_image, symbols
from signet.pki import authority
from signet.release import publishing

pytest_plugins = ["host_tests.tool_fixtures"]

BUILD = ("image", "build", "--version", "1.0.0", "--model", "signet-demo", "--counter", "1")


def commands(project: Path, keys: Path) -> dict[str, tuple[object, ...]]:
    """Every command with -o, and a name that is taken."""
    provision = {
        "--pki": keys, "--source": project, "--model": "signet-demo", "--hw": "A1",
        "--broker": "localhost:8883", "--images": "localhost:8443", "--ntp": "localhost:123",
        "--image": "signed.img", "--inventory": "inventory.db", "--id": "dev-0001",
    }  # fmt: skip
    options = [word for pair in provision.items() for word in pair]
    chip = ("--chip", "esp32", "--mac", "24:0a:c4:01:02:03", "--flash-key", "flash.key")
    return {
        "image build": (*BUILD, "--source", project),
        "image sign": ("image", "sign", "unsigned.img", "--key", keys / "release.key"),
        "device token": ("device", "token", "--key", keys / "release.key", "--device", "dev-1"),
        "device provision": ("device", "provision", *options),
        "burn plan": ("device", "burn", "plan", *chip, "--release-pub", keys / "release.pub"),
    }


KIND = files.Kind("a thing", lambda head: head.startswith(b"THING"))
COMMANDS = list(commands(Path(), Path()))
REPLACES = {"image build": "a slot image", "image sign": "a slot image"}  # of its own kind


@pytest.fixture
def bench(tmp_path, keys, unsigned, signed_file):
    (tmp_path / "unsigned.img").write_bytes(unsigned)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_replaces_the_release_key(bench, keys, project, monkeypatch, capsys, command):
    monkeypatch.chdir(bench)
    (bench / "victim").write_bytes((keys / "release.key").read_bytes())
    before = snapshot(bench)
    assert cli.run([*map(str, commands(project, keys)[command]), "-o", "victim"]) == 1
    out, err = capsys.readouterr()
    found = f"exists and is a PEM file, PRIVATE KEY, expected {REPLACES.get(command)} or nothing"
    assert (found if command in REPLACES else "exists, and ") in err
    assert (out, "-----" in err) == ("", False)
    assert {name: content for name, content in snapshot(bench).items() if name in before} == before


VICTIMS = {
    "PEM": (b"-----BEGIN EC PRIVATE KEY-----\nMIG", "a PEM file, EC PRIVATE KEY"),
    "text": (b"as it was\n", "a file of another kind"),
    "flash key": (bytes(range(32)), "a file of another kind"),
    "its magic, later": (b" THING", "a file of another kind"),
}


@pytest.mark.parametrize("link", [False, True], ids=["file", "link"])
@pytest.mark.parametrize(("content", "found"), VICTIMS.values(), ids=VICTIMS)
def test_a_file_of_another_kind_stays(tmp_path, content, found, link):
    (tmp_path / "victim").write_bytes(content)
    if link:
        (tmp_path / "link").symlink_to("victim")
    path = tmp_path / ("link" if link else "victim")
    before = snapshot(tmp_path)
    for change in (lambda: files.replace_file(path, b"THING", KIND),
                   lambda: files.remove_file(path, KIND)):  # fmt: skip
        with pytest.raises(RefusedError) as refusal:
            change()
        assert str(refusal.value).endswith(f"exists and is {found}, expected a thing or nothing")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("command", list(REPLACES))
def test_an_image_replaces_an_image(bench, keys, project, monkeypatch, capsys, command):
    monkeypatch.chdir(bench)
    (bench / "out").write_bytes(b"SGNTSLOT of yesterday")
    assert cli.run([*map(str, commands(project, keys)[command]), "-o", "out"]) == 0
    assert slot_image.inspect_image((bench / "out").read_bytes()).descriptor.version == "1.0.0"


def test_the_map_of_an_image_replaces_no_other_file(project, tmp_path):
    """Nor is one removed, for an image without short names."""
    built = slot_image.build(RELEASE, project)
    victim = symbols.map_path(tmp_path / "x.img")
    victim.write_bytes(b"mine")
    for names in (built.names, {}):
        with pytest.raises(RefusedError, match="expected a symbol map or nothing"):
            symbols.write_build(
                tmp_path / "x.img", RELEASE, slot_image.Build(built.content, built.files, names)
            )
        assert snapshot(tmp_path) == {"x.img.symbols": b"mine"}
    victim.unlink()
    symbols.write_build(tmp_path / "x.img", RELEASE, built)
    symbols.write_build(tmp_path / "x.img", RELEASE, built)  # of its own kind


_NO_FILE = r"not a regular file|cannot look at"
OTHERS = {"pipe": os.mkfifo, "folder": Path.mkdir, "loop": lambda path: path.symlink_to(path.name)}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_what_is_no_file_is_not_replaced(tmp_path, make):
    make(tmp_path / "out")
    for path in (tmp_path / "out", Path("/dev/null")):
        with pytest.raises(SignetError, match=_NO_FILE):
            files.replace_file(path, b"THING", KIND)
        with pytest.raises(SignetError, match=_NO_FILE):
            files.remove_file(path, KIND)
    assert os.listdir(tmp_path) == ["out"]
    assert Path("/dev/null").is_char_device()


def test_an_empty_file_is_of_every_kind(tmp_path):
    (tmp_path / "out").touch()
    files.replace_file(tmp_path / "out", b"THING", KIND)
    files.replace_file(tmp_path / "out", b"THING 2", KIND)
    assert snapshot(tmp_path) == {"out": b"THING 2"}
    files.remove_file(tmp_path / "out", KIND)
    files.remove_file(tmp_path / "out", KIND)
    assert snapshot(tmp_path) == {}


def test_every_writer_s_next_write_may_replace_its_last(tmp_path, keys):
    """Else a command would work once. What they write, they take for their own."""
    figures.save(tmp_path / "figures", "command", [])
    figures.save(tmp_path / "figures", "command", [])
    assert [publishing.next_number(tmp_path, now) for now in (7, 8)] == [7, 8]
    for _ in range(2):
        broker.Broker(tmp_path, keys, "127.0.0.1", 1)._lay_out(None)


@pytest.mark.parametrize("name", ["fleet.json", "broker/access", "broker/mosquitto.conf"])
def test_a_folder_that_is_not_a_fleet_s_is_left_alone(tmp_path, keys, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"mine")
    with pytest.raises(RefusedError, match=f"{name}: exists and is a file of another kind"):
        serving.Fleet(tmp_path, keys, "127.0.0.1", 0, 0, 0).start()
    assert path.read_bytes() == b"mine"


def test_keys_are_new_files(tmp_path):
    (tmp_path / "pki").mkdir()
    (tmp_path / "pki/release.key").write_bytes(b"mine")
    with pytest.raises(RefusedError):
        authority.init_pki(tmp_path / "pki", ["localhost"])
    assert snapshot(tmp_path) == {"pki/release.key": b"mine"}
    assert folder.OWN_STATE.begins(b'{"pid": 1')
