"""`esp` of the ESP32 port: log levels. The virtual board has no log of the IDF to silence."""

LOG_NONE = 0
LOG_ERROR = 1
LOG_WARNING = 2
LOG_INFO = 3
LOG_DEBUG = 4
LOG_VERBOSE = 5


def osdebug(uart_no, level=None):
    pass
