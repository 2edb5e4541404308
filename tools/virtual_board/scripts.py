"""The scripts of the user, as mp_task in main.c runs them, and what comes after them.

Not modelled: frozen scripts, Ctrl-C, and the REPL, at which the process ends.
"""

import gc
import os
import sys

import chip


def run(names):
    """Run boot.py, then main.py. names: the dictionary of `__main__`. Never returns."""
    names.clear()
    names["__name__"] = "__main__"
    gc.collect()
    if chip.watch:
        chip.watch.sample("boot")
    if _run_file("boot.py", names):
        _run_file("main.py", names)
    print("MicroPython on a virtual board\n>>> ")
    chip.leave(chip.REPL)


def _run_file(name, names):
    """pyexec_file_if_exists: False if the script raised, True if it ended or is not there."""
    try:
        if os.stat(name)[0] & 0x4000:
            return True
    except OSError:
        return True
    names["__file__"] = name
    try:
        execfile(name, names)  # noqa: F821 - a builtin of MicroPython
    except SystemExit:
        print("MPY: soft reboot")
        chip.leave(chip.SOFT_RESET)
    except BaseException as error:  # the port prints whatever it is, and goes on to the REPL
        sys.print_exception(error)
        return False
    return True
