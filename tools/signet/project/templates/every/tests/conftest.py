"""Lets the tests import app.py, lib/ and packages as a board does."""

import sys
from pathlib import Path

from signet import project

PROJECT = project.load(Path(__file__).resolve().parents[1])
sys.path[:0] = map(str, [PROJECT.folder, *project.libraries(PROJECT)])
