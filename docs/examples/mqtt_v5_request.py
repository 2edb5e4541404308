"""A meter that answers requests, and who asks it, in one client: what MQTT 5 has to offer.

The unix port:   micropython docs/examples/mqtt_v5_request.py HOST PORT

Plain TCP: for the bench.  `lib` has to be on sys.path.
"""

import asyncio
import sys

from mqtt import rpc
from mqtt.client import Message
from mqtt.codec import MQTTRefusedError
from mqtt.full import FullClient
from mqtt.router import Router
from mqtt.v5 import NO_LOCAL, RETAIN_NEW, V5


async def read_meter(message):
    return b"230.1 V"


async def print_news(message):
    print("news:", message.topic, message.payload.decode())


async def main(host, port):
    will = Message("meter/1/lost", b"", qos=1, properties={"will_delay_interval": 30})
    protocol = V5(session_expiry_interval=3600, receive_maximum=8, topic_alias_maximum=4)
    client = FullClient(
        lambda: asyncio.open_connection(host, port), "meter-1", protocol=protocol, will=will
    )
    async with client:
        aliases = protocol.properties.get("topic_alias_maximum", 0)
        print("topics that the broker takes aliases for:", aliases)
        router = Router(client)
        running = asyncio.create_task(router.run())
        await router.subscribe("news/#", print_news, qos=1, options=NO_LOCAL | RETAIN_NEW)

        # Several meters may serve this: the broker gives each request to one of them.
        await rpc.serve(router, "$share/meters/meter/read", read_meter)
        caller = rpc.Caller(client, router, "meter/1/answers")
        await caller.start()
        answer = await caller.call("meter/read", b"volts", timeout_s=5)
        print("answer:", answer.payload.decode())

        properties = {"message_expiry_interval": 60, "user_property": [("unit", "V")]}
        code = await client.publish("meter/1/volts", b"230.1", qos=1, properties=properties)
        print("nobody is there" if code == 0x10 else "taken")
        try:
            await client.publish("tariff", b"0", qos=1)
        except MQTTRefusedError as error:
            print(error)  # its code: error.code
    await running


host, port = sys.argv[1:]
asyncio.run(main(host, int(port)))
