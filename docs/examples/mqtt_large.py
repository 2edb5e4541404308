"""1 MB out and in again, through a heap of 64 KB.

The unix port:   micropython docs/examples/mqtt_large.py HOST PORT

Plain TCP: for the bench.  `lib` has to be on sys.path.
"""

import asyncio
import sys

from mqtt import large
from mqtt.full import FullClient

PIECE = bytes(range(256)) * 4
LENGTH = 1 << 20  # bytes


def pieces():
    for _ in range(LENGTH // len(PIECE)):
        yield PIECE


async def main(host, port):
    client = FullClient(
        lambda: asyncio.open_connection(host, port), "logger", clean=True, max_message=2 << 20
    )
    async with client:
        await client.subscribe("log", 1)
        sending = asyncio.create_task(large.publish(client, "log", LENGTH, pieces, qos=1))
        buf = bytearray(512)
        async for message in client:
            if message.payload is not None:
                continue  # it was short enough for a Message
            size = total = 0
            while True:
                got = await message.readinto(buf)
                if not got:
                    break
                size += got
                total += sum(memoryview(buf)[:got])
            print(message.topic, size, "of", message.length, "bytes, sum", total)
            break
        await sending


host, port = sys.argv[1:]
asyncio.run(main(host, int(port)))
