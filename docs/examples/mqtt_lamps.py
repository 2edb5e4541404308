"""Lamps that are switched over MQTT: a handler for a filter, QoS 2, a store, two brokers, TCP.

The unix port:   micropython docs/examples/mqtt_lamps.py FOLDER HOST PORT [HOST PORT]

Plain TCP: for the bench.  FOLDER keeps what is not acknowledged; `lib` has to be on sys.path.
Ends with a message to lamps/stop.
"""

import asyncio
import sys

from mqtt.full import FullClient
from mqtt.router import Router
from mqtt.store import FileStore


def over_tcp(host, port):
    return lambda: asyncio.open_connection(host, int(port))


async def main(folder, brokers):
    client = FullClient(brokers, "lamps", queue=8, store=FileStore(folder), backoff_cap_s=5)
    client.on_change = lambda: print("lamps:", client.error or "connected")
    router = Router(client)

    async def set_lamp(message):
        name = message.topic.split("/")[1]
        print("lamp", name, message.payload.decode())
        if not client.post("lamp/%s/state" % name, message.payload, qos=1, retain=True):
            print("lamps:", client.discarded, "messages dropped so far")

    async def stop(_):
        await client.disconnect()

    client.post("lamps/started", b"", qos=2)
    client.start()
    await router.subscribe("lamp/+/set", set_lamp, qos=2)
    await router.subscribe("lamps/stop", stop)
    print("lamps: ready")
    await router.run()


folder, host, port, *second = sys.argv[1:]
brokers = [over_tcp(host, port)]
if second:
    brokers.append(over_tcp(*second))
asyncio.run(main(folder, brokers))
