"""What one device can take of the broker, and what else is kept from who gets hold of a part."""

import os
import pwd
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from host_tests.fleet_helpers import (
    CONNACK,
    CONNECT,
    WAIT_S,
    client_context,
    exchange,
    forge,
    open_device,
    open_session,
    put_credentials,
    wait_until,
)
from host_tests.tool_helpers import mode
from signet.errors import RefusedError, SignetError
from signet.fleet import broker, logs
from signet.fleet.serving import LOOPBACK, Fleet
from signet.fleet.session import EVERYTHING_DEVICES_SAY, OperatorSession

pytest_plugins = ["host_tests.tool_fixtures", "host_tests.fleet_fixtures"]

DAY_S = 24 * 3600
ENDLESS = 0xFFFF_FFFF  # MQTT 5 section 3.1.2.11.2: such a session does not expire


@pytest.fixture
def own(keys, tmp_path):
    """A fleet that a test may flood and stop."""
    with Fleet(tmp_path / "fleet", keys) as fleet:
        yield fleet


def connect(
    folder: Path,
    port: int,
    client_id: str,
    expiry_s: int | None = None,
    on_message: Callable[..., None] | None = None,
) -> mqtt.Client:
    """An MQTT 5 client with the credentials in a folder, connected; it does not reconnect."""
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2, client_id, protocol=mqtt.MQTTv5, reconnect_on_failure=False
    )
    client.tls_set_context(client_context(folder, folder / "operator.pem"))
    properties = Properties(PacketTypes.CONNECT)
    if expiry_s is not None:
        properties.SessionExpiryInterval = expiry_s
    said: list[Any] = []  # the CONNACK's properties; then, at the end of the connection, its reason
    client.on_connect = lambda *args: said.append(args[4])
    client.on_disconnect = lambda *args: said.append(args[3])
    client.on_message = on_message  # before it connects: what is queued comes at once
    client.user_data_set(said)
    client.connect(LOOPBACK, port, clean_start=expiry_s is None, properties=properties)
    client.loop_start()
    wait_until(lambda: bool(said))
    return client


def end(client: mqtt.Client) -> None:
    client.disconnect()
    client.loop_stop()


def read_status(fleet: Fleet, field: str) -> list[str]:
    """What Linux says of the broker's process."""
    process = (fleet.folder / "lock").read_text().strip()
    status = (Path("/proc") / process / "status").read_text()
    found = re.search(rf"^{field}:(.*)$", status, re.MULTILINE)
    assert found is not None
    return found[1].split()


def memory_mb(fleet: Fleet) -> float:
    return int(read_status(fleet, "VmRSS")[0]) / 1024


# One device against the rest


@pytest.mark.slow
def test_what_one_device_lets_the_broker_retain_is_bounded(keys, devices, own):
    """6,000 retained messages of 8 KB took it from 9 to 58 MB in 1.6 s."""
    before = memory_mb(own)
    device = connect(devices / "dev-0001", own.broker.port, "x")
    kinds = ["state", "event", "telemetry", *(f"event/{n}" for n in range(5997))]
    sent = [
        device.publish(f"signet/dev-0001/up/{kind}", bytes(8000), qos=1, retain=True)
        for kind in kinds
    ]
    for each in sent:
        each.wait_for_publish(WAIT_S)
    end(device)
    assert memory_mb(own) - before < 8
    with open_session(keys, own, EVERYTHING_DEVICES_SAY) as operator:
        operator.wait_for(lambda message: message.topic.endswith("telemetry"), WAIT_S)
        retained = [message.topic for message in operator.messages]
    assert sorted(retained) == [f"signet/dev-0001/up/{kind}" for kind in sorted(kinds[:3])]


