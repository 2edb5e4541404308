"""`signet release`: what is sent to devices: orders to install, and tokens for their console."""
