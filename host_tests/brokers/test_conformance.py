"""The conformance cases with mosquitto; `make brokers` runs them with others, too."""

from pathlib import Path

import pytest

from host_tests.brokers.report import Column, render
from host_tests.brokers.run import (
    DEVIATES,
    FAILED,
    NO,
    UNTESTED,
    WORKS,
    Outcome,
    cases_for,
    run_case,
)
from host_tests.brokers.servers import Broker, Mosquitto

# mosquitto has no such bound, and its access lists are not for subscriptions.
_OTHERWISE = {"the broker's maximum packet size": NO, "subscription refused": UNTESTED}
_CASES = [
    pytest.param(version, name, case, id=f"{name}, {text}")
    for version, text in ((4, "3.1.1"), (5, "5"))
    for name, case in cases_for(version)
]


@pytest.fixture(scope="module")
def broker(mosquitto, tmp_path_factory):
    with Mosquitto(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.mark.parametrize(("version", "name", "case"), _CASES)
def test_case(micropython: Path, broker: Broker, version: int, name: str, case):
    outcome = run_case(micropython, broker, version, name, case)
    assert outcome.verdict == _OTHERWISE.get(name, WORKS), f"{outcome.text}\n{outcome.trace}"


def test_table():
    column = Column(
        "some",
        4,
        [
            Outcome("first", WORKS),
            Outcome("second", NO, "grants QoS 1"),
            Outcome("third", DEVIATES, "answers late"),
            Outcome("fourth", FAILED, "answers late"),
        ],
    )
    other = Column("other", 4, [Outcome("first", WORKS), Outcome("third", NO, "grants QoS 1")])
    text = render([column, other], {"some": "1.0", "other": "2"}, {"third": "no apt-get"})
    assert max(map(len, text.splitlines())) <= 80
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows == [
        "| MQTT 3.1.1 | some     | other  |",
        "| ---------- | -------- | ------ |",
        "| first      | works    | works  |",
        "| second     | no (1)   |        |",
        "| third      | dev. (2) | no (1) |",
        "| fourth     | FAIL (2) |        |",
    ]
    assert "With some 1.0, other 2, over mutual TLS." in text
    assert "**third is missing:** no apt-get" in text
    assert text.endswith("\n1. grants QoS 1\n2. answers late\n")
