"""Runs first on the board, and returns only if `main` says that the console may open.

The console is shut in the first statement, and `main` is run from here: the port
arms Ctrl-C again between boot.py and main.py.  One that arrived earlier may still
be raised inside, so everything is caught and every other way out is a restart.
"""

import micropython

micropython.kbd_intr(-1)
console = False

try:
    import main

    console = main.run()
except BaseException as error:  # KeyboardInterrupt and SystemExit must not reach the REPL either
    print("signet: error: %s: %s" % (type(error).__name__, error))
    main.note_failure(error)
finally:
    if console is not True:
        import machine

        machine.reset()
