"""The application of `make bench`: measures from within a board what cannot be seen from outside.

It takes the place of firmware/app.py in a slot image, and answers commands; it starts nothing by
itself, so that what is loaded while it idles is what an idle agent loads.
"""
# mypy: ignore-errors
# MicroPython's, and neither a part of the firmware nor of the tools.

import gc
import sys
import time

_POLL_S = 0.1
_NEVER_US = 1 << 30


async def run(device):
    """`modules`: telemetry with the names of all modules, sent once the command's own are gone."""
    wanted = []

    def modules(device, args):
        wanted.append(True)

    device.commands["modules"] = modules
    device.commands["verify"] = verify
    device.commands["download"] = download
    while True:
        await device.sleep(_POLL_S)
        if wanted:
            wanted.clear()
            device.telemetry({"modules": sorted(sys.modules)})


def verify(device, args):
    """Verify slot a as stage 1 does, and pass over it with nothing but SHA-256 and one `pow`.

    args: {"rounds": of each, in turn}.  Returns the best times, {"bare_us": …, "real_us": …}.
    """
    from hashlib import sha256

    from trust import image

    boot = _boot()
    slot = boot.slots[0]
    block = bytearray(image.BLOCK_LEN)
    slot.readblocks(0, block)
    last = image.Descriptor(block).image_len // image.BLOCK_LEN - 1
    slot.readblocks(last, block)
    # Modulus and signature, at their places in the signature block.
    modulus = int.from_bytes(block[36:420], "little")
    signature = int.from_bytes(block[812:1196], "little")

    def bare():
        buf = bytearray(image.BLOCK_LEN)
        hasher = sha256()
        for number in range(last):
            slot.readblocks(number, buf)
            hasher.update(buf)
        hasher.digest()
        pow(signature, 65537, modulus)

    def real():
        image.verify(slot, boot.record, 0, boot.platform)

    bare_us, real_us = [], []
    for _ in range(args["rounds"]):
        bare_us.append(_time_us(bare))
        real_us.append(_time_us(real))
    return {"bare_us": min(bare_us), "real_us": min(real_us)}


async def download(device, args):
    """Fetch images into slot b as the updater does, and with nothing but a read-and-write loop.

    args: {"orders": [one for each image], "rounds": of each, in turn}.  Returns for each order the
    best times in µs, bare and real from the first block in flash to the closed connection, then
    both from the end of the TLS handshake on.
    """
    often = gc.threshold()
    gc.threshold(-1)  # as when the updater runs: the agent collects often once it has a session
    agent = _Agent(_boot())
    best = [[_NEVER_US] * 4 for _ in args["orders"]]
    for _ in range(args["rounds"]):
        for number, order in enumerate(args["orders"]):
            times = best[number]
            for side, function in enumerate((_download_bare, _download_real)):
                gc.collect()
                agent.first = None
                await function(order, agent)
                end = time.ticks_us()
                times[side] = min(times[side], time.ticks_diff(end, agent.first))
                times[side + 2] = min(times[side + 2], time.ticks_diff(end, agent.started))
    gc.threshold(often)
    return best


async def _download_real(order, agent):
    from firmware.ondemand import install, store, updater

    install.forget(store)
    task = install.Install(order, agent.boot, store)
    updater.mtls = agent
    await updater._attempt(task, order, agent)
    install.forget(store)
    if task.done != task.total:
        raise ValueError(f"{task.done} blocks of {task.total}")


async def _download_bare(order, agent):
    import mtls
    from firmware.ondemand.install import BLOCK_LEN
    from firmware.ondemand.link import host_port

    host, port = host_port(agent.boot.record["images"])
    reader, writer = await mtls.open_stream(host, port, agent.context)
    agent.started = time.ticks_us()
    request = "GET %s HTTP/1.1\r\nHost: %s\r\nRange: bytes=0-%d\r\n\r\n"
    writer.write((request % (order["path"], host, order["size"] - 1)).encode())
    await writer.drain()
    block = bytearray(BLOCK_LEN)
    view = memoryview(block)
    got = await reader.readinto(view)
    body = bytes(view[:got]).index(b"\r\n\r\n") + 4
    have = got - body
    block[:have] = block[body:got]
    slot = agent.boot.slots[1]
    for number in range(order["size"] // BLOCK_LEN):
        while have < BLOCK_LEN:
            got = await reader.readinto(view[have:])
            if not got:
                raise OSError(f"closed at block {number}")
            have += got
        slot.writeblocks(number, block)
        agent.beat()
        have = 0
    await writer.wait_closed()


class _Agent:
    """What a download needs of the agent; its clock is a stop-watch."""

    def __init__(self, boot):
        import mtls
        from trust.identity import Identity

        identity = Identity(boot.identity)
        self.boot = boot
        self.context = mtls.client_context(identity.certificate, identity.key, identity.ca)
        self.clock_floor = 0
        self.timed = None
        self.outbox = []
        self.device = self
        self.started = 0
        self.first = None  # when the first block was written

    async def open_stream(self, *args):
        """In place of `mtls`: a download begins when its connection stands."""
        import mtls

        stream = await mtls.open_stream(*args)
        self.started = time.ticks_us()
        return stream

    def uptime_s(self):
        """Asked for when a download tells the memory."""
        return 0

    def beat(self, ahead_s=0):
        """Called after each block."""
        if self.first is None:
            self.first = time.ticks_us()


def _boot():
    """What stage 1 hands over when slot a runs."""
    from esp32 import Partition

    from trust import Boot
    from trust.identity import Identity

    identity = Partition.find(0x3F, label="esp_secure_cert")[0]
    slots = Partition("slot_a"), Partition("slot_b")
    record = Identity(identity).record()
    return Boot(identity, record, Partition("bootstate"), slots, sys.implementation.version)


def _time_us(function):
    gc.collect()
    start = time.ticks_us()
    function()
    return time.ticks_diff(time.ticks_us(), start)
