"""What `make bench-mqtt` runs under MicroPython, in a process of its own for each figure.

Settings come on stdin, as they do for mqtt_app.py; "mode" is one of the functions below.  The
result is the last line on stdout.
"""
# mypy: ignore-errors
# MicroPython's, and neither a part of the firmware nor of the tools.

import gc

gc.threshold(2048)  # what a board short of memory sets: garbage must not scatter what stays
gc.collect()
_empty = gc.mem_alloc()  # the interpreter's own, and this file's code

import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402

from micropython import const  # noqa: E402

_MAX_PACKET = const(2048)  # the client's default
_SMALL_PACKET = const(256)
_LARGE = const(4096)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def opener(settings):
    """What a client takes for a broker."""
    import mtls

    context = mtls.client_context(*[read(settings[name]) for name in ("certificate", "key", "ca")])
    host, port = settings["host"], settings["port"]
    return lambda: mtls.open_stream(host, port, context)


def make_client(settings, max_packet):
    from mqtt.client import Client

    client = Client(opener(settings), "bench-small", clean=True, max_packet=max_packet)
    client.on_change = lambda: sys.exit("lost") if client.error else None  # or it tries for ever
    return client


async def start(settings):
    """Unix time in ns at which the CONNACK has been handled."""
    await make_client(settings, _MAX_PACKET).connect()
    return time.time_ns()


async def live(settings):
    """Bytes of heap that a connected client takes, above the empty interpreter."""
    client = make_client(settings, _MAX_PACKET)
    await client.connect()
    del settings
    return used(client)


async def live_bare(settings):
    """As `live`, with nothing but an open TLS connection."""
    stream = await opener(settings)()
    del settings
    return used(stream)


def used(_):
    gc.collect()
    return gc.mem_alloc() - _empty


async def loaded(settings):
    """Names of the modules of lib/mqtt that a client at QoS 1 has imported."""
    await publish(settings)
    return [name for name in sys.modules if name.startswith("mqtt.")]


async def publish(settings):
    """200 messages at QoS 1, then one of 4 KB."""
    client = make_client(settings, _SMALL_PACKET)
    await client.connect()
    for _ in range(200):
        await client.publish("bench/small", bytes(64), 1)
    await client.publish("bench/large", bytes(_LARGE), 1)
    return _LARGE


async def receive(settings):
    """As `publish`, and the one of 4 KB comes back."""
    client = make_client(settings, _LARGE + 64)
    await client.connect()
    for _ in range(200):
        await client.publish("bench/small", bytes(64), 1)
    await client.subscribe("bench/large", 1)
    await client.publish("bench/large", bytes(_LARGE), 1)
    async for message in client:
        return len(message.payload)


def start_bare(settings):
    """As `start`, with nothing but a blocking TLS socket."""
    import socket

    import tls

    context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    context.verify_mode = tls.CERT_REQUIRED
    context.load_verify_locations(read(settings["ca"]))
    context.load_cert_chain(read(settings["certificate"]), read(settings["key"]))
    raw = socket.socket()
    raw.connect(socket.getaddrinfo(settings["host"], settings["port"])[0][-1])
    raw.setsockopt(6, 1, 1)
    secure = context.wrap_socket(raw, server_hostname=settings["host"])
    secure.write(b"\x10\x14\x00\x04MQTT\x04\x02\x00\x00\x00\x08bench-00")
    secure.readinto(bytearray(4))
    return time.time_ns()


settings = json.loads(sys.stdin.readline())
result = globals()[settings["mode"]](settings)
if hasattr(result, "send"):
    import asyncio

    result = asyncio.run(result)
print(json.dumps(result))
