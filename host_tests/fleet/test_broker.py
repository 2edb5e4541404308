"""The broker as clients meet it, real mosquitto and real TLS; who may connect to either server."""

import fcntl
import json
import os
import queue
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from paho.mqtt.enums import CallbackAPIVersion

from host_tests.fleet_helpers import (
    WAIT_S,
    client_context,
    exchange,
    forge,
    open_device,
    open_session,
    put_credentials,
    wait_until,
)
from signet.device import flash_file
from signet.errors import RefusedError, SignetError
from signet.fleet.serving import LOOPBACK, Fleet
from signet.fleet.session import EVERYTHING_DEVICES_SAY, OperatorSession
from signet.pki import authority, names

pytest_plugins = ["host_tests.tool_fixtures", "host_tests.fleet_fixtures"]

CONNECT = b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04test"
CONNACK = b"\x20\x02\0\0"
GET = b"GET /images/m/1.img HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


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


# Who may connect at all

OPERATOR, SERVICE = names.OPERATOR_NAME, names.SERVICE_NAME
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
# What can be signed with a CA's key: issuer, subject, and more.
FORGED: dict[str, tuple[Any, ...]] = {
    "device CA, operator's name": ("device-ca", OPERATOR),
    "device CA, service's name": ("device-ca", SERVICE),
    "device CA, operator's name behind another": ("device-ca", f"O=x,CN={OPERATOR}"),
    "device CA, operator's name before another": ("device-ca", f"CN={OPERATOR},CN=dev-0001"),
    "device CA, operator's name and a DNS name": ("device-ca", OPERATOR, CLIENT, "a.example"),
    "device CA, no device's name": ("device-ca", "operator:demo"),
    "operator CA, device's name": ("operator-ca", "dev-0001"),
    "operator CA, device's name before its own": ("operator-ca", f"CN=dev-0001,CN={OPERATOR}"),
    "operator CA, an operator of its own": ("operator-ca", f"CN={OPERATOR},O=Ann"),
    "service CA, device's name": ("service-ca", "dev-0001"),
    "service CA, operator's name": ("service-ca", OPERATOR),
    "service CA, operator's name behind its own": ("service-ca", f"CN={SERVICE},CN={OPERATOR}"),
}


@pytest.fixture(scope="module")
def contexts(keys, devices, tmp_path_factory):
    """Contexts of clients, by what they are or what is wrong with them."""
    folder = tmp_path_factory.mktemp("foreign")
    authority.init_pki(folder / "pki", ["localhost"])
    put_credentials(folder / "device", keys, *authority.issue_device(folder / "pki", "dev-0001"))
    device = devices / "dev-0001/operator.pem"
    esp32 = client_context(keys, device)  # stock builds have no TLS 1.3
    esp32.maximum_version = ssl.TLSVersion.TLSv1_2
    old = client_context(keys, device)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    forged = {
        name: client_context(keys, forge(keys, folder / f"{number}.pem", *certificate))
        for number, (name, certificate) in enumerate(FORGED.items())
    }
    return forged | {
        "operator": client_context(keys, keys / "operator.pem"),
        "service": client_context(keys, keys / "service.pem"),
        "device": client_context(keys, device),
        "device, TLS 1.2": esp32,
        "no certificate": client_context(keys, None),
        "foreign CA": client_context(keys, folder / "device/operator.pem"),
        "server": client_context(keys, keys / "server.pem"),
        "TLS 1.1": old,
        "plain TCP": None,
    }


ADMITTED = {
    "devices": ("device", "device, TLS 1.2", "device CA, no device's name"),
    "operators": ("operator", "operator CA, an operator of its own"),
    "services": ("service", "service CA, operator's name behind its own"),
    "images": ("device", "device, TLS 1.2", "device CA, no device's name"),  # the last gets a 403
}
CLIENTS = (
    "operator", "service", "device", "device, TLS 1.2", *FORGED,
    "no certificate", "foreign CA", "server", "TLS 1.1", "plain TCP",
)  # fmt: skip


@pytest.mark.parametrize("server", ADMITTED)
@pytest.mark.parametrize("client", CLIENTS)
def test_who_may_connect(fleet, contexts, server, client):
    """It is told by who signed the certificate; and no CA can sign another's names."""
    port, request, answer = {
        "devices": (fleet.broker.port, CONNECT, CONNACK),
        "operators": (fleet.broker.operators_port, CONNECT, CONNACK),
        "services": (fleet.broker.services_port, CONNECT, CONNACK),
        "images": (fleet.images_port, GET, b"HTTP/1.1"),
    }[server]
    accepted = client in ADMITTED[server]
    assert exchange(port, contexts[client], request) == (answer if accepted else b"")


