"""The updater under MicroPython, over plain TCP: FILE REPO FOLDER PORT ORDER RESTARTS LACK GUESS

Accepts an order, carries it out against a server on 127.0.0.1, boots again, and prints one line of
JSON: what was reported, and what has changed on the board.  FOLDER: where `firmware` is.  ORDER: a
name of vectors.py.  RESTARTS: how often the board has restarted in a row.  LACK: "", or what of
memory there is too little for: "TLS", or "IDF", the heap that the network lives on.  GUESS: seconds
by which the clock is wrong when the update starts.
"""

import json
import sys


class Nothing:
    """Stands for a module or an object whose functions have nothing to do here."""

    def __init__(self, **attributes):
        for name in attributes:
            setattr(self, name, attributes[name])


class Agent:
    """What the updater asks of the agent."""

    context = None

    def __init__(self, boot):
        self.boot = boot
        self.device = Nothing(uptime_s=lambda: 5, event=self.event)
        self.clock_floor = boot.clock_floor
        self.timed = 0
        self.heard = None
        self.events = []
        self.reports = []
        self.beats = []
        self.restart_reason = None
        self.restarted = False
        self.outbox = [("event", {"reason": "stuck"}, 1)]  # of the start

    def report(self, result, **details):
        self.reports.append([result, details.get("reason")])

    def event(self, name, **details):
        self.events.append([name, details["reason"]])

    def beat(self, ahead_s=0):
        self.beats.append(ahead_s)

    def restart(self, agent):
        self.restarted = True


VALID = 1735689600, 1769904000  # slots.certificate()


class TLSError(OSError):
    """As mtls has it."""


async def done(*args):
    pass


def main(repo, folder, port, order_name, restarts, lack, guess):
    sys.path[:] = (".frozen", folder, repo + "/lib", repo + "/host_tests/pure")
    heaps = [(131072, 30000, 17000, 2000) if lack == "IDF" else (131072, 68000, 63000, 60000)]
    sys.modules["esp32"] = Nothing(HEAP_DATA=4, idf_heap_info=lambda capabilities: heaps)
    sys.modules["network"] = sys.modules["machine"] = Nothing()  # the unix port has none
    import asyncio

    import slots
    from board_sim import BoardSim

    from firmware.ondemand import link, orders, sync, timekeeping, updater

    async def open_stream(host, port, context, timeout_s):
        if lack == "TLS":
            raise MemoryError("out of memory in TLS: mbedTLS -0x10 MPI_ALLOC_FAILED")
        if not VALID[0] <= clock[-1] <= VALID[1]:
            raise TLSError("the certificate validity has expired")
        reader, writer = await asyncio.open_connection(host, port)
        reader.secure = Nothing(getpeercert=lambda is_binary: slots.certificate())
        return reader, writer

    board = BoardSim("1.0.0", "1.0.0", b=(3, 0))
    updater.store = board.files
    clock = [slots.NOW + int(guess)]
    updater.now = timekeeping.now = lambda: clock[-1]
    timekeeping.set_time = clock.append
    timekeeping.store = board.files
    updater.unload = lambda: None  # or other modules than these would come
    updater.mtls = sync.mtls = Nothing(open_stream=open_stream, TLSError=TLSError)
    link.setup = done
    orders.accept(slots.order(order_name), board.boot()[0], board.files, slots.NOW)
    updater.ending = agent = Agent(board.boot()[0])  # the restart
    agent.boot.record["images"] = "127.0.0.1:" + port
    before = board.snapshot()
    asyncio.run(updater.run(agent, int(restarts)))
    after = board.snapshot()
    slot = board.slots[1]
    holds = [slot.sector(number) == slots.whole(data)
             for number, data in enumerate(slots.image_blocks("1.1.0"))]  # fmt: skip
    boot, _ = board.boot()
    kept = board.files.content.pop("/time", b"").decode()
    print(json.dumps({
        "reports": agent.reports,
        "restart": agent.restart_reason if agent.restarted else None,
        "unchanged": before[:4] == after[:4],
        "record": slots.read_state(board.state)[1:],
        "files": sorted(board.files.content),
        "holds_image": all(holds),
        "boots": boot.version,
        "beats": agent.beats,
        "kept": kept,
        "clock": clock[1:],
        "events": agent.events,
    }))  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
