"""`make demo` itself: it holds, its transcript fits a terminal, and it notices what does not."""

import base64
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from host_tests.project.key_material import find_keys, keys_and_places
from signet.formats.flash import Flash
from trust.identity import Identity

REPO = Path(__file__).resolve().parents[2]
DEMO_S = 900  # reached by what hangs alone
TRANSCRIPT = (REPO / "README.md").read_text().split("```console\n")[1].split("```")[0].splitlines()
BENCH = (REPO / "docs/provisioning.md").read_text().replace("\\\n", " ").splitlines()
COMMANDS = sorted({line for line in (*TRANSCRIPT, *BENCH) if line.startswith("$ signet ")})
README_CONSOLE = [
    re.sub(r"\d+ of \d+", "N of N", line) for line in TRANSCRIPT if line.startswith("signet: ")
]


def _in_base64(shift: int) -> Callable[[bytes, bytes], bytes]:
    return lambda pem, number: base64.b64encode(bytes(shift) + number)


FORMS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "PEM": lambda pem, number: pem,
    "a line of PEM": lambda pem, number: pem.splitlines()[1],
    "raw": lambda pem, number: number,
    "little-endian": lambda pem, number: number[::-1],
    "hexadecimal": lambda pem, number: number.hex().encode(),
    "HEXADECIMAL": lambda pem, number: number.hex().upper().encode(),
    **{f"base64 at {shift}": _in_base64(shift) for shift in range(3)},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["EC", "RSA"])
def test_key_material_is_found(kind, form):
    """What the search of the demo's traces relies on."""
    if kind == "EC":
        key: Any = ec.generate_private_key(ec.SECP256R1())
        number = key.private_numbers().private_value.to_bytes(32)
    else:
        key = rsa.generate_private_key(65537, 3072)
        number = key.private_numbers().d.to_bytes(384)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    leak = b"\x55key: " + FORMS[form](pem, number) + b"\n"
    assert find_keys([pem], {"clean": b"key: " + bytes(5000), "leaky": leak}) == ["leaky"]


def start_demo(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "demo", "--folder", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(REPO / "tools")}
    return subprocess.Popen(
        command, text=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.fixture
def demo(monkeypatch):
    """The demo's main module."""
    monkeypatch.syspath_prepend(REPO / "tools")
    from demo import play

    monkeypatch.setattr("os.chdir", lambda _: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    return play


@pytest.mark.slow
def test_the_demo_holds(tmp_path):
    """All of it, as a person without a terminal gets it."""
    folder = tmp_path / "demo"
    stdout, stderr = start_demo(folder).communicate(timeout=DEMO_S)
    assert stderr == ""
    assert "✗" not in stdout, stdout
    assert "✓ Every step held, in " in stdout, stdout
    rows = [line for line in stdout.splitlines() if line.startswith("  ✓   ")]
    assert len(rows) == 7 + 8, stdout
    assert "\x1b" not in stdout  # no colours in a file
    assert "signet: memory: " not in stdout  # nor what a program reads
    too_long = [line for line in stdout.splitlines() if len(line) > 80]
    assert [line for line in too_long if str(tmp_path) not in line] == []
    keys, places = keys_and_places(folder)
    assert len(keys) >= 7
    assert find_keys(keys, places | {"stdout": stdout.encode()}) == []

    said = iter(re.sub(r"\d+ of \d+", "N of N", line) for line in stdout.splitlines())
    for expected in README_CONSOLE:
        assert any(line.endswith(expected) for line in said), f"README: {expected!r}"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_in_the_documents_exist(command):
    words = shlex.split(command.removeprefix("$ signet "))
    done = subprocess.run(
        [sys.executable, "-m", "signet", *words[:2], "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [word for word in words if word.startswith("-") and word not in done.stdout] == []


def test_a_folder_that_no_demo_made_is_not_wiped(tmp_path):
    (tmp_path / "work").write_text("precious")
    process = start_demo(tmp_path)
    assert process.communicate(timeout=DEMO_S)[1].startswith("demo: error: ")
    assert process.returncode == 2
    assert (tmp_path / "work").read_text() == "precious"


def test_a_second_demo_in_the_folder_waits_its_turn(tmp_path):
    first = start_demo(tmp_path / "demo")
    assert first.stdout
    while "1  Make a fleet" not in first.stdout.readline():
        assert first.poll() is None
    second = start_demo(tmp_path / "demo")
    _, stderr = second.communicate(timeout=DEMO_S)
    first.send_signal(signal.SIGINT)
    assert first.communicate(timeout=DEMO_S)[1] == "demo: interrupted\n"
    assert (first.returncode, second.returncode) == (1, 2)
    assert f"a demo runs there already, process {first.pid}" in stderr


@pytest.mark.slow
def test_a_host_is_named_by_certificate_and_record(demo, tmp_path, capsys):
    """The first three steps with --host, which is for a real board or an emulator."""
    from demo.stage import Stage
    from demo.transcript import Transcript

    (tmp_path / "demo").mkdir()
    with Stage(tmp_path / "demo", Transcript(), "10.0.2.2", "a network") as stage:
        for step in (demo.make_fleet, demo.build_release, demo.provision):
            step(stage)
        addresses = stage.fleet.addresses
    pem = x509.load_pem_x509_certificate((tmp_path / "demo/pki/server.pem").read_bytes())
    names = pem.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "10.0.2.2" in map(str, names.get_values_for_type(x509.IPAddress))
    chip = Flash.load(tmp_path / "demo/device/flash.bin")
    record = Identity(chip.device("esp_secure_cert")).record()
    ports = {name: addresses[name].split(":")[1] for name in ("broker", "images", "ntp")}
    assert {name: record[name] for name in ports} == {
        name: f"10.0.2.2:{port}" for name, port in ports.items()
    }
    assert record["id"] == "dev-0002"
    assert b"a network" in chip.read("vfs")
    assert "dev-0002, for a real board or an emulator, knows this" in capsys.readouterr().out


@pytest.mark.parametrize("fails", [0, 3, 6])
def test_a_step_that_does_not_hold_ends_it(demo, monkeypatch, tmp_path, capsys, fails):
    from demo.transcript import NotHeldError

    def step(_stage: object, number: int) -> str:
        if number == fails:
            raise NotHeldError("not so: the earth is flat")
        return "well"

    steps = [
        (title, name, lambda stage, number=number: step(stage, number))
        for number, (title, name, _) in enumerate(demo.STEPS)
    ]
    monkeypatch.setattr(demo, "STEPS", steps)
    monkeypatch.setattr(demo, "CASES", [])
    with pytest.raises(SystemExit) as exit_:
        demo.main(["--folder", str(tmp_path / "demo")], standalone_mode=False)
    assert exit_.value.code == 1
    printed = capsys.readouterr().out
    assert "  ✗ not so: the earth is flat\n" in printed
    assert printed.count("✓   ") == fails
    assert "✗ Not every step held" in printed
