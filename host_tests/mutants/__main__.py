"""`make mutants`: breaks one check at a time, in a copy of the project, and sees a test fail.

Prints the mutants that nothing noticed. Exit codes: 0 none survived, 1 some did, 2 the lists or the
project are not fit for it: an entry that does not apply, a test that fails anyway.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue

from host_tests.mutants.lists import LISTS, REPO, ListError, Mutant, read

LIMIT_S = 900  # a test that takes longer hangs, and that is no verdict
_SHOWN = 8000  # characters of what pytest printed: its end
_FEW = 8  # sets of tests that are not worth a second process
_FAILED = re.compile(r"^FAILED (.+?)(?: - |$)", re.MULTILINE)
_ENDS = dict.fromkeys((2, 4, 5), "the tests could not be collected")
_running: set[subprocess.Popen[str]] = set()


def make_copy(folder: Path) -> None:
    """The project as it is, what is not committed too, and a .venv that imports this copy."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPO, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (REPO / name).exists():  # one that was deleted is in the list until that is committed
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, folder / name)
    (folder / ".toolchain").symlink_to(REPO / ".toolchain")
    site = Path("lib", f"python{sys.version_info.major}.{sys.version_info.minor}", "site-packages")
    (folder / ".venv" / site).mkdir(parents=True)
    # Linked, but for what makes `import signet` mean the tools of REPO. The folders tell Python by
    # their place which .venv they are of, so a link to the whole of it would be REPO's.
    for part in (Path(), site):
        for path in (REPO / ".venv" / part).iterdir():
            link = folder / ".venv" / part / path.name
            if not link.exists() and not path.name.startswith("__editable__"):
                link.symlink_to(path)
    own = "".join(f"{folder / name}\n" for name in ("tools", "lib"))
    (folder / ".venv" / site / "signet.pth").write_text(own)


def run_tests(copy: Path, tests: tuple[str, ...], limit_s: int, *more: str) -> tuple[str, str]:
    """Returns ("passed" | "failed" | whatever else became of them, what was printed)."""
    command = [
        str(copy / ".venv/bin/python"), "-m", "pytest", "-q", "-p", "no:cacheprovider",
        "-p", "no:hypothesispytest",  # a second of processor time to import
        f"--basetemp={copy.parent / (copy.name + '-tmp')}", *more, *tests,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}  # a mutant may be as old and long
    environment["SIGNET_VECTORS_MADE"] = str(copy.parent / "vectors.json")
    for name in ("PYTHONPATH", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
        environment.pop(name, None)
    process = subprocess.Popen(
        command, cwd=copy, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    _running.add(process)
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        _kill(process)
        return f"timeout after {limit_s} s", process.communicate()[0]
    finally:
        _running.discard(process)
    if process.returncode == 0:
        return "passed", output
    if process.returncode == 1 and _FAILED.search(output):
        return "failed", output
    return _ENDS.get(process.returncode, "no test failed, but what it needs did"), output


def _kill(process: subprocess.Popen[str]) -> None:
    """With all that the tests started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def try_mutant(mutant: Mutant, copies: SimpleQueue[Path]) -> tuple[bool, str]:
    """Returns (was it killed, by what or why not)."""
    copy = copies.get()
    path = copy / mutant.file
    original = path.read_text()
    path.write_text(mutant.apply(original))
    try:
        end, output = run_tests(copy, mutant.tests, mutant.hangs_s or LIMIT_S, "-x")
    finally:
        path.write_text(original)
        copies.put(copy)
    if mutant.hangs_s:
        return end.startswith("timeout"), end
    found = _FAILED.search(output)
    return end == "failed", found[1] if end == "failed" and found else end


@contextmanager
def make_copies(jobs: int) -> Iterator[SimpleQueue[Path]]:
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        sys.path.append(str(REPO / "host_tests/pure"))  # as pytest has it
        from host_tests import vectors

        vectors.write(Path(folder).resolve() / "vectors.json")  # once: it takes seconds
        os.chmod(folder, 0o755)  # the broker of a test does not run as root
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            copy = Path(folder).resolve() / str(number)
            copy.mkdir()
            make_copy(copy)
            copies.put(copy)
        yield copies


def check_unmutated(mutants: list[Mutant], copies: SimpleQueue[Path], jobs: int) -> None:
    """Else a mutant would seem to be killed by a test that fails anyway."""
    tests = tuple(sorted({name for mutant in mutants for name in mutant.tests}))
    copy = copies.get()
    workers = jobs if len(tests) > _FEW else 0
    end, output = run_tests(copy, tests, LIMIT_S * 4, f"-n{workers}")
    copies.put(copy)
    if end != "passed":
        said = output[-_SHOWN:]
        raise ListError(f"without a mutation the tests have to pass, but: {end}\n{said}")


def run(mutants: list[Mutant], jobs: int, verbose: bool) -> int:
    """The number of those that survived, each of which is printed when it has."""
    started, survived = time.monotonic(), 0
    with make_copies(jobs) as copies:
        check_unmutated(mutants, copies, jobs)
        with ThreadPoolExecutor(jobs) as pool:
            tries = {pool.submit(try_mutant, mutant, copies): mutant for mutant in mutants}
            try:
                for done in as_completed(tries):
                    (killed, how), mutant = done.result(), tries[done]
                    if not killed:
                        survived += 1
                        print(f"survived ({how}): {mutant.show()}", flush=True)
                    elif verbose:
                        print(f"killed by {how}: {mutant.file}: {mutant.why}", flush=True)
            except BaseException:  # Ctrl-C, too: nothing is left running
                pool.shutdown(wait=False, cancel_futures=True)
                for process in list(_running):
                    _kill(process)
                raise
    minutes = (time.monotonic() - started) / 60
    print(f"{len(mutants)} mutants, {survived} survived, {minutes:.1f} min")
    return survived


def main() -> int:
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="a list's name, or a text in `file` or `why`")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--sample", type=int, help="so many of those that take seconds")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the sample")
    parser.add_argument("--lists", type=Path, default=LISTS, help="the folder of the lists")
    parser.add_argument("--verbose", action="store_true", help="what was killed, too, and by what")
    arguments = parser.parse_args()
    try:
        mutants = read(arguments.lists)
        if only := arguments.only:
            mutants = [m for m in mutants if only == m.area] or [
                m for m in mutants if only in m.file or only in m.why
            ]
        if arguments.sample:
            print(f"--sample {arguments.sample} --seed {arguments.seed}")
            quick = [mutant for mutant in mutants if mutant.quick()]
            mutants = random.Random(arguments.seed).sample(quick, arguments.sample)
        if not mutants:
            raise ListError(f"no mutant is of a list {only!r}, or has that in `file` or `why`")
        return 1 if run(mutants, arguments.jobs, arguments.verbose) else 0
    except ListError as error:
        print(f"mutants: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
