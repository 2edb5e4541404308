"""Kept telemetry on a real littlefs: the power is cut at every flash operation, clean and torn."""

import re
from pathlib import Path

from host_tests.board_helpers import make_board, power_cuts
from signet.board.virtual.board import VirtualBoard

# At each start all that is there goes up; then more is kept, some of it sent and some not.
MAIN = """
class Device:
    restart_reason = None
    outbox = ()
    error = None
    fresh = False
    prefix = ""

    def __init__(self):
        self._agent = self.client = self
        self._session = None
        self.dropped = [0, 0]

    def time(self):
        return 1, 0

    async def publish(self, topic, payload, qos):
        if not budget[0]:
            raise MQTTError("lost")
        budget[0] -= 1
        record = json.loads(payload)
        print("sent", record["kept"][0], record["v"])

device = Device()
keep = make(device)
budget = [1000]

def more(count):
    for _ in range(count):
        number = keep._next
        keep({"v": "v%d" % number, "text": "x" * 60})
        print("kept", number)
    keep.flush()
    print("promised", keep._next)

async def main():
    device._session = device
    keep.start()
    while keep._sender:
        await asyncio.sleep_ms(1)
    print("recovered", keep.lost)
    more(9)
    budget[0] = 5
    keep.start()
    while keep._sender:
        await asyncio.sleep_ms(1)
    more(7)
    print("done")

asyncio.run(main())
"""
ERRORS = "class MQTTError(Exception): pass\nclass MQTTRefusedError(MQTTError): pass\n"
SAID = re.compile(r"^(sent|kept|promised) (\d+)(?: (\w+))?$")


def read(board: VirtualBoard) -> list[tuple[str, int, str]]:
    found = (SAID.match(line) for line in board.lines)
    return [(match[1], int(match[2]), match[3]) for match in found if match]


def check(first: list[tuple[str, int, str]], then: list[tuple[str, int, str]]) -> None:
    """All that was promised has come; each number stands for one record, and they come in order."""
    promised = max([number for what, number, _ in first if what == "promised"], default=1)
    first_sent = [(number, value) for what, number, value in first if what == "sent"]
    then_sent = [(number, value) for what, number, value in then if what == "sent"]
    numbers = [number for number, _ in first_sent + then_sent]
    assert set(range(1, promised)) <= set(numbers)
    assert all(value == f"v{number}" for number, value in first_sent + then_sent)
    for sent in (first_sent, then_sent):
        assert sent == sorted(sent)
    used = [number for what, number, _ in first if what == "kept"]
    assert not set(used) & {number for what, number, _ in then if what == "kept"}


def test_a_power_cut_at_any_flash_operation_leaves_what_was_promised(
    repo: Path, tmp_path: Path
) -> None:
    source = (repo / "firmware/ondemand/extras/keep.py").read_text()
    imported = "from mqtt.codec import MQTTError, MQTTRefusedError\n"
    assert imported in source
    board = make_board(tmp_path / "source", source.replace(imported, ERRORS) + MAIN)
    count = 0
    for cut in power_cuts(board, tmp_path, lambda board: not board.running, torn=(0, 40)):
        first = read(cut.board)
        with cut.board as again:
            again.power_on()
            again.wait_for_line("done")
            assert again.lines.count("recovered 0") == 1, cut.cut
            check(first, read(again))
        count += 1
    assert count > 30
