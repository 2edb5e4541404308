"""What comes from a file, a database or a board is printed as text; a terminal obeys none of it."""

import ast
import json
import sqlite3
from pathlib import Path

import pytest

from host_tests.tool_helpers import RELEASE, REPO
from signet import cli, options, run
from signet.board import deploy
from signet.board.measure import figures
from signet.board.virtual import console
from signet.device.provisioning import audit
from signet.device.provisioning.inventory import Device, Inventory, location
from signet.errors import SignetError
from signet.formats import documents, romfs
from signet.image import slot_image

pytest_plugins = ["host_tests.tool_fixtures"]

HOSTILE = "\x1b[2J\x07\x9b31m\x7f\u202e\u2066\u2028\u200b\nsignet: error: x\r[red]y[/red]"
SHOWN = (
    "\\x1b[2J\\x07\\x9b31m\\x7f\\u202e\\u2066\\u2028\\u200b\\x0asignet: error: x\\x0d[red]y[/red]"
)


def assert_harmless(text: str) -> None:
    assert all(line.isprintable() for line in text.split("\n")), repr(text)
    assert not [line for line in text.split("\n") if line.startswith("signet: error: x")]


CHARACTERS = {
    "text": ("dev-1, café – ✓ 日本", "dev-1, café – ✓ 日本"),
    "C0": ("\0\t\n\r\x1b", "\\x00\\x09\\x0a\\x0d\\x1b"),
    "DEL and C1": ("\x7f\x80\x9b\x9f", "\\x7f\\x80\\x9b\\x9f"),
    "turns the writing round": ("\u202a\u202e\u2066\u200f", "\\u202a\\u202e\\u2066\\u200f"),
    "ends a line": ("\u2028\u2029", "\\u2028\\u2029"),
    "not to be seen": ("\u200b\ufeff\u00ad", "\\u200b\\ufeff\\xad"),
    "half a character": ("\udc80\ud83d", "\\udc80\\ud83d"),
    "tags": ("\U000e0041", "\\ue0041"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "shown"), CHARACTERS.values(), ids=CHARACTERS)
def test_what_does_not_print_is_shown_as_a_number(text, shown):
    assert options.printable(text) == shown


def test_every_control_character_there_is():
    for code in (*range(32), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)):
        assert options.printable(chr(code)).startswith("\\"), hex(code)


def test_json_stays_json(capsys):
    options.echo_json({HOSTILE: [HOSTILE]})
    out = capsys.readouterr().out
    assert_harmless(out)
    assert json.loads(out) == {HOSTILE: [HOSTILE]}


def test_an_error_cannot_look_like_two(capsys):
    options.note("error", f"{HOSTILE}\n  a second line, indented", "red")
    err = capsys.readouterr().err
    assert_harmless(err)
    assert err == f"signet: error: {SHOWN}\n  a second line, indented\n"


def test_nothing_prints_but_through_options():
    """`click.echo`, `print` and writing to stdout or stderr are options.py's alone.

    toolchain.py runs before click is installed.
    """
    found = []
    for path in sorted((REPO / "tools/signet").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "click.echo", "click.secho", "print", "sys.stdout.write", "sys.stderr.write",
                "traceback.print_exc",
            ):  # fmt: skip
                found.append(path.name)
    assert set(found) == {"options.py", "toolchain.py"}


def test_who_prints_tables():
    """Rich takes markup out of a str: here it gets Text, or numbers."""
    users = {
        path.relative_to(REPO / "tools/signet").as_posix()
        for path in (REPO / "tools/signet").rglob("*.py")
        if "from rich" in path.read_text()
    }
    assert users == {
        "app/commands.py", "app/dev.py", "app/screen.py", "device/commands.py",
        "device/provisioning/progress.py", "board/measure/figures.py",
    }  # fmt: skip


# --- a database that somebody else wrote


@pytest.fixture
def database(tmp_path):
    """One device whose every text is hostile, with its audit line."""
    inventory = Inventory(location(None, tmp_path))
    names = "status serial certificate mac model hw profile version flash port started_at"
    texts = dict.fromkeys(names.split(), HOSTILE)
    with inventory.changing() as session:
        session.add(Device(id="dev-1", **texts))
        session.add(Device(id=f"{HOSTILE}2", **dict.fromkeys(texts, f"{HOSTILE}2")))
        audit.append(session, HOSTILE, "dev-1", HOSTILE)
    return tmp_path


