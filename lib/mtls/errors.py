"""What the numbers of mbedTLS and of the socket below it mean; imported when there is one.

Stock ESP32 builds give numbers without texts. MicroPython raises those of mbedTLS as they are,
negative; but in a handshake -0x7f00 (out of memory) becomes errno 12, and what lies above -256
loses its sign. That is meant for the socket's own errors, which go through mbedTLS with a minus
before them, and catches mbedTLS's low-level ones, too: -0x10 becomes 16, -0x6a 106. As an errno
neither comes from a socket that is connected. After the handshake no sign is lost, and the
socket's errors are negative.
"""

from micropython import const

# Allocation failures, by module: a high-level code is a multiple of 0x80 …
_ALLOC = {
    0x1180: "PEM",
    0x2880: "X509",
    0x3400: "DHM",
    0x3F80: "PK",
    0x4D80: "ECP",
    0x5180: "MD",
    0x6180: "CIPHER",
    0x7F00: "SSL",
}
# … and a low-level one is below that; the two may come as their sum.
_ALLOC_LOW = {0x10: "MPI", 0x6A: "ASN1"}
_LOW_BITS = const(0x7F)
_ENOMEM = const(12)
_ENOBUFS = const(105)

_FATAL_ALERT = const(-0x7780)
_UNEXPECTED_MESSAGE = const(-0x7700)
_INVALID_RECORD = const(-0x7200)
_CONNECTION_EOF = const(-0x7280)
# errno, for which MicroPython has few names; lwIP says ENOTCONN where Linux says EPIPE.
_EPIPE = const(32)
_ECONNRESET = const(104)
_ENOTCONN = const(128)

_BROKEN_OFF = const((_CONNECTION_EOF, _EPIPE, _ECONNRESET, _ENOTCONN))
_NOT_TLS = const((_INVALID_RECORD, _UNEXPECTED_MESSAGE))


def cause(kind, host, heard, error):
    """The exception to raise for what `tls` or the socket raised: its text, or its number.

    kind: of the exception for what is TLS's.  heard: the server has sent data already.
    MemoryError for an allocation that failed, OSError for what is only TCP's.
    """
    if isinstance(error, ValueError):
        return kind("%s: %s" % (host, str(error).strip()))
    code = error.args[0]
    if -256 < code < 0:
        code = -code
    name = _name(code, error.args[1:])
    if _is_alloc(code):
        return MemoryError("out of memory in TLS: %s" % name)
    if code in _NOT_TLS and not heard:
        return kind("%s does not answer in TLS" % host)
    if code == _FATAL_ALERT and not heard:
        return kind(
            "%s broke off (%s): it does not accept our certificate, or no TLS version we have"
            % (host, name)
        )
    if code in _BROKEN_OFF and not heard:
        return kind(
            "%s broke off (%s) and gave no reason: perhaps it does not accept our certificate"
            % (host, name)
        )
    if code < 0:
        return kind("%s: %s" % (host, name))
    return OSError(code)


def _is_alloc(code):
    if code >= 0:
        return code in (_ENOMEM, _ENOBUFS) or code in _ALLOC_LOW
    return -code & ~_LOW_BITS in _ALLOC or -code & _LOW_BITS in _ALLOC_LOW


def _name(code, text):
    """A number as it stands in mbedTLS's headers, with what is known of it; an errno as it is."""
    if code in _ALLOC_LOW:
        code = -code
    if code >= 0:
        return "%d" % code
    high = _ALLOC.get(-code & ~_LOW_BITS)
    part = high or _ALLOC_LOW.get(-code & _LOW_BITS)
    text = "%s_ALLOC_FAILED" % part if part else "".join(text)
    return ("mbedTLS -0x%x %s" % (-code, text)).strip()
