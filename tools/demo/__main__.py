"""`python -m demo` is what `make demo` runs."""

from demo.play import main

if __name__ == "__main__":
    main()
