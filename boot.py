"""Runs first on the board, and never returns.

The console is shut in the first statement, and `main` is run from here: the port
arms Ctrl-C again between boot.py and main.py.  One that arrived earlier may still
be raised inside, so everything is caught and every way out is a restart.
"""

import micropython

micropython.kbd_intr(-1)

try:
    import main

    main.run()
except BaseException as error:  # KeyboardInterrupt and SystemExit must not reach the REPL either
    import sys

    sys.print_exception(error)
    main.note_failure(error)
finally:
    import machine

    machine.reset()
