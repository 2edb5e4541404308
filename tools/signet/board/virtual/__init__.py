"""The virtual board: the firmware under the unix port, with a boot loader and a UART around it."""
