"""What `make bench-mqtt` runs under MicroPython for its times: the client, and its floors.

A floor does the same work with nothing but a blocking TLS socket and packets made beforehand.
Settings come on stdin as JSON, the result is the last line on stdout: for each pair the number of
messages, and the best times in µs, bare first; the round trips in µs.
"""
# mypy: ignore-errors
# MicroPython's, and neither a part of the firmware nor of the tools.

import asyncio
import gc
import json
import socket
import sys
import time

import mtls
from mqtt.client import Client

_PAYLOAD = bytes(64)
_BARE, _OURS, _PEER = "bench/bare", "bench/ours", "bench/peer"  # topics, equally long
_CONNACK, _PUBLISH, _PUBACK, _SUBACK = 2, 3, 4, 9
_CONNECT_PACKET = b"\x10\x14\x00\x04MQTT\x04\x02\x00\x00\x00\x08bench-%02d"
_WINDOW = 20  # publishes at QoS 1 on their way at once
_NEVER_US = 1 << 30
_WAIT_S = 20


class Bare:
    """A blocking connection to the broker, and no more than a floor needs of MQTT."""

    _last = 0

    def __init__(self, context, host, port, nodelay=True):
        raw = socket.socket()
        raw.connect(socket.getaddrinfo(host, port)[0][-1])
        if nodelay:
            raw.setsockopt(6, 1, 1)
        self._secure = context.wrap_socket(raw, server_hostname=host)
        self.write, self.readinto = self._secure.write, self._secure.readinto
        self._buf = memoryview(bytearray(128))
        Bare._last += 1
        self.write(_CONNECT_PACKET % Bare._last)
        self.receive(_CONNACK)

    def receive(self, *kinds):
        """Read packets of up to 127 bytes until one of these types comes; returns (type, body)."""
        while True:
            self.readinto(self._buf[:2])  # waits for all of it
            body = self._buf[: self._buf[1]]
            kind = self._buf[0] >> 4
            self.readinto(body)
            if kind in kinds:
                return kind, body

    def subscribe(self, topic, qos):
        self.write(packet(0x82, b"\0\1" + sized(topic) + bytes((qos,))))
        self.receive(_SUBACK)

    def close(self):
        self._secure.close()


def sized(text):
    return bytes((0, len(text))) + text.encode()


def packet(first, body):
    return bytes((first, len(body))) + body


def publish_packet(topic, qos):
    return packet(0x30 | qos << 1, sized(topic) + (b"\0\1" if qos else b"") + _PAYLOAD)


