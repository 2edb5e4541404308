"""The broker as clients meet it, real mosquitto and real TLS."""

import fcntl
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from host_tests.fleet_helpers import (
    WAIT_S,
    client_context,
    open_device,
    open_session,
    wait_until,
)
from signet.errors import RefusedError, SignetError
from signet.fleet.serving import LOOPBACK, Fleet
from signet.fleet.session import EVERYTHING_DEVICES_SAY, OperatorSession

pytest_plugins = ["host_tests.tool_fixtures", "host_tests.fleet_fixtures"]


# Who may say and hear what


def test_a_device_speaks_on_its_own_topics(keys, devices, fleet):
    with (
        open_session(keys, fleet, EVERYTHING_DEVICES_SAY) as operator,
        open_device(devices / "dev-0001", fleet) as device,
    ):
        device.publish("signet/dev-0001/up/event", b"{}")
        operator.wait_for(lambda message: message.topic == "signet/dev-0001/up/event", WAIT_S)


@pytest.mark.parametrize(
    "topic",
    [
        "signet/dev-0002/up/event",
        "signet/dev-0001/up/other",
        "signet/dev-0001/up/event/other",
        "signet/dev-0001/up",
        "signet/dev-0002/down/order",
        "signet/dev-0001/down/order",
        "signet/operator.signet/up/event",
        "signet/up",
        "elsewhere",
        "$SYS/broker/uptime",
    ],
)
def test_a_device_may_not_publish_elsewhere(keys, devices, fleet, topic):
    with (
        open_session(keys, fleet, EVERYTHING_DEVICES_SAY) as operator,
        open_device(devices / "dev-0001", fleet) as device,
    ):
        with pytest.raises(RefusedError, match="not authorized"):
            device.publish(topic, b"forged")
        device.publish("signet/dev-0001/up/event", b"mark")
        operator.wait_for(lambda message: message.payload == b"mark", WAIT_S)
        assert b"forged" not in [message.payload for message in operator.messages]


@pytest.mark.parametrize(
    "topics",
    ["signet/dev-0002/down/#", "signet/+/down/#", "#", "signet/dev-0002/up/state", "$SYS/#"],
)
def test_a_device_hears_nothing_of_another(keys, devices, fleet, topics):
    """mosquitto accepts the subscription, and then delivers nothing."""
    heard: queue.Queue[bytes] = queue.Queue()
    device = connect_device(
        devices, fleet, lambda *args: heard.put(args[2].payload), topics, "signet/dev-0001/down/#",
        clean=True,
    )  # fmt: skip
    with (
        open_session(keys, fleet, EVERYTHING_DEVICES_SAY) as operator,
        open_device(devices / "dev-0002", fleet, "signet/dev-0002/down/#") as other,
    ):
        operator.publish("signet/dev-0002/down/order", b"private")
        other.publish("signet/dev-0002/up/state", b"private")
        other.wait_for(lambda message: message.payload == b"private", WAIT_S)
        operator.publish("signet/dev-0001/down/order", b"mark")
        assert heard.get(timeout=WAIT_S) == b"mark"
    device.disconnect()
    device.loop_stop()


def test_the_operator_may_not_speak_for_a_device(keys, fleet):
    for topic in ("signet/dev-0001/up/state", "signet/dev-0001/down/order/more", "elsewhere"):
        with (
            open_session(keys, fleet) as operator,
            pytest.raises(RefusedError, match="not authorized"),
        ):
            operator.publish(topic, b"{}")


def test_a_message_for_nobody_is_an_error(keys, fleet):
    with open_session(keys, fleet) as operator, pytest.raises(RefusedError, match="nobody"):
        operator.publish("signet/dev-0009/down/order", b"{}")


def test_a_packet_over_the_limit_ends_the_session(devices, fleet):
    device = OperatorSession(devices / "dev-0001", fleet.addresses["broker"], timeout_s=5)
    with device, pytest.raises(SignetError, match="did not acknowledge"):  # after these seconds
        device.publish("signet/dev-0001/up/event", b"x" * 9000)


# Running and stopping


def test_queued_messages_and_ports_survive_a_restart(keys, devices, tmp_path):
    fleet = Fleet(tmp_path / "fleet", keys)
    with fleet:
        addresses = fleet.addresses
        device = connect_device(devices, fleet)
        device.disconnect()
        with open_session(keys, fleet) as operator:
            operator.publish("signet/dev-0001/down/order", b"while away")
    assert not (tmp_path / "fleet/fleet.json").exists()
    with fleet:
        assert fleet.addresses == addresses
        got = threading.Event()
        device = connect_device(devices, fleet, lambda *_: got.set())
        assert got.wait(WAIT_S)
        device.disconnect()


def test_what_comes_for_a_device_that_is_away_survives_a_restart_and_so_does_its_state(
    keys, devices, tmp_path
):
    """With an access list for each listener, mosquitto 2.0 loses what is sent after the restart."""
    with Fleet(tmp_path / "fleet", keys) as fleet:
        client = connect_device(devices, fleet)
        client.publish("signet/dev-0001/up/state", b"{}", 1, retain=True).wait_for_publish(WAIT_S)
        client.disconnect()
    with fleet:
        with open_session(keys, fleet, EVERYTHING_DEVICES_SAY) as operator:
            operator.wait_for(lambda message: message.retained, WAIT_S)
            operator.publish("signet/dev-0001/down/order", b"while away")
        got = threading.Event()
        device = connect_device(devices, fleet, lambda *_: got.set())
        assert got.wait(WAIT_S)
        device.disconnect()


