"""No message is lost and none at QoS 2 comes twice, whatever breaks; see chaos.py.

SIGNET_CHAOS=full, as in `make brokers`: 10,000 messages at QoS 1 and 1,000 at QoS 2, each way and
for each kind of trouble; otherwise a tenth. SIGNET_CHAOS_SEED repeats a run's draws.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from host_tests.mqtt import chaos
from host_tests.mqtt.chaos import Plan, Tally

_IS_FULL = os.environ.get("SIGNET_CHAOS") == "full"
_MESSAGES = (10_000, 1_000) if _IS_FULL else (1_000, 100)
_TIMES = 5 if _IS_FULL else 1
_TROUBLE: dict[str, dict[str, Any]] = {
    "cuts": {"cuts": True},
    "restarts of the broker": {"restarts": 2 * _TIMES},
    "pauses of the broker": {"pauses": _TIMES},
    "restarts of the device": {"kills": 8 * _TIMES, "cuts": True},
    "all": {"cuts": True, "restarts": 2 * _TIMES, "pauses": _TIMES, "kills": 4 * _TIMES},
}

_ATTEMPTS = 5  # a fault that needs bad luck may not show at once
_MANY_KILLS = {"kills": 30, "cuts": True}
# Clients that are wrong on purpose, the trouble that shows it, and what is found. With an id that
# is left unreleased for each resend, the broker may refuse the connection: messages are lost.
_MUTANTS: list[tuple[str, dict[str, Any], set[str]]] = [
    ("does not resend", _TROUBLE["cuts"], {"lost"}),
    ("forgets QoS 2 ids", _TROUBLE["cuts"], {"repeated"}),
    ("fresh id for a resend", _TROUBLE["cuts"], {"repeated", "lost"}),
    ("keeps no messages", _TROUBLE["restarts of the device"], {"lost"}),
    ("keeps no QoS 2 ids", _MANY_KILLS, {"repeated"}),
]


def carry_out(plan: Plan, micropython: Path, folder: Path) -> Tally:
    print(plan)  # before it hangs, too
    tally = chaos.run(plan, micropython, folder)
    print(tally)
    return tally


@pytest.mark.parametrize("version", [4, 5], ids=["3.1.1", "5"])
@pytest.mark.parametrize("trouble", _TROUBLE)
def test_nothing_is_lost_or_repeated(micropython, mosquitto, tmp_path, version, trouble):
    plan = Plan(version, _MESSAGES, chaos.seed_of_this_run(), **_TROUBLE[trouble])
    tally = carry_out(plan, micropython, tmp_path)
    assert tally.faults() == {}
    assert tally.connections > 1  # it did break


@pytest.mark.parametrize(("mutant", "trouble", "faults"), _MUTANTS, ids=[m[0] for m in _MUTANTS])
def test_a_wrong_client_is_found(micropython, mosquitto, tmp_path, mutant, trouble, faults):
    found = set()
    for attempt in range(_ATTEMPTS):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        seed = chaos.seed_of_this_run() + attempt
        plan = Plan(4, (300, 1500), seed, mutant=mutant, **trouble)
        found = carry_out(plan, micropython, folder).faults().keys() & faults
        if found:
            break
    assert found
