"""The map of a build's short names: beside the image, and put to use by `signet image symbols`."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from host_tests.tool_helpers import RELEASE
from signet.errors import SignetError
from signet.image import names, slot_image, stage1, symbols

pytest_plugins = ["host_tests.tool_fixtures"]


def build_with(signet, project, path, *more):
    return signet(
        *("image", "build", "--version", "1.0.0", "--model", "signet-demo", "--counter", "1"),
        *("--build-time", "1700000000", "--source", project, "-o", path, *more),
    )


def test_a_build_has_a_map_beside_it(signet, project, keys, tmp_path):
    image, maps = tmp_path / "x.img", tmp_path / "x.img.symbols"
    done = build_with(signet, project, image)
    content = json.loads(maps.read_text())
    assert f"{len(content['names'])} names shortened" in done.stdout, done.stderr
    assert len(content["names"]) > 20
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    assert content == {
        "version": "1.0.0",
        "model": "signet-demo",
        "image": digest,
        **names_of(maps),
    }
    assert list(content["names"].values()) == [
        "GREETING",
        "TABLE",
        "VERSION",
        *stage1.known_names(project)[1].values(),
    ]
    before = maps.read_bytes()
    build_with(signet, project, image)
    assert maps.read_bytes() == before
    maps.unlink()
    signed = signet("image", "sign", image, "--key", keys / "release.key", "-o", tmp_path / "s.img")
    assert signed.returncode == 0, signed.stderr
    assert sorted(path.name for path in tmp_path.glob("*.img*")) == ["s.img", "x.img"]


def names_of(maps: Path) -> dict[str, dict[str, str]]:
    return {"names": json.loads(maps.read_text())["names"]}


def test_a_dev_image_is_not_renamed_and_an_old_map_goes(signet, project, tmp_path):
    image, maps = tmp_path / "x.img", tmp_path / "x.img.symbols"
    build_with(signet, project, image)
    assert b"GREETING" not in image.read_bytes()
    done = build_with(signet, project, image, "--profile", "dev")
    assert "0 names shortened" in done.stdout
    assert b"GREETING" in image.read_bytes()
    assert not maps.exists()


@pytest.mark.parametrize("profile", ["production", "sealed"])
def test_other_images_are_renamed(project, profile):
    built = slot_image.build(replace(RELEASE, profile=profile), project)
    assert list(built.names.values()) == [
        "GREETING",
        "TABLE",
        "VERSION",
        *stage1.known_names(project)[1].values(),
    ]


def test_an_image_that_cannot_be_written_leaves_the_map_as_it_was(project, tmp_path):
    built = slot_image.build(RELEASE, project)
    folder = tmp_path / "folder.img"
    folder.mkdir()
    with pytest.raises(SignetError, match="not a regular file"):
        symbols.write_build(folder, RELEASE, built)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.img"]
    symbols.map_path(folder).write_text("old")
    with pytest.raises(SignetError):
        symbols.write_build(folder, RELEASE, built)
    assert symbols.map_path(folder).read_text() == "old"


def test_a_report_is_translated(signet, tmp_path):
    maps = tmp_path / "x.symbols"
    maps.write_text(json.dumps({"names": {"EPERM": "_publish", "D": "packet_id"}}))
    report = "AttributeError: 'D' has no EPERM2, EPERM; [Errno 1] EPERM"
    expected = "AttributeError: 'packet_id(D)' has no EPERM2, _publish(EPERM); "
    expected += "[Errno 1] _publish(EPERM)\n"
    assert signet("image", "symbols", maps, report).stdout == expected
    assert signet("image", "symbols", maps, *report.split()).stdout == expected
    assert names.translate("a\n\nD", {"D": "packet_id"}) == "a\n\npacket_id(D)"


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"names": []}', '{"names": {"a": 1}}', "\xff"]
)
def test_what_is_no_map_is_refused(signet, tmp_path, content):
    (tmp_path / "x").write_bytes(content.encode("latin-1"))
    done = signet("image", "symbols", tmp_path / "x", "text")
    assert (done.returncode, done.stdout) == (2, "")
    assert "x: no symbol map: expected JSON with 'names'" in done.stderr
    assert "signet image build" in done.stderr
    assert "cannot read the symbol map" in signet("image", "symbols", tmp_path / "no", "t").stderr


def test_inspect_counts_names(signet, project, tmp_path):
    build_with(signet, project, tmp_path / "x.img", "--profile", "dev")
    facts = json.loads(signet("image", "inspect", "--json", tmp_path / "x.img").stdout)
    build_with(signet, project, tmp_path / "x.img")
    short = json.loads(signet("image", "inspect", "--json", tmp_path / "x.img").stdout)
    assert facts["names"] == short["names"] + 3
    shown = signet("image", "inspect", tmp_path / "x.img").stdout
    assert re.search(rf"^names +{short['names']} that the ROM does not have$", shown, re.M)