class Bench:
    """Each pair of methods does the same to a number of messages and returns how long it took."""

    def __init__(self, settings):
        self._settings = settings
        files = [read(settings[name]) for name in ("certificate", "key", "ca")]
        self._context = mtls.client_context(*files)
        self._host = settings["host"]
        self._port = settings["port"]
        self._bare = self._open()
        self._source = self._open()
        self._client = None
        self._peer = None
        self._left = 0  # that the peer has still to receive

    def _open(self, name="port", nodelay=True):
        return Bare(self._context, self._host, self._settings[name], nodelay)

    async def prepare(self):
        self._client = Client(
            lambda: mtls.open_stream(self._host, self._port, self._context),
            "bench-mqtt",
            clean=True,
            queue=_WINDOW,
        )
        await self._client.connect()

    async def write_nodelay(self, count):
        """To a peer that discards what comes, over a connection set up like the client's."""
        return self._write(count, True)

    async def write_coalesced(self, count):
        """The same, where the network stack may put many small writes into one segment."""
        return self._write(count, False)

    def _write(self, count, nodelay):
        connection = self._open("discard_port", nodelay)
        write = connection.write
        start = time.ticks_us()
        for _ in range(count):
            write(_PAYLOAD)
        taken = time.ticks_diff(time.ticks_us(), start)
        connection.close()
        return taken

    async def qos0(self, count):
        publish = self._client.publish
        start = time.ticks_us()
        for _ in range(count):
            await publish(_OURS, _PAYLOAD)
        await publish(_OURS, _PAYLOAD, 1)  # the broker has all of them
        return time.ticks_diff(time.ticks_us(), start)

    async def qos1_bare(self, count):
        message, ack = publish_packet(_BARE, 1), bytearray(4)
        write, readinto = self._bare.write, self._bare.readinto
        start = time.ticks_us()
        for _ in range(count):
            write(message)
            readinto(ack)
        return time.ticks_diff(time.ticks_us(), start)

    async def qos1_sequential(self, count):
        publish = self._client.publish
        start = time.ticks_us()
        for _ in range(count):
            await publish(_OURS, _PAYLOAD, 1)
        return time.ticks_diff(time.ticks_us(), start)

    async def qos1_window(self, count):
        publish = self._client.publish

        async def work():
            for _ in range(count // _WINDOW):
                await publish(_OURS, _PAYLOAD, 1)

        start = time.ticks_us()
        await asyncio.gather(*[work() for _ in range(_WINDOW)])
        return time.ticks_diff(time.ticks_us(), start)

    def _fill(self, topic, count):
        """Publish to the broker; it has sent all that it can to who subscribes."""
        message, write = publish_packet(topic, 0), self._source.write
        for _ in range(count):
            write(message)
        write(publish_packet("bench/done", 1))
        self._source.receive(_PUBACK)

    async def receive_bare(self, count):
        sink = self._open()
        sink.subscribe(_BARE, 0)
        self._fill(_BARE, count)
        readinto, buf = sink.readinto, bytearray(len(publish_packet(_BARE, 0)))
        start = time.ticks_us()
        for _ in range(count):
            readinto(buf)
        taken = time.ticks_diff(time.ticks_us(), start)
        sink.close()
        return taken

    async def receive(self, count):
        client = self._client
        await client.subscribe(_OURS, 0)
        self._fill(_OURS, count)
        start = time.ticks_us()
        await asyncio.wait_for(self._take(count), _WAIT_S)
        taken = time.ticks_diff(time.ticks_us(), start)
        await client.unsubscribe(_OURS)
        return taken

    async def receive_umqtt(self, count):
        """The same with umqtt.simple, whose callback gets the messages; connected once."""
        if not self._peer:
            from umqtt.simple import MQTTClient

            self._peer = MQTTClient("bench-umqtt", self._host, self._port, ssl=self._context)
            self._peer.set_callback(self._take_umqtt)
            self._peer.connect()
            self._peer.subscribe(_PEER)
        self._fill(_PEER, count)
        self._left = count
        wait = self._peer.wait_msg
        start = time.ticks_us()
        while self._left:
            wait()
        return time.ticks_diff(time.ticks_us(), start)

    def _take_umqtt(self, _, payload):
        if payload != _PAYLOAD:
            raise ValueError("another payload")
        self._left -= 1

    async def _take(self, count):
        async for message in self._client:
            if message.payload != _PAYLOAD:
                raise ValueError("another payload")
            count -= 1
            if not count:
                return

    async def round_trips_bare(self, count):
        connection = self._open()
        connection.subscribe(_BARE, 1)
        message, ack = publish_packet(_BARE, 1), bytearray(b"\x40\2\0\0")
        times = []
        for _ in range(count):
            start = time.ticks_us()
            connection.write(message)
            for _ in range(2):  # in either order
                kind, body = connection.receive(_PUBACK, _PUBLISH)
                if kind == _PUBLISH:
                    times.append(time.ticks_diff(time.ticks_us(), start))
                    ack[2:] = body[2 + len(_BARE) : 4 + len(_BARE)]
                    connection.write(ack)
        connection.close()
        return times

    async def round_trips(self, count):
        client = self._client
        await client.subscribe(_OURS, 1)
        times = []
        for _ in range(count):
            start = time.ticks_us()
            publication = asyncio.create_task(client.publish(_OURS, _PAYLOAD, 1))
            await asyncio.wait_for(self._take(1), _WAIT_S)
            times.append(time.ticks_diff(time.ticks_us(), start))
            await publication
        await client.unsubscribe(_OURS)
        return times


def read(path):
    with open(path, "rb") as file:
        return file.read()


async def compare(count, rounds, *sides):
    """[count, best time of each side], the sides in turn, each after a collection."""
    best = [_NEVER_US] * len(sides)
    for _ in range(rounds):
        for number, side in enumerate(sides):
            gc.collect()
            best[number] = min(best[number], await side(count))
    best.insert(0, count)
    return best


async def main():
    settings = json.loads(sys.stdin.readline())
    bench = Bench(settings)
    await bench.prepare()
    rounds = settings["rounds"]
    receivers = [bench.receive_bare, bench.receive]
    if settings["umqtt"]:
        receivers.append(bench.receive_umqtt)
    result = {
        "qos0": await compare(
            10000, rounds, bench.write_nodelay, bench.write_coalesced, bench.qos0
        ),
        "qos1": await compare(
            1000, rounds, bench.qos1_bare, bench.qos1_sequential, bench.qos1_window
        ),
        "receive": await compare(1000, rounds, *receivers),
        "rtt_bare": await bench.round_trips_bare(settings["round_trips"]),
        "rtt": await bench.round_trips(settings["round_trips"]),
    }
    print(json.dumps(result))


asyncio.run(main())
