"""The smallest use of Signet's libraries: say hello over mutual TLS, with the device's identity.

The unix port:   micropython docs/examples/hello_tls.py HOST PORT
A board:         set SERVER, then: mpremote run docs/examples/hello_tls.py

`lib` has to be on sys.path, and a board on the network with its clock set: certificates have dates.
"""

import asyncio
import sys

from esp32 import Partition

import mtls
from trust.identity import Identity

SERVER = ("192.168.1.10", 8443)
MAX_ANSWER = 100  # bytes
TIMEOUT_S = 60


async def hello(host, port):
    identity = Identity(Partition.find(0x3F, label="esp_secure_cert")[0])
    context = mtls.client_context(identity.certificate, identity.key, identity.ca)
    reader, writer = await mtls.open_stream(host, port, context)
    writer.write(b"Hello Secure IoT Server\n")
    await writer.drain()
    answer, byte = b"", bytearray(1)
    while len(answer) < MAX_ANSWER and await reader.readinto(byte) and byte != b"\n":
        answer += byte
    await writer.wait_closed()
    if not answer:
        raise OSError("%s closed the connection without an answer" % host)
    return answer.decode()


try:
    host, port = sys.argv[1:] or SERVER
    print(asyncio.run(asyncio.wait_for(hello(host, int(port)), TIMEOUT_S)))
except (OSError, asyncio.TimeoutError) as error:  # mtls.TLSError is an OSError
    print("hello_tls: error:", str(error) or "no answer within %d s" % TIMEOUT_S)
    sys.exit(1)
