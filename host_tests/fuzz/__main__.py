"""Fuzz the host's parsers: `make fuzz`, or `python -m host_tests.fuzz --runs N [PARSER ...]`.

Each gets N inputs, made of good samples; heavy ones a twentieth. Checked: it ends with a result or
a SignetError, within 10 s of processor time and 1 GiB more than before. What fails is left in
build/fuzz, with the seed that makes it again; exit code 1.
"""

import argparse
import faulthandler
import gc
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO), str(REPO / "tools"), str(REPO / "lib")]

from host_tests.fuzz import mutate  # noqa: E402
from host_tests.fuzz.parsers import PARSERS, Parser, make_samples  # noqa: E402
from signet.errors import SignetError  # noqa: E402
from signet.pki import authority  # noqa: E402

HOME = REPO / "build/fuzz"
TIMEOUT_S = 10  # for one input; a usual one takes milliseconds
_MORE_MEMORY = 1 << 30
_HEAVY = 20
_ORDERLY = 40  # an exit code that a parser would not think of; findings are added
_MOST_FINDINGS = 5  # of one parser


def make_input(parser: Parser, samples: list[bytes], seed: int) -> bytes:
    """The input that a seed stands for."""
    chance = random.Random(seed)
    sample = chance.choice(samples)
    if parser.json and chance.random() < 0.5:
        return mutate.hostile_json(chance, sample, samples)
    data = mutate.mutate(chance, sample, samples)
    if parser.mend and chance.random() < 0.7:
        data = parser.mend(data)
    return data


def fuzz(name: str, folder: Path, runs: int, first_seed: int) -> int:
    """Try a parser with inputs of consecutive seeds; the number of findings."""
    parser = PARSERS[name]
    samples = [(folder / sample).read_bytes() for sample in parser.samples]
    runs = max(runs // _HEAVY, 3) if parser.heavy else runs
    taken = findings = 0
    longest = (0.0, first_seed)
    started = time.monotonic()
    for seed in range(first_seed, first_seed + runs):
        data = make_input(parser, samples, seed)
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        path = work / "input"
        path.write_bytes(data)
        path.chmod(0o600)
        begun = time.process_time()
        (folder / "seed").write_text(f"{seed}")
        # Ends the process, with a stack: C code that loops cannot be ended otherwise.
        signal.setitimer(signal.ITIMER_VIRTUAL, TIMEOUT_S)
        try:
            parser.run(path)
            taken += 1
        except SignetError as error:
            text = f"{error}"
            if len(text) > 100_000:
                findings += _report(name, seed, data, f"a message of {len(text)} characters")
        except BaseException:
            findings += _report(name, seed, data, traceback.format_exc())
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        longest = max(longest, (time.process_time() - begun, seed))
        if findings >= _MOST_FINDINGS:
            break
    seconds = max(time.monotonic() - started, 1e-6)
    print(
        f"{name:16} {runs:>8,} inputs from seed {first_seed}  {runs / seconds:>7,.0f}/s  "
        f"{taken:>7,} taken  longest {longest[0]:6.3f} s (seed {longest[1]})  findings: {findings}",
        flush=True,
    )
    return findings


def fuzz_apart(name: str, folder: Path, runs: int, first_seed: int) -> int:
    """`fuzz` in a process of its own, which a parser may end."""
    child = os.fork()
    if child == 0:
        faulthandler.enable()
        faulthandler.register(signal.SIGVTALRM, chain=True)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + _MORE_MEMORY, resource.RLIM_INFINITY))
        os._exit(_ORDERLY + fuzz(name, folder, runs, first_seed))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if 0 <= status - _ORDERLY <= _MOST_FINDINGS:
        return status - _ORDERLY
    data = (folder / "work/input").read_bytes()
    return _report(name, int((folder / "seed").read_text()), data, f"the process ended: {status}")


def _report(name: str, seed: int, data: bytes, what: str) -> int:
    HOME.mkdir(parents=True, exist_ok=True)
    kept = HOME / f"host-{name.replace(' ', '-')}-{seed}"
    kept.write_bytes(data)
    print(f"--- {name}, seed {seed}: {what[-3000:]}\n--- kept as {kept}", flush=True)
    return 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parsers", nargs="*", metavar="PARSER", help=", ".join(PARSERS))
    parser.add_argument("--runs", type=int, default=20_000, help="inputs for each parser")
    parser.add_argument("--seed", type=int, help="of the first input; default: another each time")
    parser.add_argument("--samples", type=Path, help="folder of `make_samples`; made if missing")
    options = parser.parse_args()
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    print(f"host parsers: --seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="signet-fuzz-") as temporary:
        folder = options.samples or Path(temporary)
        if options.samples is None:
            authority.init_pki(folder / "pki", ["localhost"])
            make_samples(folder, folder / "pki", REPO)
        gc.freeze()  # a board's reader collects before it opens a module
        findings = 0
        for name in options.parsers or PARSERS:
            findings += fuzz_apart(name, folder, options.runs, seed)
    return int(findings > 0)


if __name__ == "__main__":
    sys.exit(main())
