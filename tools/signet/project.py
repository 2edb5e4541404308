"""Where this checkout is, and what `make setup` put beside the tools' own code."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
TOOLCHAIN = PROJECT / ".toolchain/bin"  # by tools/toolchain.py
