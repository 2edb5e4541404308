"""`signet device`: what makes a board a device, and keeps the books about it."""