def test_a_device_has_one_session_whatever_it_calls_itself(devices, own, tmp_path):
    for number in range(60):
        end(connect(devices / "dev-0001", own.broker.port, f"thief-{number}", ENDLESS))
    own.stop()
    kept = (own.folder / "broker/db/mosquitto.db").read_bytes()
    assert kept.count(b"dev-0001") == 2  # client id and name of one session
    assert b"thief" not in kept
    # Its end, which mosquitto's file has in the 24 bytes before a client's id.
    (ends,) = struct.unpack_from("<q", kept, kept.index(b"dev-0001") - 24)
    assert abs(ends - time.time() - 35 * DAY_S) < DAY_S


def test_a_device_has_one_connection(devices, own):
    clients = [connect(devices / "dev-0001", own.broker.port, f"z{n}") for n in range(5)]
    wait_until(lambda: all(len(client.user_data_get()) == 2 for client in clients[:4]))
    assert len(clients[4].user_data_get()) == 1
    for client in clients:
        end(client)


def test_devices_are_held_to_qos_1(devices, own):
    """Of a message with QoS 2 the broker keeps one more copy, for as long as the sender likes."""
    device = connect(devices / "dev-0001", own.broker.port, "x")
    (properties,) = device.user_data_get()
    assert properties.MaximumQoS == 1
    end(device)


@pytest.mark.parametrize(("size", "count", "most"), [(10, 1100, 1000), (7900, 400, 265)])
def test_what_waits_for_a_device_is_bounded(keys, devices, own, size, count, most):
    def listen(heard: list[int]) -> mqtt.Client:
        def hear(*args: Any) -> None:
            heard.append(len(args[2].payload))

        return connect(devices / "dev-0001", own.broker.port, "x", ENDLESS, hear)

    device = listen([])
    subscribed = threading.Event()
    device.on_subscribe = lambda *_: subscribed.set()
    device.subscribe("signet/dev-0001/down/#", 1)
    assert subscribed.wait(WAIT_S)
    end(device)
    with open_session(keys, own) as operator:
        for _ in range(count):
            operator.publish("signet/dev-0001/down/command", bytes(size))
    heard: list[int] = []
    device = listen(heard)
    wait_until(lambda: len(heard) > most - 10)
    with open_session(keys, own) as operator:
        operator.publish("signet/dev-0001/down/command", b"!")
    wait_until(lambda: 1 in heard)
    assert most - 10 < len(heard) - 1 <= most + 2  # and two in flight
    end(device)


def test_devices_that_take_every_connection_leave_the_operators_theirs(
    keys, devices, tmp_path, monkeypatch
):
    """Nor does it take a certificate: a TCP connection counts."""
    monkeypatch.setattr(broker, "MAX_DEVICES", 5)
    with Fleet(tmp_path / "fleet", keys) as fleet:
        port = fleet.broker.port
        device = client_context(keys, devices / "dev-0001/operator.pem")
        assert exchange(port, device, CONNECT) == CONNACK
        flood = [socket.create_connection((LOOPBACK, port), WAIT_S) for _ in range(6)]
        flood[5].settimeout(WAIT_S)
        assert flood[5].recv(1) == b""  # closed
        assert exchange(port, device, CONNECT) == b""
        with open_session(keys, fleet):
            pass
        for sock in flood:
            sock.close()
        wait_until(lambda: exchange(port, device, CONNECT) == CONNACK)


def test_fewer_devices_where_fewer_files_can_be_opened(monkeypatch):
    for limit, most in ((1024, 768), (100, 1), (1 << 20, 10_000), (-1, 10_000)):
        monkeypatch.setattr(
            "signet.fleet.broker.resource.getrlimit", lambda _, limit=limit: (limit, limit)
        )
        assert broker._count_devices() == most


