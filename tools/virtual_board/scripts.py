"""The scripts of the user, as mp_task in main.c runs them, and what comes after them.

Ctrl-C is armed just before each script and off after it (parse_compile_execute of pyexec.c). At
the REPL the process ends: what would be typed there can change nothing of that the board is open.
Not modelled: frozen scripts.
"""

import gc
import os
import sys

import chip
import uart
from micropython import kbd_intr


def run(main):
    """Run boot.py, then main.py. main: the dictionary of `__main__`. Never returns."""
    main.clear()
    main["__name__"] = "__main__"
    gc.collect()
    if chip.watch:
        chip.watch.sample("boot")
    if _run_file("boot.py", main):
        _run_file("main.py", main)
    print("MicroPython on a virtual board\n>>> ")
    chip.leave(chip.REPL)


def _run_file(name, main):
    """pyexec_file_if_exists: False if the script raised, True if it ended or is not there."""
    try:
        if os.stat(name)[0] & 0x4000:
            return True
    except OSError:
        return True
    main["__file__"] = name
    try:
        with open(name) as file:
            code = compile(file.read(), name, "exec")
        try:
            kbd_intr(3)
            exec(code, main)
            kbd_intr(-1)
            for _ in "x":  # mp_handle_pending(true): at a branch, as every loop is one
                pass
        finally:
            kbd_intr(-1)
            uart.forget()
    except SystemExit:
        print("MPY: soft reboot")
        chip.leave(chip.SOFT_RESET)
    except BaseException as error:  # the port prints whatever it is, and goes on to the REPL
        sys.print_exception(error)
        return False
    return True
