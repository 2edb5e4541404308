"""docs/examples/mqtt_*.py under MicroPython, with mosquitto; and docs/mqtt.md, which shows them."""

import re
import shutil
import subprocess
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from host_tests.mqtt.broker import LOOPBACK, TIMEOUT_S, Broker, Observer, free_ports
from host_tests.mqtt.puppet import HEAP, REPO, compiled

EXAMPLES = {path.stem: path for path in (REPO / "docs/examples").glob("mqtt_*.py")}
GUIDE = REPO / "docs/mqtt.md"
ACCESS = "".join(f"topic readwrite {each}/#\n" for each in ("meter", "news"))


Process = subprocess.Popen[str]
Start = Callable[..., Process]


@pytest.fixture
def start(micropython: Path) -> Iterator[Start]:
    """A function that runs an example; it is killed if that takes too long."""
    with ExitStack() as stack:

        def run(name: str, *arguments: object) -> Process:
            process = subprocess.Popen(
                [micropython, "-X", f"heapsize={HEAP}", EXAMPLES[name], *map(str, arguments)],
                env={"MICROPYPATH": f"{compiled()}:.frozen"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            timer = threading.Timer(2 * TIMEOUT_S, process.kill)
            stack.callback(timer.cancel)
            timer.start()
            return process

        yield run


def finish(process: Process) -> tuple[list[str], int]:
    """(lines, status) of one that ends by itself."""
    return process.communicate()[0].splitlines(), process.returncode


def lines_up_to(process: Process, expected: str) -> list[str]:
    """The lines up to the one with this in it."""
    lines: list[str] = []
    for line in process.stdout or ():
        lines.append(line.rstrip())
        if expected in line:
            return lines
    raise AssertionError(f"no {expected!r} in {lines}")


@pytest.fixture
def device_folder(broker: Broker, tmp_path: Path) -> Path:
    """As the example wants it."""
    folder = tmp_path / "device"
    folder.mkdir()
    for kind, name in (("certificate", "device.crt"), ("key", "device.key"), ("ca", "ca.crt")):
        shutil.copy(broker.where[kind], folder / name)
    return folder


def test_hello(start, broker, device_folder):
    with Observer(broker.port) as observer:
        observer.subscribe("hello/#")
        arguments = (broker.where["host"], broker.where["port"], device_folder)
        process = start("mqtt_hello", *arguments)
        greeting = observer.message()
        assert (greeting.topic, greeting.payload, greeting.qos) == ("hello/dev-0001", "hello", 1)
        observer.publish("dev-0001/answer", "welcome")
    assert finish(process) == (["subscribed at QoS 1", "dev-0001/answer welcome"], 0)


def test_hello_to_nobody(start, device_folder):
    process = start("mqtt_hello", LOOPBACK, free_ports(1)[0], device_folder)
    error = "mqtt_hello: error: OSError: [Errno 111] ECONNREFUSED"
    assert finish(process) == ([error], 1)


def test_lamps(start, broker, tmp_path):
    """The first broker is not there; what was posted to nobody survives a power cut."""
    store, nobody = tmp_path / "store", free_ports(1)[0]
    process = start("mqtt_lamps", store, LOOPBACK, nobody)
    lines_up_to(process, "lamps: OSError: [Errno 111] ECONNREFUSED")
    process.kill()
    process.wait(TIMEOUT_S)
    assert len(list(store.iterdir())) == 1
    with Observer(broker.port) as observer:
        observer.subscribe("lamps/started")
        observer.subscribe("lamp/+/state")
        process = start("mqtt_lamps", store, LOOPBACK, nobody, LOOPBACK, broker.port)
        assert [observer.message().topic for _ in range(2)] == ["lamps/started"] * 2
        lines = lines_up_to(process, "ready")
        observer.publish("lamp/desk/set", "on", 2)
        state = observer.message()
        assert (state.topic, state.payload, state.qos) == ("lamp/desk/state", "on", 1)
        assert observer.is_quiet()
        observer.publish("lamps/stop", "", 0)
        more, status = finish(process)
    assert (lines, more) == (["lamps: connected", "lamps: ready"], ["lamp desk on"])
    assert status == 0
    assert list(store.iterdir()) == []


@pytest.fixture
def strict_broker(mosquitto: Path, tmp_path: Path) -> Iterator[Broker]:
    """Refuses a message to `tariff`."""
    access = tmp_path / "access"
    access.write_text(ACCESS)
    access.chmod(0o600)
    broker = Broker(mosquitto, tmp_path, more=f"acl_file {access}\n")
    broker.start()
    yield broker
    broker.stop()


def test_v5_request(start, strict_broker):
    process = start("mqtt_v5_request", LOOPBACK, strict_broker.port)
    assert finish(process) == (
        [
            "topics that the broker takes aliases for: 10",
            "answer: 230.1 V",
            "nobody is there",
            "publish refused: Not authorized (0x87)",
        ],
        0,
    )


def test_large(start, broker):
    process = start("mqtt_large", LOOPBACK, broker.port)
    line = f"log {1 << 20} of {1 << 20} bytes, sum {(1 << 20) * 255 // 2}"
    assert finish(process) == ([line], 0)


def shown_lines(path: Path) -> set[str]:
    """Every run of an example's lines, as a block of the guide may show it."""
    lines = path.read_text().splitlines()
    ends = range(1, len(lines) + 1)
    return {
        textwrap.dedent("\n".join(lines[first:end])).strip("\n")
        for end in ends
        for first in range(end)
    }


def test_blocks_of_the_guide_are_of_the_examples():
    blocks = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) > 5
    shown = set().union(*map(shown_lines, EXAMPLES.values()))
    assert [block for block in blocks if block.strip("\n") not in shown] == []
