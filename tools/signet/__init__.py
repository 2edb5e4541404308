"""Signet's host tools: keys, slot images, provisioning, releases, and the virtual board."""

__version__ = "0.1.0"
