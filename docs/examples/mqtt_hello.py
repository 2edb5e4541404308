"""Say hello over MQTT with mutual TLS, and take one message.

The unix port:   micropython docs/examples/mqtt_hello.py HOST PORT FOLDER
A board:         set ARGUMENTS, then: mpremote run docs/examples/mqtt_hello.py

FOLDER has device.crt, device.key and ca.crt, in PEM or DER.  `lib` has to be on sys.path, and a
board on the network with its clock set: certificates have dates.
"""

import asyncio
import sys

import mtls
from mqtt.client import Client
from mqtt.codec import MQTTError

ARGUMENTS = ("192.168.1.10", 8883, "")


def read(path):
    with open(path, "rb") as file:
        return file.read()


async def hello(host, port, folder):
    names = ("device.crt", "device.key", "ca.crt")
    certificate, key, ca = [read(folder + "/" + name) for name in names]
    context = mtls.client_context(certificate, key, ca)
    client = Client(lambda: mtls.open_stream(host, port, context), "dev-0001", clean=True)
    async with client:
        granted = await client.subscribe("dev-0001/#", 1)
        print("subscribed at QoS", granted)
        await client.publish("hello/dev-0001", b"hello", qos=1)
        async for message in client:
            print(message.topic, message.payload.decode())
            break


try:
    host, port, folder = sys.argv[1:] or ARGUMENTS
    asyncio.run(hello(host, int(port), folder))
except MQTTError as error:
    print("mqtt_hello: error:", error)
    sys.exit(1)
