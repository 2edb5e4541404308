"""[packages]: modules of others, from a folder or a server, pinned; and what is refused."""

import contextlib
import hashlib
import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from host_tests.tool_helpers import Signet, mode, snapshot
from signet import project
from signet.errors import RefusedError, SignetError
from signet.image import slot_image
from signet.project import packages
from signet.project.manifest import Package

pytest_plugins = ["host_tests.tool_fixtures"]

MANIFEST = """\
[project]
name = "lamp"
model = "lamp"
hardware = "A"
version = "1.0.0"
counter = 1
micropython = "1.25.0"
"""
FILES = {"led.py": b"RED = 1\n", "colours/__init__.py": b"", "colours/names.py": b"ROSE = 3\n"}


def index(*names: str, **more: object) -> bytes:
    urls = [[name, f"src/{name}"] for name in names]
    return json.dumps({"urls": urls, "version": "1.0", **more}).encode()


def digest(contents: dict[str, bytes]) -> str:
    lines = [f"{hashlib.sha256(contents[name]).hexdigest()}  {name}\n" for name in sorted(contents)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `files`, by path; what else it was asked for is in `asked`, too."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.moved: dict[str, str] = {}
        self.asked: list[str] = []
        self.cut = self.endless = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path in self.server.moved:
            self.send_response(302)
            self.send_header("Location", self.server.moved[self.path])
            self.end_headers()
        elif self.path in self.server.files:
            content = self.server.files[self.path]
            self.send_response(200)
            if not self.server.endless:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:-1] if self.server.cut else content)
            with contextlib.suppress(ConnectionError):
                while self.server.endless:
                    self.wfile.write(bytes(0x4000))
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that has the package /led."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        running.files = {"/led/package.json": index(*FILES)}
        running.files |= {f"/led/src/{name}": content for name, content in FILES.items()}
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with the package in vendor/led."""
    folder = tmp_path / "lamp"
    for name, content in {f"src/{name}": content for name, content in FILES.items()}.items():
        path = folder / "vendor/led" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "vendor/led/package.json").write_bytes(index(*FILES))
    (folder / "app.py").write_text(
        "import led\nfrom colours import names\n\nasync def run(device):\n    led.RED\n"
    )
    (folder / "signet.toml").write_text(MANIFEST)
    return folder


def use(folder: Path, *sources: str, sha256: str | None = None) -> project.Project:
    """The project with these packages; sha256: of all, else that of FILES."""
    pin = digest(FILES) if sha256 is None else sha256
    table = "".join(f'"{source}" = {{ sha256 = "{pin}" }}\n' for source in sources)
    (folder / "signet.toml").write_text(f"{MANIFEST}[packages]\n{table}")
    return project.load(folder)


def test_a_package_of_a_folder_is_in_the_image(folder: Path):
    built = project.build(use(folder, "vendor/led"), "production")
    found = slot_image.inspect_image(built.content).files
    assert {"/led.mpy", "/colours/__init__.mpy", "/colours/names.mpy"} < set(found)


def test_a_package_is_fetched_once_and_kept_whole(folder: Path, server: Server):
    loaded = use(folder, f"{server.url}/led")
    (_, kept) = project.libraries(loaded)
    assert snapshot(kept) == FILES
    assert kept == folder / ".signet/packages" / digest(FILES)
    assert mode(folder / ".signet") == 0o700
    assert len(server.asked) == 1 + len(FILES)
    project.libraries(loaded)
    assert len(server.asked) == 1 + len(FILES)
    # Unless somebody was at it.
    (kept / "led.py").write_bytes(b"RED = 2\n")
    project.libraries(loaded)
    assert snapshot(kept) == FILES
    assert [path.name for path in (folder / ".signet/packages").iterdir()] == [digest(FILES)]


def test_an_absolute_address_of_package_json(folder: Path, server: Server):
    other = f"{server.url}/elsewhere.py"
    server.files["/elsewhere.py"] = b"RED = 1\n"
    server.files["/led/other.json"] = json.dumps({"urls": [["led.py", other]]}).encode()
    loaded = use(folder, f"{server.url}/led/other.json", sha256=digest({"led.py": b"RED = 1\n"}))
    assert snapshot(project.libraries(loaded)[1]) == {"led.py": b"RED = 1\n"}


def test_a_repository(folder: Path, server: Server, monkeypatch):
    monkeypatch.setattr(packages, "_GITHUB", server.url + "/{}/{}/{}/{}")
    server.files["/me/led/v1/package.json"] = json.dumps(
        {"urls": [["led.py", "github:me/led/src/led.py"]]}
    ).encode()
    server.files["/me/led/v1/src/led.py"] = b"RED = 1\n"
    pinned = Package("v1", digest({"led.py": b"RED = 1\n"}))
    (kept,) = packages.resolve({"github:me/led": pinned}, folder, folder / ".signet/packages")
    assert snapshot(kept) == {"led.py": b"RED = 1\n"}
    with pytest.raises(SignetError, match=r"'github:me/led': expected a version"):
        packages.resolve({"github:me/led": Package()}, folder, folder / "store")
    with pytest.raises(SignetError, match="expected github:owner/repository"):
        packages.resolve({"github:me": Package("v1")}, folder, folder / "store")


def test_the_digest_is_what_other_programs_say(folder: Path):
    (_, kept) = project.libraries(use(folder, "vendor/led"))
    command = "find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum"
    said = subprocess.run(command, shell=True, cwd=kept, capture_output=True, text=True, check=True)
    assert said.stdout.split()[0] == digest(FILES)


def test_what_is_not_pinned_is_not_built(signet: Signet, folder: Path):
    text = MANIFEST + '[packages]\n"vendor/led" = {}\n'
    (folder / "signet.toml").write_text(text)
    done = signet("build", cwd=folder)
    assert done.returncode == 1
    assert done.stderr == (
        "signet: error: packages.'vendor/led' is not pinned\n"
        "signet: hint: after a look at it, in signet.toml: "
        f'"vendor/led" = {{ sha256 = "{digest(FILES)}" }}\n'
    )
    assert not (folder / ".signet").exists()
    assert not (folder / "build").exists()


def test_what_needs_another(folder: Path):
    (folder / "vendor/led/package.json").write_bytes(index("led.py", deps=[["bus", "latest"]]))
    pin = digest({"led.py": FILES["led.py"]})
    with pytest.raises(SignetError, match=r"needs 'bus', which is not in \[packages\]"):
        project.libraries(use(folder, "vendor/led", sha256=pin))
    (folder / "vendor/bus").mkdir()
    (folder / "vendor/bus/package.json").write_bytes(index("led.py"))
    (folder / "vendor/bus/src").mkdir()
    (folder / "vendor/bus/src/led.py").write_bytes(FILES["led.py"])
    assert len(project.libraries(use(folder, "vendor/led", "vendor/bus", sha256=pin))) == 3


def test_two_with_the_same_module(folder: Path):
    (folder / "lib").mkdir()
    (folder / "lib/led.py").write_text("RED = 2\n")
    with pytest.raises(SignetError, match=r"led\.py: .*lib/led\.py has the same name"):
        project.build(use(folder, "vendor/led"), "production")


def test_one_that_hides_a_module_of_signet(folder: Path):
    (folder / "vendor/led/src/mqtt.py").write_text("")
    (folder / "vendor/led/package.json").write_bytes(index("mqtt.py"))
    loaded = use(folder, "vendor/led", sha256=digest({"mqtt.py": b""}))
    with pytest.raises(SignetError, match="mqtt is a module of Signet, which it would hide"):
        project.build(loaded, "production")


def refused(folder: Path, loaded: project.Project, reason: str) -> None:
    before = snapshot(folder)
    with pytest.raises(SignetError) as error:
        project.libraries(loaded)
    assert reason in str(error.value)
    assert snapshot(folder) == before


def test_one_that_was_changed(folder: Path, server: Server):
    server.files["/led/src/led.py"] = b"RED = 2\n"
    found = digest(FILES | {"led.py": b"RED = 2\n"})
    reason = f"its files have SHA-256 {found}, expected {digest(FILES)}"
    refused(folder, use(folder, f"{server.url}/led"), reason)
    with pytest.raises(RefusedError):
        project.libraries(project.load(folder))


BAD = {
    "no JSON": (b"[]", "no package: expected JSON with 'urls'"),
    "no files": (index(), "0 files, expected 1 to 100"),
    "many files": (index(*(f"m{n}.py" for n in range(101))), "101 files, expected 1 to 100"),
    "of an index": (index("led.py", hashes=[["led.py", "1234"]]), "has 'hashes', as only an index"),
    "form of urls": (b'{"urls": [["led.py"]]}', "no package"),
    "no text": (b'{"urls": [["led.py", 1]]}', "no package"),
    "no list": (b'{"urls": 5}', "no package"),
    "form of deps": (index("led.py", deps=["a"]), "no package"),
    "above": (b'{"urls": [["../led.py", "src/led.py"]]}', "target '../led.py', expected the path"),
    "root": (b'{"urls": [["/led.py", "src/led.py"]]}', "target '/led.py', expected the path"),
    "twice": (index("led.py", "led.py"), "target 'led.py', expected the path"),
    "no module": (index("led.mpy"), "target 'led.mpy', expected the path of a .py module"),
    "file": (b'{"urls": [["led.py", "file:///etc/passwd"]]}', "file:///etc/passwd: expected https"),
    "plain": (b'{"urls": [["led.py", "http://a.example/x"]]}', "http://a.example/x: expected http"),
    "odd": (b'{"urls": [["led.py", "https://[/x"]]}', "https://[/x: cannot fetch: Invalid IPv6"),
    "odd, beside": (b'{"urls": [["led.py", "//[/x"]]}', "'//[/x': Invalid IPv6 URL"),
    "not there": (b'{"urls": [["led.py", "src/x.py"]]}', "cannot fetch: Not Found"),
}


@pytest.mark.parametrize(("content", "reason"), BAD.values(), ids=BAD)
def test_one_that_is_wrong(folder: Path, server: Server, content: bytes, reason: str):
    server.files["/led/package.json"] = content
    refused(folder, use(folder, f"{server.url}/led"), reason)


def test_a_folder_that_reaches_out(folder: Path):
    (folder / "vendor/led/package.json").write_bytes(b'{"urls": [["app.py", "../../app.py"]]}')
    refused(folder, use(folder, "vendor/led"), "'../../app.py' is outside of its folder")
    (folder / "vendor/led/link.py").symlink_to(folder / "app.py")
    (folder / "vendor/led/package.json").write_bytes(b'{"urls": [["app.py", "link.py"]]}')
    refused(folder, use(folder, "vendor/led"), "'link.py' is outside of its folder")
    refused(folder, use(folder, "vendor/gone"), "package.json: cannot read the package")


def test_one_that_is_too_large(folder: Path, server: Server):
    server.files["/led/src/led.py"] = bytes(packages._MAX_LEN + 1)
    refused(folder, use(folder, f"{server.url}/led"), "led.py: too large: a package has 256 KB")
    for name in ("led.py", "colours/names.py"):  # both together
        server.files[f"/led/src/{name}"] = bytes(packages._MAX_LEN // 2 + 1)
    refused(folder, use(folder, f"{server.url}/led"), "names.py: too large: a package has 256 KB")
    server.files["/led/package.json"] = bytes(packages._MAX_LEN + 1)
    refused(folder, use(folder, f"{server.url}/led"), "package.json: too large")


def test_one_without_end(folder: Path, server: Server, monkeypatch):
    monkeypatch.setattr(packages, "_LIMIT_S", 20)  # reached by what reads on alone
    server.endless = True
    refused(folder, use(folder, f"{server.url}/led"), "package.json: too large")


def test_one_that_is_cut_off(folder: Path, server: Server):
    server.cut = True
    refused(folder, use(folder, f"{server.url}/led"), "bytes, expected ")


def test_one_that_trickles(folder: Path, server: Server, monkeypatch):
    monkeypatch.setattr(packages, "_LIMIT_S", -1)
    refused(folder, use(folder, f"{server.url}/led"), "cannot fetch: not done after -1 s")


def test_one_that_moved(folder: Path, server: Server):
    server.moved["/led/package.json"] = f"{server.url}/new/package.json"
    server.files["/new/package.json"] = server.files["/led/package.json"]
    assert len(project.libraries(use(folder, f"{server.url}/led"))) == 2
    server.moved["/led/package.json"] = "http://a.example/package.json"
    (folder / ".signet/packages" / digest(FILES) / "led.py").unlink()
    refused(folder, use(folder, f"{server.url}/led"), "http://a.example/package.json: expected ht")


def test_no_network(folder: Path, server: Server):
    url = server.url
    server.shutdown()
    server.server_close()
    refused(folder, use(folder, f"{url}/led"), "package.json: cannot fetch: [Errno 111]")


def test_a_store_that_cannot_be_written(folder: Path):
    (folder / ".signet").write_text("")
    refused(folder, use(folder, "vendor/led"), "cannot keep the package: File exists")


@pytest.mark.parametrize(
    ("table", "reason"),
    {
        "no table": ("packages = 5\n", "packages is no table, expected [packages]"),
        "text": (
            "[packages]\na = 'v1'\n",
            "packages.'a' is no table, expected { version, sha256 }",
        ),
        "key": (
            "[packages]\na = {md5 = ''}\n",
            "packages.'a'.md5 is not known, expected version, ",
        ),
        "digest": (
            "[packages]\na = {sha256 = 'A'}\n",
            "packages.'a'.sha256 is 'A', expected 64 hex",
        ),
        "version": (
            "[packages]\na = {version = '../x'}\n",
            "packages.'a'.version is '../x', expec",
        ),
    }.values(),
)
def test_a_table_that_is_wrong(folder: Path, table: str, reason: str):
    (folder / "signet.toml").write_text(table + MANIFEST if "[" not in table else MANIFEST + table)
    with pytest.raises(SignetError) as error:
        project.load(folder)
    assert str(error.value).startswith(f"{folder / 'signet.toml'}: {reason}")


def test_tests_of_the_application_import_it(signet: Signet, folder: Path):
    use(folder, "vendor/led")
    (folder / "tests").mkdir()
    (folder / "tests/test_led.py").write_text(
        "import led\nfrom colours import names\n\ndef test():\n    assert led.RED < names.ROSE\n"
    )
    done = signet("test", "-q", "-p", "no:cacheprovider", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    use(folder, "vendor/led", sha256="0" * 64)
    done = signet("test", cwd=folder)
    assert "expected 0000" in done.stdout + done.stderr
    assert done.returncode == 2