@pytest.mark.parametrize("command", [("list",), ("show", "dev-1"), ("audit",), ("show", HOSTILE),
                                     ("remove", "dev-1", "--yes")])  # fmt: skip
def test_a_hostile_database_is_only_text(database, capsys, command):
    status = cli.run(["device", *command, "--pki", str(database)])
    out, err = capsys.readouterr()
    assert_harmless(out)
    assert_harmless(err)
    if command[0] in ("list", "audit"):
        assert "\\x1b[2J" in out
    if command[0] == "list":
        assert "[red]y[/red]" in out.replace("\n", "") or "…" in out  # as text, if there is room
    assert status == (1 if HOSTILE in command else 0)


@pytest.mark.parametrize("command", [("list",), ("show", "dev-1"), ("audit",)])
def test_a_value_of_another_type_is_refused(database, capsys, command):
    """SQLite has no types of columns: a text may be bytes."""
    with sqlite3.connect(database / "inventory.db") as connection:
        connection.execute("update devices set hw = X'1b5b324a' where id = 'dev-1'")
        connection.execute("update audit set result = X'1b5b324a'")
    assert cli.run(["device", *command, "--pki", str(database), "--json"]) == 1
    err = capsys.readouterr().err
    assert_harmless(err)
    assert "inventory: damaged: b'\\x1b[2J' where a text should be" in err


# --- files and boards


def unsigned_image(folder: Path, files: dict[str, bytes], build_time: int = 0) -> Path:
    payload = romfs.pack(files)
    release = slot_image.Release(**(vars(RELEASE) | {"build_time": build_time}))
    path = folder / "x.img"
    path.write_bytes(slot_image.pack_descriptor(release, len(payload)) + payload)
    return path


def test_names_in_an_image_are_only_text(tmp_path, capsys):
    path = unsigned_image(tmp_path, {HOSTILE.replace("/", ""): b"x"})
    assert cli.run(["image", "inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert_harmless(out)
    assert "\\x1b[2J" in out
    assert cli.run(["image", "inspect", str(path), "--json"]) == 0
    assert_harmless(capsys.readouterr().out)


@pytest.mark.parametrize("build_time", [2**32, 2**63, 2**64 - 1, 253_402_300_799, 253_402_300_800])
def test_an_image_of_whatever_time_is_inspected(tmp_path, capsys, build_time):
    path = unsigned_image(tmp_path, {"a": b""}, build_time)
    assert cli.run(["image", "inspect", str(path)]) == 0
    assert f"built          {documents.utc(build_time)}\n" in capsys.readouterr().out


def test_a_time_that_no_calendar_has():
    assert documents.utc(253_402_300_799) == "9999-12-31 23:59:59 UTC"
    assert documents.utc(253_402_300_800) == "253402300800 s after 1970"
    assert documents.utc(-1) == "-1 s after 1970"


def test_a_report_is_only_text(tmp_path, capsys):
    path = tmp_path / "x.symbols"
    path.write_text(json.dumps({"names": {"EPERM": HOSTILE}}))
    assert cli.run(["image", "symbols", str(path), f"EPERM {HOSTILE}"]) == 0
    out = capsys.readouterr().out
    assert_harmless(out)
    assert out == f"{SHOWN}(EPERM) {SHOWN}\n"


def test_a_file_s_name_in_an_error_is_only_text(capsys):
    for verbose in ((), ("-v",)):
        assert cli.run([*verbose, "image", "inspect", f"gone{HOSTILE}"]) == 2
        assert_harmless(capsys.readouterr().err)


def test_what_a_board_prints_is_only_text(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(console, "watch", lambda _: iter([HOSTILE]))
    assert cli.run(["board", "console", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{SHOWN}\n"


def test_what_a_board_says_to_mpremote_is_only_text(monkeypatch, tmp_path, capfd):
    program = tmp_path / "mpremote"
    program.write_text("#!/bin/sh\nprintf 'a\\033[2J\\n'; printf 'b\\033[2J\\n' >&2; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(run, "find_program", lambda _: program)
    monkeypatch.setattr(deploy, "check_device", lambda name: name)
    with pytest.raises(SignetError, match="b\x1b"):
        deploy.copy_to_board("/dev/ttyUSB0", tmp_path)
    assert capfd.readouterr() == ("", "a\\x1b[2J\n")


def test_what_was_measured_is_only_text(capsys):
    figures.show(figures.Run(HOSTILE, True, "today", rows=[figures.Row(HOSTILE, 1.0)]))
    out = capsys.readouterr().out
    assert_harmless(out)
    assert "[red]" in out.replace("\n", "")
