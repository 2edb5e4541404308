"""Run one module's test functions under MicroPython: mp_runner.py REPO MODULE FUNCTION...

For each function one line follows what it printed: "@@ passed FUNCTION" or "@@ failed FUNCTION".
A function without its line did not run; test_on_micropython.py counts that as a failure.
"""

import gc
import sys


def run(test):
    try:
        test()
    except BaseException as error:  # SystemExit too: a test that leaves has not passed
        sys.print_exception(error)
        return "failed"
    return "passed"


def main(repo, module_name, *names):
    sys.path[:] = (".frozen", repo + "/lib", repo, repo + "/host_tests/pure")
    module = __import__(module_name)
    for name in names:
        gc.collect()
        print("\n@@", run(getattr(module, name)), name)


main(*sys.argv[1:])
