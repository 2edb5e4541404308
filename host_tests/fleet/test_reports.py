"""signet.fleet.reports: what one device says, among others; signet.fleet.proxy as a network."""

import json
import socket
import time
from typing import Any, cast

import pytest

from host_tests.fleet_helpers import exchange
from signet.fleet.proxy import Proxy
from signet.fleet.reports import NotReportedError, Reports
from signet.fleet.session import Message, OperatorSession


class Operator:
    """A session that has received what a test says, and answers what is published."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.published: list[tuple[str, dict[str, Any]]] = []
        self.answer: dict[str, Any] | None = None

    def say(self, device: str, kind: str, **report: Any) -> None:
        payload = json.dumps(report).encode()
        self.messages.append(Message(f"signet/{device}/up/{kind}", payload, False, 0))

    def publish(self, topic: str, payload: bytes) -> None:
        message = json.loads(payload)
        self.published.append((topic, message))
        if self.answer is not None:
            self.say("dev-2", "event", event="command", id=message["id"], result=2)
            self.say("dev-1", "event", event="command", id="another", result=3)
            self.say("dev-1", "event", event="command", id=message["id"], **self.answer)

    def wait_for(self, wanted, timeout_s: float, after: int = 0) -> Message:
        for message in self.messages[after:]:
            if wanted(message):
                return message
        time.sleep(timeout_s)
        raise TimeoutError


@pytest.fixture
def operator() -> Operator:
    return Operator()


@pytest.fixture
def reports(operator) -> Reports:
    return Reports(cast(OperatorSession, operator), "dev-1", 0.6)


def test_a_report_of_another_device_or_before_the_mark_is_none(operator, reports):
    operator.say("dev-1", "state", version="1", online=True)
    operator.say("dev-11", "state", version="2", online=True)
    operator.say("dev-1", "event", version="2")
    mark = reports.mark
    assert reports.wait_for_state(version="1")["online"]
    for after, version in ((0, "2"), (mark, "1")):
        with pytest.raises(NotReportedError, match=r"^dev-1 did not report a state with .* 1 s$"):
            reports.wait_for_state(after, version=version)


def test_who_is_off_is_not_waited_for_long(reports, monkeypatch):
    monkeypatch.setattr("signet.fleet.reports._LOOK_S", 0.01)
    monkeypatch.setattr("signet.fleet.reports._GRACE_S", 0.1)
    reports.limit_s = 1000
    reports.lives = lambda: False
    with pytest.raises(NotReportedError, match="within 0 s"):
        reports.wait_for_state(online=False)


@pytest.mark.parametrize("end", ["refused", "failed", "rolled-back"])
def test_an_update_that_ended_otherwise_is_not_waited_for(operator, reports, end):
    operator.say("dev-1", "event", event="update", result="accepted")
    operator.say("dev-1", "event", event="update", result=end, reason="why")
    operator.say("dev-1", "event", event="update", result="confirmed")
    assert reports.wait_for_update("accepted")
    assert reports.wait_for_update(end)["reason"] == "why"
    with pytest.raises(NotReportedError, match=f"is {end}, expected confirmed: why"):
        reports.wait_for_update("confirmed")
    assert reports.wait_for_update("confirmed", after=2)


def test_a_command_has_the_answer_that_repeats_its_id(operator, reports):
    operator.answer = {"ok": True, "result": 1}
    assert reports.ask("add", {"to": 1})["result"] == 1
    topic, message = operator.published[0]
    assert (topic, message["command"], message["args"]) == (
        "signet/dev-1/down/command",
        "add",
        {"to": 1},
    )


def test_a_network_that_is_down_takes_no_connection():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with Proxy({"server": port}) as proxy:
            address = "127.0.0.1", proxy.routes["server"].port
            with socket.create_connection(address, 10) as before:
                peer, _ = server.accept()
                proxy.take_down()
                with pytest.raises(ConnectionResetError):
                    before.recv(1)
            peer.close()
            assert exchange(address[1], None, b"x") == b""
            proxy.bring_back()
            with socket.create_connection(address, 10) as after:
                peer, _ = server.accept()
                after.sendall(b"x")
                assert peer.recv(1) == b"x"
                peer.close()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            routes = {"other": port, "server": port}
            with (
                pytest.raises(OSError, match="address already in use"),
                Proxy(routes, {"server": taken.getsockname()[1]}),
            ):
                pass