def test_memory_has_an_end_for_who_takes_it(keys, devices, tmp_path, monkeypatch):
    """mosquitto has no bound for the subscriptions of one client."""
    monkeypatch.setattr(broker, "MEMORY_LIMIT", 16 << 20)
    with Fleet(tmp_path / "fleet", keys) as fleet:
        flooder = connect(devices / "dev-0001", fleet.broker.port, "x", ENDLESS)
        granted: list[int] = []
        answered = threading.Event()

        def on_subscribe(*_: object) -> None:
            granted.append(1)
            answered.set()

        flooder.on_subscribe = on_subscribe
        with open_device(devices / "dev-0002", fleet, "signet/dev-0002/down/#") as other:
            while len(flooder.user_data_get()) == 1 and len(granted) < 500:  # not disconnected
                topics = [f"{len(granted)}/{n}/{'x' * 60}" for n in range(100)]
                flooder.subscribe([(topic, 1) for topic in topics])
                wait_until(lambda: answered.is_set() or len(flooder.user_data_get()) == 2)
                answered.clear()
            assert 10 < len(granted) < 500
            assert memory_mb(fleet) < 48
            with open_session(keys, fleet) as operator:
                operator.publish("signet/dev-0002/down/order", b"mark")
            other.wait_for(lambda message: message.payload == b"mark", WAIT_S)
        flooder.loop_stop()


