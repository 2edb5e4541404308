"""What `make bench-mqtt PEERS=…` runs under MicroPython for the heap that other clients take.

As mqtt_small.py does for ours, in a process of its own for each figure; settings come on stdin.
"client" and "mode" are a class and a method of it.  Each has TCP_NODELAY, and no certificate more
than it needs; nothing of ours is imported.
"""
# mypy: ignore-errors
# MicroPython's, and neither a part of the firmware nor of the tools.

import gc

gc.threshold(2048)  # as mqtt_small.py
gc.collect()
_empty = gc.mem_alloc()

import json  # noqa: E402
import sys  # noqa: E402

import tls  # noqa: E402
from micropython import const  # noqa: E402

_LARGE = const(4096)


def read(path):
    with open(path, "rb") as file:
        return file.read()


class Prompt:
    """A tls.SSLContext whose sockets send at once."""

    def __init__(self, settings):
        self._context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
        self._context.verify_mode = tls.CERT_REQUIRED
        self._context.load_verify_locations(read(settings["ca"]))
        self._context.load_cert_chain(read(settings["certificate"]), read(settings["key"]))

    def wrap_socket(self, raw, server_hostname):
        raw.setsockopt(6, 1, 1)
        return self._context.wrap_socket(raw, server_hostname=server_hostname)


class umqtt_simple:
    def __init__(self, settings):
        from umqtt.simple import MQTTClient

        self._client = MQTTClient(
            "bench-peer", settings["host"], settings["port"], ssl=Prompt(settings)
        )
        self._client.set_callback(self._take)
        self._client.connect()
        self._got = 0

    def _take(self, _, payload):
        self._got = len(payload)

    def live(self):
        gc.collect()
        return gc.mem_alloc() - _empty

    def publish(self):
        for _ in range(200):
            self._client.publish("bench/small", bytes(64), qos=1)
        self._client.publish("bench/large", bytes(_LARGE), qos=1)
        return _LARGE

    def receive(self):
        self._client.subscribe("bench/large", 1)
        self.publish()
        while not self._got:
            self._client.wait_msg()
        return self._got


class Network:
    """A Wi-Fi that is there: mqtt_as asks for one."""

    STA_IF = STAT_CONNECTING = 0

    def __init__(self, *_):
        pass

    def active(self, *_):
        return True

    connect = disconnect = isconnected = status = active


Network.WLAN = Network


class mqtt_as:
    _is_5 = False

    def __init__(self, settings):
        import asyncio

        class Ssl:
            @staticmethod
            def wrap_socket(raw, context, host):
                raw.setblocking(True)
                secure = context.wrap_socket(raw, host)
                raw.setblocking(False)
                return secure

        class Machine:
            @staticmethod
            def unique_id():
                return b"bench"

        sys.modules.update({"network": Network, "ssl": Ssl, "machine": Machine})
        from mqtt_as import MQTTClient, config

        config.update(
            server=settings["host"], port=settings["port"], client_id="bench-peer",
            ssl=True, ssl_params={"context": Prompt(settings), "host": settings["host"]},
            subs_cb=self._take, mqttv5=self._is_5,
        )  # fmt: skip
        self._got = 0
        self._run = asyncio.run
        self._pause = asyncio.sleep_ms
        self._client = MQTTClient(config)

    def _take(self, _, payload, *__):
        self._got = len(payload)

    def live(self):
        return self._run(self._live())

    async def _live(self):
        await self._client.connect(quick=True)
        gc.collect()
        return gc.mem_alloc() - _empty

    def publish(self):
        return self._run(self._publish(False))

    def receive(self):
        return self._run(self._publish(True))

    async def _publish(self, is_back):
        client = self._client
        await client.connect(quick=True)
        if is_back:
            await client.subscribe("bench/large", 1)
        for _ in range(20):  # each takes a tenth of a second
            await client.publish("bench/small", bytes(64), qos=1)
        await client.publish("bench/large", bytes(_LARGE), qos=1)
        while is_back and not self._got:
            await self._pause(10)
        return self._got or _LARGE


class mqtt_as_5(mqtt_as):
    _is_5 = True


settings = json.loads(sys.stdin.readline())
print(json.dumps(getattr(globals()[settings["client"]](settings), settings["mode"])()))