def test_old_tls_is_refused_for_its_version(fleet, contexts):
    """Not for its weak ciphers. (asyncio's TLS drops the alert: the image server just closes.)"""
    with (
        socket.create_connection((LOOPBACK, fleet.broker.port), WAIT_S) as raw,
        pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"),
    ):
        contexts["TLS 1.1"].wrap_socket(raw, server_hostname=LOOPBACK)


SERVER = ExtendedKeyUsageOID.SERVER_AUTH
SERVERS = {
    "the server CA's": ("server-ca", SERVER, True),
    "the server CA's, for clients": ("server-ca", CLIENT, False),
    "the device CA's": ("device-ca", SERVER, False),
    "the operator CA's": ("operator-ca", SERVER, False),
    "the service CA's": ("service-ca", SERVER, False),
    "a device's own": ("device-ca", CLIENT, False),
}


@pytest.fixture(params=SERVERS)
def fake_server(request, keys, tmp_path):
    """(port, good) of a TLS server; its certificate is forged, and good if the first one's."""
    issuer, usage, good = SERVERS[request.param]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    path = forge(keys, tmp_path / "fake.pem", issuer, LOOPBACK, usage)
    path.write_bytes(path.read_bytes() + (keys / f"{issuer}.pem").read_bytes())
    context.load_cert_chain(path, path.with_suffix(".key"))
    with socket.create_server((LOOPBACK, 0)) as listener:

        def serve() -> None:
            try:
                with context.wrap_socket(listener.accept()[0], server_side=True) as sock:
                    sock.sendall(b"welcome")
            except OSError:
                pass  # the client refused, as it should

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], good
        thread.join()


def test_only_the_server_ca_makes_a_server(keys, fake_server):
    """Or who has the bench's key could play broker to all the others: for the tools, …"""
    port, good = fake_server
    operator = OperatorSession(keys, f"{LOOPBACK}:{port}", timeout_s=WAIT_S)
    # The good certificate only gets the fake server as far as being no broker.
    why = "did not|closed" if good else "unsuitable certificate purpose|certificate verify failed"
    with pytest.raises(SignetError, match=why), operator:
        pass


def test_only_the_server_ca_makes_a_server_for_boards(
    keys, fake_server, project, signed_file, micropython, tmp_path
):
    """… and for boards: with the CA that provisioning burns into one, by mbedTLS."""
    port, good = fake_server
    template = flash_file.prepare(keys, signed_file, project, "signet-demo", "dev")
    (tmp_path / "ca.pem").write_bytes(template.ca)
    script = tmp_path / "client.py"
    script.write_text(
        "import socket, sys, tls\n"
        "context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)\n"
        "context.verify_mode = tls.CERT_REQUIRED\n"
        "context.load_verify_locations(open(sys.argv[1], 'rb').read())\n"
        "sock = socket.socket()\n"
        f"sock.connect(socket.getaddrinfo('{LOOPBACK}', {port})[0][-1])\n"
        "try:\n"
        f"    print(context.wrap_socket(sock, server_hostname='{LOOPBACK}').read(7))\n"
        "except (OSError, ValueError) as error:\n"
        "    print('refused:', error)\n"
    )
    done = subprocess.run(
        [micropython, script, tmp_path / "ca.pem"], capture_output=True, text=True, timeout=WAIT_S
    )
    assert ("welcome" in done.stdout) == good, done
    assert ("refused:" in done.stdout) != good, done


@pytest.mark.parametrize(
    ("hosts", "foreign", "why"),
    [(["elsewhere.example"], False, "mismatch"), ([LOOPBACK], True, "verify failed")],
)
def test_the_operator_checks_the_broker(tmp_path, hosts, foreign, why):
    """Host name and CA; what it says with the right ones is in every other test."""
    authority.init_pki(tmp_path / "pki", hosts)
    trusted = tmp_path / "pki"
    if foreign:
        trusted = tmp_path / "other"
        authority.init_pki(trusted, hosts)
    with Fleet(tmp_path / "fleet", tmp_path / "pki") as fleet:
        operator = OperatorSession(trusted, fleet.addresses["operators"])
        with pytest.raises(SignetError, match=why), operator:
            pass


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
