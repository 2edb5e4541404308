"""Unix seconds, and host and port: small things that are needed all the time."""

import time

EPOCH = 946684800 if time.gmtime(0)[0] == 2000 else 0  # the ESP32 port counts from 2000


def now():
    """Unix seconds."""
    return int(time.time()) + EPOCH


def host_port(text):
    """("host", port) of "host:port"."""
    host, _, port = text.rpartition(":")
    return host, int(port)
