"""package.json: `mpremote mip install` from a checkout, and that what it lists is enough."""

import json
import os
import pty
import socket
import subprocess
import sys
import threading
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from host_tests.tool_helpers import REPO

LIMIT_S = 120
PACKAGE = json.loads((REPO / "package.json").read_text())
# The unix port has no raw REPL; this is what mpremote needs of one (docs of MicroPython, "The
# MicroPython Interactive Interpreter Mode", "Raw mode").
RAW_REPL = r"""
import sys
source, sink = sys.stdin.buffer, sys.stdout.buffer
def write(data):
    sink.write(data)
code = b""
while True:
    byte = source.read(1)
    if byte == b"\x01":
        code = b""
        write(b"raw REPL; CTRL-B to exit\r\n>")
    elif byte == b"\x05" and not code:
        source.read(2)
        write(b"R\x00")  # no raw paste
    elif byte == b"\x04":
        write(b"OK")
        try:
            exec(code, globals())
            write(b"\x04\x04>")
        except Exception as error:
            write(b"\x04")
            sys.print_exception(error)
            write(b"\x04>")
        code = b""
    elif byte not in (b"\x02", b"\x03"):
        code = code + byte if code or byte != b"\r" else code
"""


@pytest.fixture
def board(micropython: Path, tmp_path: Path) -> Iterator[str]:
    """A MicroPython whose console is at this address, as pyserial has it."""
    script = tmp_path / "raw_repl.py"
    script.write_text(RAW_REPL)
    master, slave = pty.openpty()
    tty.setraw(slave)  # or Ctrl-C would be a signal
    process = subprocess.Popen([micropython, script], stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=relay, args=(server, master), daemon=True).start()
    yield f"socket://127.0.0.1:{server.getsockname()[1]}"
    process.kill()
    process.wait()
    server.close()
    os.close(master)


def relay(server: socket.socket, master: int) -> None:
    connection, _ = server.accept()

    def give_back() -> None:
        try:
            while said := os.read(master, 4096):
                connection.sendall(said)
        except OSError:  # one of them has ended
            pass

    threading.Thread(target=give_back, daemon=True).start()
    while heard := connection.recv(4096):
        os.write(master, heard)


def test_mip_installs_the_libraries_from_a_checkout(
    board: str, micropython: Path, tmp_path: Path
) -> None:
    target = tmp_path / "lib"
    target.mkdir()
    done = subprocess.run(
        [Path(sys.executable).parent / "mpremote", "connect", board, "resume",
         "mip", "install", "--target", target, REPO / "package.json"],
        capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = {path.relative_to(target).as_posix() for path in target.rglob("*.*")}
    assert found == {name for name, _ in PACKAGE["urls"]}
    for name, source in PACKAGE["urls"]:
        assert (target / name).read_bytes() == (REPO / source).read_bytes()
    # Nothing else is on the path: what is installed is enough for each module of it.
    modules = [name.removesuffix(".py").replace("/", ".") for name in sorted(found)]
    names = ", ".join(name.removesuffix(".__init__") for name in modules)
    code = f"import sys; sys.path[:] = [{str(target)!r}, '.frozen']; import {names}; print('all')"
    told = subprocess.run(
        [micropython, "-c", code], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert (told.stdout, told.stderr) == ("all\n", "")


def test_the_package_lists_each_file_of_the_libraries() -> None:
    files = [path for name in ("mqtt", "mtls") for path in (REPO / "lib" / name).glob("*.py")]
    files.append(REPO / "lib/deadline.py")
    wanted = {path.relative_to(REPO).as_posix() for path in files}
    assert {source for _, source in PACKAGE["urls"]} == wanted
    assert all(source == "lib/" + name for name, source in PACKAGE["urls"])


def test_the_package_has_the_version_of_the_project() -> None:
    project = (REPO / "pyproject.toml").read_text()
    assert f'version = "{PACKAGE["version"]}"' in project
