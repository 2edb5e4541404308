"""Fixtures for the tests of lib/mqtt."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from host_tests.mqtt.broker import Broker, Observer
from host_tests.mqtt.certificates import Authority
from host_tests.mqtt.false_broker import FalseBroker
from host_tests.mqtt.puppet import Puppet

MakePuppet = Callable[..., Puppet]


@pytest.fixture(params=[4, 5], ids=["v311", "v5"])
def version(request: pytest.FixtureRequest) -> int:
    """MQTT 3.1.1 (protocol level 4) and 5."""
    return int(request.param)


@pytest.fixture
def broker(mosquitto: Path, tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(mosquitto, tmp_path)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def observer(broker: Broker) -> Iterator[Observer]:
    with Observer(broker.port) as observer:
        observer.subscribe("up/#")
        yield observer


@pytest.fixture
def false_broker() -> Iterator[FalseBroker]:
    """Of MQTT 3.1.1, over TCP."""
    with FalseBroker() as false_broker:
        yield false_broker


@pytest.fixture
def false_broker_5() -> Iterator[FalseBroker]:
    with FalseBroker(version=5) as false_broker:
        yield false_broker


@pytest.fixture
def either_false_broker(version: int) -> Iterator[FalseBroker]:
    with FalseBroker(version=version) as false_broker:
        yield false_broker


@pytest.fixture
def false_tls_broker(tmp_path: Path) -> Iterator[FalseBroker]:
    with FalseBroker(Authority(tmp_path, "false-ca")) as false_broker:
        yield false_broker


@pytest.fixture
def puppet(micropython: Path) -> Iterator[MakePuppet]:
    """A function that makes a client: puppet(where, version=4, **options).

    Unless told otherwise: clean sessions (others last an hour), and pauses of up to 50 ms.
    """
    puppets = []

    def make(where: dict[str, Any], version: int = 4, **options: Any) -> Puppet:
        options.setdefault("clean", True)
        options.setdefault("backoff_cap_s", 0.05)
        if version == 5:
            kept = {} if options["clean"] else {"session_expiry_interval": 3600}
            options["protocol"] = {**kept, **options.get("protocol", {})}
        puppets.append(Puppet(micropython, where, **options))
        return puppets[-1]

    yield make
    for each in puppets:
        each.__exit__()
