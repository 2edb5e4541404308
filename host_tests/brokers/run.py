"""Run the conformance cases, and say what came of each."""

import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from host_tests.brokers.bench import Bench, UnsupportedError, UntestedError
from host_tests.brokers.cases import COMMON, Case
from host_tests.brokers.cases_breaks import BREAKS, RESTARTS
from host_tests.brokers.cases_v5 import V5
from host_tests.brokers.deviations import DEVIATIONS, INTERMITTENT
from host_tests.brokers.servers import Broker

WORKS, NO, DEVIATES, FAILED, UNTESTED = "works", "no", "dev.", "FAIL", "–"


class Outcome(NamedTuple):
    """What a case came to. text: why, unless it works; trace: for FAILED."""

    case: str
    verdict: str
    text: str = ""
    trace: str = ""
    took_s: float = 0


def cases_for(version: int) -> list[tuple[str, Case]]:
    return [*COMMON, *BREAKS, *(V5 if version == 5 else ()), *RESTARTS]


def run_case(micropython: Path, broker: Broker, version: int, name: str, case: Case) -> Outcome:
    began = time.monotonic()
    key = broker.name, version, name
    deviation = DEVIATIONS.get(key)
    try:
        with Bench(micropython, broker, version) as bench:
            case(bench)
    except UntestedError:
        return Outcome(name, UNTESTED)
    except UnsupportedError as error:
        return Outcome(name, NO, str(error), "", time.monotonic() - began)
    except Exception as error:
        took_s = time.monotonic() - began
        if deviation:
            return Outcome(name, DEVIATES, deviation, "", took_s)
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        return Outcome(name, FAILED, text, traceback.format_exc(), took_s)
    if key in INTERMITTENT:
        return Outcome(name, DEVIATES, deviation or "", "", time.monotonic() - began)
    if deviation:
        return Outcome(name, FAILED, f"works, and is said to deviate: {deviation}")
    return Outcome(name, WORKS, "", "", time.monotonic() - began)


def run_all(
    micropython: Path, make: type[Broker], version: int, part: str = ""
) -> Iterator[Outcome]:
    """The cases with `part` in their names, each as it ends. After one that fails, a new broker."""
    with tempfile.TemporaryDirectory(prefix="signet-broker-") as folder, ExitStack() as stack:
        broker: Broker | None = None
        for number, (name, case) in enumerate(cases_for(version)):
            if part not in name:
                continue
            if broker is None:
                place = Path(folder, str(number))
                place.mkdir()
                broker = stack.enter_context(make(place))
            outcome = run_case(micropython, broker, version, name, case)
            if outcome.verdict in (DEVIATES, FAILED):
                broker.close()
                broker = None
            yield outcome
