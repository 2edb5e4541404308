# mypy: ignore-errors
# MicroPython, whose stubs this file does not see.
"""How puppet_device.py's client is made and run, and how values come and go in JSON."""

import asyncio
import binascii
import json
import socket
import sys

import mtls
from mqtt.client import Message
from mtls.connect import connect_socket

_BINARY = ("correlation_data", "authentication_data")


def report(*line):
    print(json.dumps(line))


def read(path):
    with open(path, "rb") as file:
        return file.read()


def as_bytes(payload):
    """A payload in a command: a text, or a number of zeros."""
    return bytes(payload) if isinstance(payload, int) else payload.encode()


def as_json(value):
    if isinstance(value, (bytes, bytearray, memoryview)):
        value = bytes(value)
        try:
            return value.decode()
        except UnicodeError:
            return {"hex": binascii.hexlify(value).decode()}
    if isinstance(value, dict):
        return {key: as_json(value[key]) for key in value}
    if isinstance(value, (list, tuple)):
        return [as_json(each) for each in value]
    if isinstance(value, Message):
        return as_json((value.topic, value.payload, value.qos, value.retain, value.properties))
    return value


def as_properties(values):
    """Properties in a command: JSON knows neither bytes nor tuples."""
    if not values:
        return None
    properties = dict(values)
    for name in _BINARY:
        if name in properties:
            properties[name] = properties[name].encode()
    if "user_property" in properties:
        properties["user_property"] = [tuple(pair) for pair in properties["user_property"]]
    return properties


def as_message(values):
    """A Message for [topic, payload, qos, retain, properties]; the last may be left out."""
    topic, payload, *rest = values
    if len(rest) > 2:
        rest[2] = as_properties(rest[2])
    return Message(topic, as_bytes(payload), *rest)


def describe(error):
    return type(error).__name__, str(error), getattr(error, "code", None)


def as_list(value):
    return value if isinstance(value, list) else [value]


class Base:
    """What is neither the core's nor a test's: how a client is made and run."""

    def __init__(self, where, options):
        """where: {"port": n} or {"host": …, "port": n, "certificate": path, "key": …, "ca": …}, or
        a list of them.  With "send_buffer", a plain socket takes no more than that from us.

        options: the client's keywords, and
        client_id: "mp-1" if not given.
        protocol: 4, or the properties of the CONNECT for MQTT 5 ({} for none).
        will: [topic, payload, qos, retain, properties].
        store: a folder.
        cut: [n, "before" | "after" | "half"]: power goes at the n-th operation on the folder.
        router: true if messages go to a router's handlers.
        core: true for the client without what mqtt.full adds.
        """
        self._tasks = {}
        self._turns = 0
        self.opens = []  # which address was tried, each time
        # The client's pause_s at each change, in ms: floats would be scattered all over the heap.
        self.pauses = []
        self._history = 16  # how many of them are kept
        self._runner = None
        brokers = [self._opener(*each) for each in enumerate(as_list(where))]
        client_id = options.pop("client_id", "mp-1")
        with_router = options.pop("router", False)
        if options.pop("core", False):
            from mqtt.client import Client
        else:
            from mqtt.full import FullClient as Client
        cut = options.pop("cut", None)
        if isinstance(options.get("protocol"), dict):
            from mqtt.v5 import V5

            options["protocol"] = V5(**as_properties(options["protocol"]) or {})
        elif options.pop("protocol", 4) != 4:
            raise ValueError("protocol: expected 4 or properties")
        if "will" in options:
            options["will"] = as_message(options["will"])
        if "store" in options:
            options["store"] = self._open_store(options["store"], cut)
        patience = options.pop("patience", Client.patience)
        self.client = Client(brokers if len(brokers) > 1 else brokers[0], client_id, **options)
        self.client.patience = patience
        self.client.on_change = self._changed
        self.router = None
        if with_router:
            from mqtt.router import Router

            self.router = Router(self.client)

    def _open_store(self, folder, cut):
        from mqtt import store

        self.operations = []  # on the folder, so far
        if cut is not None:
            import power_cut

            self.operations = power_cut.install(store, *cut)
        return store.FileStore(folder)

    def _opener(self, index, where):
        context = None
        if "ca" in where:
            files = [read(where[name]) for name in ("certificate", "key", "ca")]
            context = mtls.client_context(*files)

        async def open_stream():
            self.opens.append(index)
            del self.opens[: -self._history]
            if context:
                return await mtls.open_stream(where["host"], where["port"], context)
            raw = socket.socket()
            try:
                await connect_socket(raw, socket.getaddrinfo("127.0.0.1", where["port"])[0][-1])
            except BaseException:
                raw.close()
                raise
            if "send_buffer" in where:
                raw.setsockopt(1, 7, where["send_buffer"])  # SOL_SOCKET, SO_SNDBUF
            stream = asyncio.StreamReader(raw)
            return stream, stream

        return open_stream

    def _changed(self):
        self.pauses.append(int(self.client.pause_s * 1000))
        del self.pauses[: -self._history]
        error = self.client.error
        report("change", *(describe(error) if error else (None,)))

    def _run_loop(self):
        """See that somebody takes messages."""
        if self._runner is None:
            self._runner = asyncio.create_task(self._loop())

    async def _loop(self):
        try:
            if self.router:
                await self.router.run()
            else:
                async for message in self.client:
                    await self._take(message)
            report("end")
        except Exception as error:
            report("end", *describe(error))
        finally:
            self._runner = None

    async def _turn(self):
        while True:
            await asyncio.sleep_ms(10)
            self._turns += 1

    async def _carry_out(self, number, name, arguments):
        try:
            result = getattr(self if hasattr(self, name) else self.client, name)
            if callable(result):
                result = result(*arguments)
            if hasattr(result, "send"):  # a coroutine
                result = await result
            report(number, "done", as_json(result))
        except (Exception, asyncio.CancelledError) as error:
            report(number, "raised", *describe(error))
        del self._tasks[number]

    async def run(self):
        self._tasks[0] = asyncio.create_task(self._turn())
        commands = asyncio.StreamReader(sys.stdin)
        while True:
            line = await commands.readline()
            if not line:
                return
            number, name, *arguments = json.loads(line)
            self._tasks[number] = asyncio.create_task(self._carry_out(number, name, arguments))
