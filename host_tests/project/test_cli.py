"""The program `signet` as its user meets it: stdout, stderr, exit code, and what is left behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from host_tests.tool_helpers import REPO, Signet, mode, snapshot
from signet import cli, files
from signet.errors import RefusedError, SignetError
from signet.formats import flash, signing
from trust.identity import Identity

pytest_plugins = ["host_tests.tool_fixtures"]

BUILD = ("image", "build", "--version", "1.0.0", "--model", "signet-demo", "--counter", "1")
PROVISION = (
    *("device", "provision", "--id", "dev-0001", "--model", "signet-demo", "--hw", "A1"),
    *("--broker", "localhost:8883", "--images", "localhost:8443", "--ntp", "localhost:123"),
    *("--inventory", "inventory.db"),
)


def left_behind(tmp_path: Path) -> list[str]:
    """Names in the working folder, and in the temporary folder of the program."""
    assert not any((tmp_path / "temp").iterdir())
    return sorted(path.name for path in tmp_path.iterdir() if path.name != "temp")


def test_the_main_job(signet: Signet, project, keys, tmp_path):
    """Build, sign, verify, inspect, provision: each says what it did, on stdout."""
    build = signet(*BUILD, "--source", project, "-o", "u.img", SOURCE_DATE_EPOCH="1700000000")
    assert (build.returncode, build.stderr) == (0, "")
    size = (tmp_path / "u.img").stat().st_size
    said = f"u.img: 1.0.0 for signet-demo, production, counter 1, {size} bytes, "
    assert build.stdout.startswith(said)

    sign = signet("image", "sign", "u.img", "--key", keys / "release.key", "-o", "s.img")
    digest = signing.key_digest(keys / "release.pub").hex()
    assert (sign.returncode, sign.stderr) == (0, "")
    assert sign.stdout == f"s.img: signed by key {digest}, {size + 4096} bytes\n"

    verify = signet("image", "verify", "s.img", "--key", keys / "release.pub")
    assert (verify.returncode, verify.stderr) == (0, "")
    assert verify.stdout == "s.img: verified: 1.0.0 for signet-demo, production, counter 1\n"

    inspect = signet("image", "inspect", "s.img")
    assert (inspect.returncode, inspect.stderr) == (0, "")
    assert f"key_digest     {digest}\n" in inspect.stdout
    assert "built          2023-11-14 22:13:20 UTC\n" in inspect.stdout
    assert "/firmware/agent.mpy\n" in inspect.stdout
    assert "problem" not in inspect.stdout

    provision = signet(
        *PROVISION, "--pki", keys, "--image", "s.img", "--source", project, "--heap-kb", "24",
        "-o", "flash.bin",
    )  # fmt: skip
    assert (provision.returncode, provision.stderr) == (0, "")
    assert provision.stdout == "flash.bin: dev-0001 (signet-demo, A1), s.img in slot A\n"
    assert mode(tmp_path / "flash.bin") == 0o600
    identity = flash.Flash.load(tmp_path / "flash.bin").device("esp_secure_cert")
    assert Identity(identity).record()["heap_kb"] == 24
    made = ["flash.bin", "inventory.db", "s.img", "u.img", "u.img.symbols"]
    assert left_behind(tmp_path) == made


def test_json_says_the_same(signet, keys, signed_file, signed):
    facts = {
        "version": "1.0.0",
        "model": "signet-demo",
        "profile": "production",
        "counter": 1,
        "platform": "1.25.0",
        "build_time": 1_700_000_000,
        "payload_bytes": len(signed) - 8192,
        "heap_kb": 0,
    }
    verify = signet("image", "verify", signed_file, "--key", keys / "release.pub", "--json")
    assert json.loads(verify.stdout) == facts
    inspect = json.loads(signet("image", "inspect", signed_file, "--json").stdout)
    assert inspect.pop("files")["/firmware/app.mpy"] > 0
    assert inspect.pop("names") > 0
    assert inspect == facts | {
        "bytes": len(signed),
        "key_digest": signing.key_digest(keys / "release.pub").hex(),
        "problems": [],
    }


def test_pki_init_lists_what_it_made(signet, tmp_path):
    made = signet("pki", "init", "fleet", "--host", "localhost")
    assert (made.returncode, made.stderr) == (0, "")
    found = sorted(path.name for path in (tmp_path / "fleet").iterdir())
    assert made.stdout.split() == [f"fleet/{name}" for name in found]
    before = snapshot(tmp_path)

    again = signet("pki", "init", "fleet", "--host", "localhost")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == (
        "signet: error: fleet: exists, and keys are never overwritten\n"
        "signet: hint: choose another folder, or move this one away\n"
    )
    assert snapshot(tmp_path) == before


REFUSED = {
    "another model": (
        ("image", "verify", "s.img", "--key", "{keys}/release.pub", "--model", "other"),
        "s.img: image for model 'signet-demo', this is a 'other'",
    ),
    "another key": (
        ("image", "verify", "s.img", "--key", "{keys}/fleet.pub"),
        "s.img: signed by an unknown key",
    ),
    "no image": (("image", "inspect", "junk"), "junk: not a slot image: magic"),
    "signed already": (
        ("image", "sign", "s.img", "--key", "{keys}/release.key", "-o", "out.img"),
        "s.img: the image is signed already",
    ),
    "image by another key": (
        (*PROVISION, "--pki", "{keys}", "--image", "junk", "-o", "flash.bin"),
        "junk: not a slot image",
    ),
    "key of another device": (
        (
            *(*PROVISION, "--pki", "{keys}", "--image", "s.img", "-o", "flash.bin"),
            *("--cert", "{keys}/operator.pem", "--key", "{keys}/server.key"),
        ),
        "device key does not belong to the device certificate",
    ),
    "board exists": (
        (*PROVISION, "--pki", "{keys}", "--image", "s.img", "-o", "junk"),
        "junk: exists, and a provisioned device is not overwritten",
    ),
}

ENVIRONMENT = {
    "no command": ((), "Usage: signet"),
    "unknown command": (("image", "burn"), "signet: error: No such command 'burn'."),
    "missing option": (("image", "sign", "s.img"), "signet: error: Missing option '--key'"),
    "no such file": (
        ("image", "inspect", "gone.img"),
        "signet: error: gone.img: cannot read the image: No such file or directory",
    ),
    "no such key": (
        ("image", "verify", "s.img", "--key", "gone.pub"),
        "signet: error: gone.pub: cannot read the key: No such file or directory",
    ),
    "no such folder": (
        (*BUILD, "--source", "{project}", "-o", "gone/u.img"),
        "signet: error: gone/u.img.symbols: cannot write: No such file or directory",
    ),
    "counter": ((*BUILD[:-1], "4294967296", "-o", "u.img"), "Invalid value for '--counter'"),
    "platform": ((*BUILD, "--min-platform", "1.25", "-o", "u.img"), "expected major.minor.patch"),
    "version": ((*BUILD, "--version", "1 0", "-o", "u.img"), "signet: error: version '1 0'"),
    "no firmware": ((*BUILD, "--source", "temp", "-o", "u.img"), "temp/firmware: no Python files"),
    "not a key": (
        ("image", "sign", "u.img", "--key", "junk", "-o", "out.img"),
        "junk: not an unencrypted PEM key",
    ),
    "certificate alone": (
        (*PROVISION, "--pki", "{keys}", "--image", "s.img", "-o", "flash.bin", "--cert", "junk"),
        "signet: error: --cert and --key go together",
    ),
    "device id": (
        (*PROVISION, "--id", "a/b", "--pki", "{keys}", "--image", "s.img", "-o", "flash.bin"),
        "signet: error: device id 'a/b'",
    ),
    "no such PKI": (
        (*PROVISION, "--pki", "temp", "--image", "s.img", "-o", "flash.bin"),
        "signet: error: temp/release.pub: cannot read the key",
    ),
}


@pytest.mark.parametrize(
    ("code", "args", "reason"),
    [(1, *case) for case in REFUSED.values()] + [(2, *case) for case in ENVIRONMENT.values()],
    ids=[*REFUSED, *ENVIRONMENT],
)
def test_a_failure_says_why_and_leaves_nothing(
    signet, project, keys, unsigned, signed, tmp_path, code, args, reason
):
    (tmp_path / "u.img").write_bytes(unsigned)
    (tmp_path / "s.img").write_bytes(signed)
    (tmp_path / "junk").write_bytes(b"junk" * 1024)
    before = snapshot(tmp_path)
    done = signet(*(argument.format(keys=keys, project=project) for argument in args))
    assert (done.returncode, done.stdout) == (code, "")
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert snapshot(tmp_path) == before
    assert left_behind(tmp_path) == ["junk", "s.img", "u.img"]


def test_verbose_shows_where(signet):
    done = signet("-v", "image", "inspect", "gone.img")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.endswith(
        "signet: error: gone.img: cannot read the image: No such file or directory\n"
    )


def test_an_older_output_survives_a_failure(signet, project, keys, signed, tmp_path):
    (tmp_path / "out.img").write_bytes(b"SGNTSLOT, older")
    (tmp_path / "s.img").write_bytes(signed)
    app = tmp_path / "app.py"
    app.write_text("def run(:\n")
    for args in (
        (*BUILD, "--source", project, "--app", app, "-o", "out.img"),
        ("image", "sign", "s.img", "--key", keys / "release.key", "-o", "out.img"),
    ):
        assert signet(*args).returncode > 0
        assert (tmp_path / "out.img").read_bytes() == b"SGNTSLOT, older"
    assert left_behind(tmp_path) == ["app.py", "out.img", "s.img"]


def test_output_to_a_reader_that_left_is_no_traceback(signed_file):
    program = [sys.executable, "-m", "signet", "image", "inspect", str(signed_file)]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(program, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (2, "")


def every_command(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path]
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            found += every_command(command, (*path, name))
        else:
            found.append((*path, name))
    return found


def test_every_help_states_the_exit_codes(capsys):
    commands = every_command(cli.program)
    assert ("image", "build") in commands
    for path in commands:
        assert cli.run([*path, "--help"]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert "Exit codes: 0 done, 1 refused" in shown, path


def test_an_unforeseen_error_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr("signet.image.slot_image.inspect_image", lambda _: 1 // 0)
    assert cli.run(["image", "inspect", str(REPO / "pyproject.toml")]) == 2
    assert capsys.readouterr().err == (
        "signet: error: ZeroDivisionError: integer division or modulo by zero\n"
        "signet: hint: signet -v shows where\n"
    )


# --- files


def replace_any(path: Path, data: bytes) -> None:
    files.replace_file(path, data, files.OURS)


WRITERS = [replace_any, files.write_new_file, files.write_new_secret]


def test_a_file_that_others_may_read_follows_the_umask(tmp_path):
    old = os.umask(0o022)
    try:
        files.replace_file(tmp_path / "image", b"1", files.OURS)
    finally:
        os.umask(old)
    assert mode(tmp_path / "image") == 0o644
    files.replace_file(tmp_path / "image", b"2", files.OURS)
    assert (tmp_path / "image").read_bytes() == b"2"
    assert os.listdir(tmp_path) == ["image"]


def test_only_regular_files_are_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("target")
    with pytest.raises(SignetError, match="not a regular file"):
        files.replace_file(tmp_path / "pipe", b"data", files.OURS)
    files.replace_file(tmp_path / "link", b"data", files.OURS)
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"data"


def test_a_secret_is_never_replaced(tmp_path):
    files.write_new_secret(tmp_path / "key", b"1")
    assert mode(tmp_path / "key") == 0o600
    with pytest.raises(RefusedError, match="exists"):
        files.write_new_secret(tmp_path / "key", b"2")
    assert snapshot(tmp_path) == {"key": b"1"}


def test_an_exclusive_file_was_not_there_before(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").write_bytes(b"mine")
    for name in ("link", "file"):
        with pytest.raises(FileExistsError):
            files.create_exclusive(tmp_path / name, b"data", files.SECRET_MODE)
    assert snapshot(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch, write, error):
    def fail(_descriptor):
        raise error

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises((SignetError, KeyboardInterrupt)):
        write(tmp_path / "out", b"data")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("write", WRITERS)
def test_a_disk_that_keeps_something_else_is_noticed(tmp_path, monkeypatch, write):
    monkeypatch.setattr(Path, "read_bytes", lambda _: b"other")
    with pytest.raises(SignetError, match="read back differs"):
        write(tmp_path / "out", b"data")
    assert os.listdir(tmp_path) == []
