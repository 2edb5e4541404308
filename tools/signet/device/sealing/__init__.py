"""Sealing a chip for good: the eFuse plan, and what has to be in flash before it is burned."""
