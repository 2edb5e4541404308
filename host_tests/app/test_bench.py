"""signet.app.bench: keys, servers and a board of one project; ports that two projects want."""

import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from host_tests.app.conftest import APP, write_project
from host_tests.tool_helpers import mode, snapshot
from signet import project
from signet.app import bench, ports
from signet.app.board import CommandError
from signet.errors import SignetError
from signet.fleet.reports import NotReportedError
from signet.project.manifest import Servers


@pytest.fixture
def board(kettle_bench, image, tmp_path):
    with kettle_bench.make_board("kettle-1", tmp_path / "board", image) as board:
        yield board
    kettle_bench.network.bring_back()


def test_the_application_runs_and_is_heard(board):
    assert board.start() < 60
    assert board.event("begun")
    assert board.telemetry()["fahrenheit"] == 68
    assert board.command("greet", whom="you") == "hello you"
    with pytest.raises(CommandError, match="kettle-1: command boil: ValueError: no water"):
        board.command("boil")
    board.configure({"level": 7})
    assert board.telemetry(level=7)
    assert board.state(online=True)["version"] == "1.0.0"
    assert board.state(status="confirmed")["id"] == "kettle-1"
    board.reports.limit_s = 0.1
    with pytest.raises(NotReportedError, match=r"did not report (.|\n)*connected to") as silence:
        board.event("begun")  # it was given already
    assert "signet: slot a verified: 1.0.0" in str(silence.value)


def test_an_edit_runs_whatever_the_board_was_updated_to(board, kettle_bench, kettle, tmp_path):
    """And it keeps what it was told: only its image is another."""
    board.start()
    board.configure({"level": 3})
    version = kettle_bench.next_version("1.0.0")
    assert version == "1.0.0+1"
    assert kettle_bench.next_version("0.9.0") == "1.0.0"  # it was raised by hand
    kettle_bench.publish(bench.build(replace(kettle, version=version)), board.id)
    assert kettle_bench.next_version("1.0.0") == "1.0.0+2"
    board.event("update", result="confirmed")
    app = tmp_path / "app.py"
    app.write_text(APP.replace("hello", "goodbye"))
    board.power_off()
    content = bench.build(replace(kettle, app=app))
    with kettle_bench.make_board(board.id, board.folder, content) as edited:
        edited.start()
        assert edited.command("greet", whom="you") == "goodbye you"
        assert edited.state(status="confirmed")["slot"] == "a"
        assert edited.telemetry()["level"] == 3


def test_an_image_that_is_loaded_is_verified_still(board, image):
    damaged = bytearray(image)
    damaged[len(damaged) // 2] ^= 1
    bench.load_image(board.folder / "flash.bin", bytes(damaged))
    board.power_on()
    board.wait_for_line("signet: error: BootError")
    assert not any("verified" in line for line in board.lines)


def test_power_and_network_go_and_come(board, kettle_bench):
    board.start()
    mark = board.reports.mark
    board.set_network(False)
    assert board.reports.wait_for_state(mark, online=False)
    board.power_off()
    board.power_on()
    board.wait_for_line("verified")
    assert (board.folder / "control").read_bytes()[:1] == b"0"  # power-on alone gives it back
    connections = kettle_bench.network.routes["broker"].connections
    board.set_network(True)
    board.wait_until_connected()
    assert kettle_bench.network.routes["broker"].connections > connections


def test_keys_are_made_once_for_their_owner_alone(kettle):
    before = snapshot(kettle.state / "pki")
    kettle.state.chmod(0o755)
    bench.make_state_folder(kettle)
    assert mode(kettle.state) == 0o700
    assert snapshot(kettle.state / "pki") == before
    keys = list((kettle.state / "pki").glob("*.key"))
    assert keys
    assert {mode(path) for path in keys} == {0o600}


# --- ports


def test_ports_are_chosen_once_and_the_manifest_s_go_before(tmp_path):
    path = tmp_path / "ports.json"
    first = ports.keep(path, Servers())
    assert len(set(asdict(first).values())) == 7
    assert ports.keep(path, Servers()) == first
    assert mode(path) == 0o600
    given = ports.keep(path, Servers(broker_port=8883))
    assert asdict(given) == asdict(first) | {"broker": 8883}


@pytest.mark.parametrize("text", ["", "{}", '{"ports": {"broker": 1}}', "[1]", '{"ports": [1]}'])
def test_a_file_of_ports_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "ports.json").write_text(text)
    with pytest.raises(SignetError, match="expected what Signet wrote") as refusal:
        ports.keep(tmp_path / "ports.json", Servers())
    assert refusal.value.hint == f"rm {tmp_path}/ports.json: others are chosen then"


HOLDER = """\
import sys
from pathlib import Path
from signet.app import ports
from signet.project.manifest import Servers
path = Path(sys.argv[1])
with ports.hold(ports.keep(path, Servers()), "127.0.0.1", Path("/home/first"), path):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_who_has_the_ports_is_said(tmp_path):
    """Of two projects with the same ports the second is told of the first, until that ends."""
    path = tmp_path / "ports.json"
    kept = ports.keep(path, Servers())
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout
        assert first.stdout.readline() == b"held\n"
        with (
            pytest.raises(SignetError) as refusal,
            ports.hold(kept, "127.0.0.1", tmp_path / "second", path),
        ):
            pass
        assert re.fullmatch(
            rf"port {kept.broker} \(broker\) of {tmp_path}/second: in use by another project, "
            rf"process {first.pid} for /home/first",
            str(refusal.value),
        )
        os.kill(first.pid, signal.SIGKILL)
    with ports.hold(kept, "127.0.0.1", tmp_path / "second", path):
        pass


@pytest.mark.parametrize(("name", "kind"), [("images", "STREAM"), ("ntp", "DGRAM")])
def test_a_port_that_another_program_has_is_said(tmp_path, name, kind):
    path = tmp_path / "ports.json"
    kept = ports.keep(path, Servers())
    with socket.socket(socket.AF_INET, socket.SocketKind[f"SOCK_{kind}"]) as taken:
        taken.bind(("127.0.0.1", getattr(kept, name)))
        if kind == "STREAM":
            taken.listen()
        with (
            pytest.raises(SignetError, match=rf"\({name}\) of .*Address already in use") as refusal,
            ports.hold(kept, "127.0.0.1", tmp_path, path),
        ):
            pass
    assert f"rm {path}, and others are chosen" in str(refusal.value.hint)


def test_a_project_without_an_application_makes_nothing(tmp_path):
    folder = write_project(tmp_path / "kettle")
    (folder / "app.py").unlink()
    before = snapshot(folder)
    with pytest.raises(SignetError, match=r"app\.py: no such file, expected the application"):
        project.load(folder)
    assert snapshot(folder) == before