@pytest.mark.parametrize("log", ["broker.log", "images.log"])
def test_a_log_is_bounded_and_goes_on(devices, keys, tmp_path, monkeypatch, log):
    limit = 4096
    monkeypatch.setattr(logs, "MAX_LEN", limit)
    with Fleet(tmp_path / "fleet", keys) as fleet:
        path, older = fleet.folder / log, fleet.folder / f"{log}.1"
        device = client_context(keys, devices / "dev-0001/operator.pem")

        def flood() -> bool:
            for _ in range(10):
                exchange(fleet.broker.port, device, CONNECT)
                exchange(fleet.images_port, device, b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n")
            return older.exists()

        wait_until(flood)
        first = older.read_bytes()
        wait_until(lambda: flood() and older.read_bytes() != first)
        assert first.isascii()
        assert b"\0" not in path.read_bytes()
        assert path.stat().st_size < 4 * limit
        assert (mode(path), mode(older)) == (0o600, 0o600)


# Names that are no device's


NO_DEVICES = ["operator:demo", "service:x", "Dev", "-", "dev-0001/up", "+", "#"]


@pytest.mark.parametrize("name", NO_DEVICES)
def test_a_name_that_is_no_devices_says_nothing_to_anybody(keys, devices, own, tmp_path, name):
    """The broker lets it in, as mosquitto has no check for it; the image server does not."""
    path = forge(keys, tmp_path / "client.pem", "device-ca", name)
    put_credentials(
        tmp_path / "odd", keys, path.read_bytes(), path.with_suffix(".key").read_bytes()
    )
    mine = f"signet/{name}/up/event"
    others = {f"signet/dev-0001/{kind}" for kind in ("up/event", "up/up/event", "down/order")}
    with (
        open_session(keys, own, EVERYTHING_DEVICES_SAY) as operator,
        open_device(tmp_path / "odd", own, "#") as odd,
        open_device(devices / "dev-0001", own, "signet/dev-0001/down/#") as device,
    ):
        if name not in ("+", "#"):  # no topic of a message has these
            odd.publish(mine, b"forged")
        for topic in others - {mine}:
            with pytest.raises(RefusedError, match="not authorized"):
                odd.publish(topic, b"forged")
        operator.publish("signet/dev-0001/down/order", b"mark")
        device.wait_for(lambda message: message.payload == b"mark", WAIT_S)
        device.publish("signet/dev-0001/up/event", b"mark")
        operator.wait_for(lambda message: message.payload == b"mark", WAIT_S)
        for session in (operator, device):
            assert {message.payload for message in session.messages} == {b"mark"}
        assert odd.messages == []
    context = client_context(keys, path)
    request = b"GET /images/m/1.img HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert exchange(own.images_port, context, request, 12) == b"HTTP/1.1 403"
    assert f'"identity": "{name}"' in (own.folder / "images.log").read_text()


def test_a_service_hears_devices_and_says_nothing(keys, devices, own, tmp_path):
    put_credentials(
        tmp_path / "service", keys,
        (keys / "service.pem").read_bytes(), (keys / "service.key").read_bytes(),
    )  # fmt: skip
    address = own.addresses["services"]
    with (
        OperatorSession(tmp_path / "service", address, "#", WAIT_S) as service,
        open_session(keys, own) as operator,
        open_device(devices / "dev-0001", own, "signet/dev-0001/down/#") as device,
    ):
        for topic in ("signet/dev-0001/down/order", "signet/dev-0001/up/state"):
            with pytest.raises(RefusedError, match="not authorized"):
                service.publish(topic, b"forged")
        operator.publish("signet/dev-0001/down/order", b"order")
        device.wait_for(lambda message: message.payload == b"order", WAIT_S)
        device.publish("signet/dev-0001/up/event", b"event")
        service.wait_for(lambda message: message.payload == b"event", WAIT_S)
        assert [message.payload for message in service.messages] == [b"event"]


def test_an_operator_can_end_a_devices_session(keys, devices, own):
    """By its client id, which is the device's: so a session can be closed and its queue emptied."""
    device = connect(devices / "dev-0001", own.broker.port, "x", ENDLESS)
    operator = connect(keys, own.broker.operators_port, "dev-0001")
    wait_until(lambda: len(device.user_data_get()) == 2)
    end(operator)
    device.loop_stop()


# Whose the broker is


def test_the_broker_is_nobodys_to_change(keys, devices, own):
    """It does not run as root, what it reads it cannot replace, and nobody else reads it."""
    folder = own.folder / "broker"
    root = os.geteuid() == 0
    user = broker._choose_account().pw_uid if root else os.geteuid()
    assert user != 0
    assert read_status(own, "Uid") == [str(user)] * 4
    assert int(read_status(own, "CapEff")[0], 16) == 0
    assert (folder.stat().st_uid, mode(folder)) == ((0, 0o710) if root else (user, 0o700))
    assert (folder / "db").stat().st_uid == user
    assert mode(folder / "db") == 0o700
    files = [path for path in folder.iterdir() if path.is_file()]
    assert {path.name for path in files} >= {"access", "mosquitto.conf", "server.key"}
    for path in files:
        assert (path.stat().st_uid, mode(path)) == (user, 0o600), path.name
    device = client_context(keys, devices / "dev-0001/operator.pem")
    exchange(own.images_port, device, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    for name in ("broker.log", "images.log"):
        assert mode(own.folder / name) == 0o600
    own.stop()
    assert (folder / "db/mosquitto.db").stat().st_uid == user
    assert not (folder / "server.key").exists()  # the copy


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give its groups away")
def test_the_broker_has_none_of_roots_groups(keys, tmp_path):
    before = os.getgroups()
    os.setgroups([0, 4])
    try:
        with Fleet(tmp_path / "fleet", keys) as fleet:
            assert read_status(fleet, "Groups") == []
    finally:
        os.setgroups(before)


def test_a_log_that_all_could_read_is_closed(keys, tmp_path):
    (tmp_path / "fleet").mkdir()
    path = tmp_path / "fleet/broker.log"
    path.write_text("client ids of an older version\n")
    path.chmod(0o644)
    with Fleet(tmp_path / "fleet", keys):
        assert mode(path) == 0o600
        assert path.read_text().startswith("client ids of an older version\n")


def test_a_log_is_not_written_through_a_link(keys, tmp_path):
    (tmp_path / "fleet").mkdir()
    (tmp_path / "fleet/broker.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SignetError, match=r"broker\.log"), Fleet(tmp_path / "fleet", keys):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_root_without_another_account_is_told_so(keys, tmp_path, monkeypatch):
    def unknown(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr(pwd, "getpwnam", unknown)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with (
        pytest.raises(SignetError, match="never runs as root: expected an account"),
        Fleet(tmp_path / "fleet", keys),
    ):
        pass


def test_the_log_has_no_client_id_that_a_device_could_use(devices, own):
    """Of devices it has what their certificates say; with that nobody else gets in."""
    end(connect(devices / "dev-0001", own.broker.port, "dev-0001-0123456789abcdef"))
    log = (own.folder / "broker.log").read_text()
    assert " as dev-0001 (" in log
    assert "0123456789abcdef" not in log
