"""mtls.errors: what comes out of `tls` on a stock ESP32, and what is said of it."""

from mtls.errors import cause


class Kind(OSError):
    pass


def said(error, heard=False):
    found = cause(Kind, "broker", heard, error)
    return type(found), str(found)


# As MicroPython's mbedtls_raise_error gives them: errno 12 for -0x7f00, and in a handshake a
# positive number for what lies above -256.
OUT_OF_MEMORY = (
    (12, "12"),
    (-12, "12"),
    (105, "105"),
    (16, "mbedTLS -0x10 MPI_ALLOC_FAILED"),
    (-16, "mbedTLS -0x10 MPI_ALLOC_FAILED"),
    (106, "mbedTLS -0x6a ASN1_ALLOC_FAILED"),
    (-0x7F00, "mbedTLS -0x7f00 SSL_ALLOC_FAILED"),
    (-0x4D80, "mbedTLS -0x4d80 ECP_ALLOC_FAILED"),
    (-0x3F80, "mbedTLS -0x3f80 PK_ALLOC_FAILED"),
    (-0x2880, "mbedTLS -0x2880 X509_ALLOC_FAILED"),
    (-0x4290, "mbedTLS -0x4290 MPI_ALLOC_FAILED"),  # RSA_PUBLIC_FAILED and MPI_ALLOC_FAILED
    (-0x23EA, "mbedTLS -0x23ea ASN1_ALLOC_FAILED"),  # X509_INVALID_EXTENSIONS and ASN1_ALLOC_FAILED
)


def test_out_of_memory():
    for code, name in OUT_OF_MEMORY:
        for heard in (False, True):
            text = "out of memory in TLS: " + name
            assert said(OSError(code), heard) == (MemoryError, text), code


def test_what_is_no_lack_of_memory():
    gone = "broker broke off (%s): it does not accept our certificate, or no TLS version we have"
    lost = "broker broke off (%s) and gave no reason: perhaps it does not accept our certificate"
    for error, kind, text in (
        (OSError(-0x7780), Kind, gone % "mbedTLS -0x7780"),
        (OSError(-0x7280), Kind, lost % "mbedTLS -0x7280"),
        (OSError(32), Kind, lost % "32"),
        (OSError(104), Kind, lost % "104"),
        (OSError(-104), Kind, lost % "104"),
        (OSError(-128), Kind, lost % "128"),
        (OSError(-0x7200), Kind, "broker does not answer in TLS"),
        (OSError(-0x7F80), Kind, "broker: mbedTLS -0x7f80"),
        (OSError(-0x4280), Kind, "broker: mbedTLS -0x4280"),
        (OSError(-0x6C00, "SSL - Why"), Kind, "broker: mbedTLS -0x6c00 SSL - Why"),
        (ValueError(" expired\n"), Kind, "broker: expired"),
    ):
        assert said(error) == (kind, text), error
    assert type(cause(Kind, "broker", False, OSError(111))) is OSError
    assert cause(Kind, "broker", False, OSError(111)).args == (111,)
    assert cause(Kind, "broker", True, OSError(-104)).args == (104,)
