"""Provisioning at the bench: many boards, the inventory, labels, serial ports."""