def test_ports_that_it_chooses_are_not_those_of_connections(fleet):
    """Or one could be taken when the servers start again."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(int(each.rpartition(":")[2]) < lowest for each in fleet.addresses.values())


def connect_device(devices, fleet, on_message=None, *topics, clean=False) -> mqtt.Client:
    """dev-0001, with a session that the broker keeps, or a clean one."""
    device = mqtt.Client(CallbackAPIVersion.VERSION2, "persistent", clean_session=clean)
    folder = devices / "dev-0001"
    device.tls_set_context(client_context(folder, folder / "operator.pem"))
    subscribed = threading.Event()
    device.on_subscribe = lambda *_: subscribed.set()
    device.on_message = on_message
    device.connect(LOOPBACK, fleet.broker.port)
    device.subscribe([(topic, 1) for topic in topics or ("signet/dev-0001/down/#",)])
    device.loop_start()
    assert subscribed.wait(WAIT_S)
    return device


def test_a_second_broker_on_the_folder_is_refused(keys, fleet):
    with pytest.raises(SignetError, match=r"a broker runs on it already, process \d+"):
        Fleet(fleet.folder, keys).start()
    with open_session(keys, fleet):
        pass  # the first one is still there


def test_a_port_in_use_is_an_error_and_leaves_nothing(keys, fleet, tmp_path):
    for ports in (
        {"broker_port": fleet.broker.port},
        {"operators_port": fleet.broker.operators_port},
        {"images_port": fleet.images_port},
    ):
        other = Fleet(tmp_path / "fleet", keys, **ports)
        with pytest.raises(SignetError, match=r"[Aa]ddress already in use"):
            other.start()
        assert not other.broker.running
        assert not (tmp_path / "fleet/fleet.json").exists()


@pytest.fixture
def serve(keys, tmp_path):
    """Start `signet fleet serve`; everything is gone after the test."""
    started = []

    def start(*options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "signet", "fleet", "serve", str(tmp_path / "fleet")]
        process = subprocess.Popen(
            [*command, *options], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
    lock = tmp_path / "fleet/lock"
    if lock.exists() and is_alive(int(lock.read_text())):
        os.kill(int(lock.read_text()), signal.SIGKILL)


SERVERS_OF_A_FLEET = ["broker", "images", "ntp", "operators", "services"]
ANY_PORTS = [option for name in SERVERS_OF_A_FLEET for option in (f"--{name}-port", "0")]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_until_interrupted(keys, serve, tmp_path, number):
    process = serve("--pki", str(keys), *ANY_PORTS)
    lines = [process.stdout.readline().split() for _ in SERVERS_OF_A_FLEET]
    assert [name for name, _ in lines] == SERVERS_OF_A_FLEET
    state = json.loads((tmp_path / "fleet/fleet.json").read_text())
    assert dict(lines) == {name: state[name] for name in SERVERS_OF_A_FLEET}
    with OperatorSession(keys, state["operators"]):
        pass
    broker = int((tmp_path / "fleet/lock").read_text())
    process.send_signal(number)
    assert process.wait(WAIT_S) == 0
    assert not is_alive(broker)
    assert not (tmp_path / "fleet/fleet.json").exists()


def test_serve_ends_when_its_broker_does(keys, serve, tmp_path):
    process = serve("--pki", str(keys), *ANY_PORTS)
    for _ in SERVERS_OF_A_FLEET:
        process.stdout.readline()
    os.kill(int((tmp_path / "fleet/lock").read_text()), signal.SIGKILL)
    assert process.wait(WAIT_S) == 2
    assert "signet: error: mosquitto ended by itself" in process.stderr.read()


def test_a_killed_fleet_leaves_no_broker(keys, serve, tmp_path):
    process = serve("--pki", str(keys), *ANY_PORTS)
    for _ in SERVERS_OF_A_FLEET:
        process.stdout.readline()
    process.kill()
    with (tmp_path / "fleet/lock").open() as lock:
        wait_until(lambda: is_free(lock))


def is_free(lock) -> bool:
    """Whether no broker holds it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def test_serve_without_keys(serve, tmp_path):
    (tmp_path / "empty").mkdir()
    process = serve("--pki", str(tmp_path / "empty"), *ANY_PORTS)
    stdout, stderr = process.communicate(timeout=WAIT_S)
    assert process.returncode == 2
    assert stdout == ""
    assert "empty: expected device-ca.pem, the CA of device certificates, found none" in stderr
    assert "signet: hint: signet pki init" in stderr


def test_serve_without_a_servers_key(keys, serve, tmp_path):
    shutil.copytree(keys, tmp_path / "pki")
    (tmp_path / "pki/server.key").unlink()
    process = serve("--pki", str(tmp_path / "pki"), *ANY_PORTS)
    _, stderr = process.communicate(timeout=WAIT_S)
    assert process.returncode == 2
    assert "signet: error: cannot serve" in stderr
    assert "signet: hint: signet pki init makes server.pem and server.key" in stderr
