"""`python -m signet` is the command `signet`."""

from signet.cli import main

if __name__ == "__main__":
    main()
