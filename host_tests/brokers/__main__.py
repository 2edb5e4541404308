"""`make brokers`: the conformance cases against every broker that this machine can have.

Prints the table and writes build/mqtt-brokers.md. Exit codes: 0 done, 1 a case failed, 2 a broker
is missing.
"""

import argparse
import sys
from pathlib import Path

from host_tests.brokers.install import MissingError
from host_tests.brokers.report import Column, render
from host_tests.brokers.run import FAILED, run_all
from host_tests.brokers.servers import BROKERS, REPO, Broker

TABLE = REPO / "build/mqtt-brokers.md"
MICROPYTHON = REPO / ".toolchain/bin/micropython"
VERSIONS = {4: "3.1.1", 5: "5"}


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run_broker(make: type[Broker], version: int, part: str) -> Column:
    outcomes = []
    for outcome in run_all(MICROPYTHON, make, version, part):
        outcomes.append(outcome)
        label = f"{make.name} {VERSIONS[version]}: {outcome.case}"
        note(f"{label:58} {outcome.verdict:6} {outcome.took_s:5.1f} s  {outcome.text[:200]}")
        if outcome.trace:
            note(outcome.trace)
    return Column(make.name, version, outcomes)


def find_version(make: type[Broker]) -> str:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return make(Path(folder)).version()


def main() -> int:
    parser = argparse.ArgumentParser(description="conformance cases against real MQTT brokers")
    parser.add_argument("--broker", default="", help="one of them, by a part of its name")
    parser.add_argument("--case", default="", help="cases with this in their names")
    parser.add_argument("--version", type=int, choices=VERSIONS, help="of MQTT: 4 is 3.1.1")
    arguments = parser.parse_args()
    columns, missing, found = [], {}, {}
    for make in BROKERS:
        if arguments.broker.lower() not in make.name.lower():
            continue
        try:
            found[make.name] = find_version(make)
        except MissingError as error:
            missing[make.name] = str(error)
            note(f"brokers: {make.name} is missing: {error}")
            continue
        for version in make.versions:
            if arguments.version in (None, version):
                columns.append(run_broker(make, version, arguments.case))
    text = render(columns, found, missing)
    print(text)
    if not (arguments.broker or arguments.case or arguments.version):
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(text)
    if any(outcome.verdict == FAILED for column in columns for outcome in column.outcomes):
        return 1
    return 2 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
