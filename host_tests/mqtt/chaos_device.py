# mypy: ignore-errors
# MicroPython, whose stubs this file does not see.
"""The device of chaos.py: publishes numbers and prints the numbers that it gets.

On stdin comes the settings, in JSON, then one line when it is to say goodbye.  On stdout:
    ready                   subscribed
    begin QOS NUMBER ID     a message is here, with this packet id
    end QOS NUMBER          its handler is done
    put QOS NUMBER          (with a store) is being handed to the client
    kept QOS NUMBER         (with a store) the client has it
    sent                    all are acknowledged, or with a store: kept
    up | down ERROR         the connection
"""

import asyncio
import json
import sys

import mtls
from mqtt.codec import MQTTRefusedError
from mqtt.full import FullClient
from mqtt.store import FileStore


def read(path):
    with open(path, "rb") as file:
        return file.read()


def make_client(settings):
    files = [read(settings[name]) for name in ("certificate", "key", "ca")]
    context = mtls.client_context(*files)
    client_class, store_class = FullClient, FileStore
    if settings["mutant"]:
        import chaos_mutants as mutants

        client_class = mutants.CLIENTS.get(settings["mutant"], FullClient)
        store_class = mutants.STORES.get(settings["mutant"], FileStore)
    options = {"queue": 16, "drop_oldest": False, "keepalive_s": 2, "timeout_s": 5}
    if settings["version"] == 5:
        from mqtt.v5 import V5

        options["protocol"] = V5(session_expiry_interval=600)
    if settings["store"]:
        options["store"] = store_class(settings["store"])
    client = client_class(
        lambda: mtls.open_stream(settings["host"], settings["port"], context),
        settings["client_id"],
        backoff_cap_s=0.1,
        **options,
    )
    client.on_change = lambda: print("down" if client.error else "up", client.error or "")
    return client


async def receive(client):
    async for message in client:
        line = f"{message.qos} {bytes(message.payload).decode()}"
        print("begin", line, message.packet_id)
        await asyncio.sleep_ms(0)
        print("end", line)


async def publish(client, topic, qos, numbers):
    for number in numbers:
        try:
            await client.publish(topic, b"%06d" % number, qos)
        except MQTTRefusedError as error:  # of a client that is wrong: the number is lost
            print("refused", qos, number, error)


async def post(client, topic, qos, numbers):
    for number in numbers:
        print("put", qos, number)
        while not client.post(topic, b"%06d" % number, qos):
            await asyncio.sleep_ms(5)
        print("kept", qos, number)


async def main(settings):
    client = make_client(settings)
    client.start()
    receiver = asyncio.create_task(receive(client))
    tasks = []
    for qos, workers in ((1, 10), (2, 6)):  # as many as the queue is long: they keep order
        await client.subscribe(f"down/{qos}", qos)
        numbers = iter(range(settings["first"][qos - 1], settings["count"][qos - 1]))
        topic = f"up/{qos}"
        if settings["store"]:
            tasks.append(post(client, topic, qos, numbers))
        else:
            tasks.extend(publish(client, topic, qos, numbers) for _ in range(workers))
    print("ready")
    await asyncio.gather(*tasks)
    print("sent")
    await asyncio.StreamReader(sys.stdin).readline()
    receiver.cancel()
    await client.disconnect()


def start():
    asyncio.run(main(json.loads(sys.stdin.readline())))
