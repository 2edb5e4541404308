"""Coverage-guided fuzzing of the MQTT decoders, with atheris: `make fuzz RUNS=<inputs for each>`.

An input is taken as what a server sends.  Checked: nothing but MQTTProtocolError is raised, what is
decoded is what a client may rely on, and neither the cuts between reads nor a buffer that is
smaller than a packet change what is decoded.  Without --decoder, both decoders are fuzzed side by
side, each in a process of its own; inputs that fail are left in build/fuzz, and the status is 1.
"""

import argparse
import importlib
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO / folder) for folder in ("lib", "tools", "host_tests/pure")]
HOME = REPO / "build/fuzz"

LIMIT = 300  # bytes of a packet
SMALL = 64  # bytes of a buffer that a PUBLISH may exceed
MAX_INPUT = 600
TIMEOUT_S = 5  # for one input; a usual one takes less than a millisecond
DECODERS = ("v311", "v5")
SERVER_KINDS = (2, 3, 4, 5, 6, 7, 9, 11, 13, 14)
PROPERTY_IDS = bytes((1, 2, 3, 8, 9, 11, 17, 18, 19, 28, 31, 33, 34, 35, 36, 37, 38, 39, 42))

Packet = tuple[Any, ...]


def varint(value: int) -> bytes:
    return bytes((value,)) if value < 128 else bytes((value & 127 | 128,)) + varint(value >> 7)


def framed(data: bytes) -> Iterator[bytes]:
    """Packets with a true length: their first byte, a length, and a body are taken from data."""
    while len(data) > 2:
        length = data[1]
        body, first = data[2 : 2 + length], data[0]
        data = data[2 + length :]
        yield bytes((first,)) + varint(len(body)) + body


def shaped(data: bytes) -> Iterator[bytes]:
    """Packets of MQTT 5 with a true length of properties, too, and properties that exist."""
    while len(data) > 6:
        kind = SERVER_KINDS[data[0] % len(SERVER_KINDS)]
        flags, size, count = data[1] & 15, data[2] & 63, data[3] & 7
        head, data = data[4:6], data[6:]
        properties = b""
        for _ in range(count):
            if data:
                part, data = data[1 : 1 + size], data[1 + size :]
                number = PROPERTY_IDS[data[0] % len(PROPERTY_IDS)] if data else 38
                properties += bytes((number,)) + part
        properties = varint(len(properties)) + properties
        rest, data = data[:size], data[size:]
        if kind == 3:
            head = bytes((0, len(head))) + head + (b"\0\1" if flags & 6 else b"")
        elif kind in (2, 4, 5, 6, 7):
            head, rest = head + (b"" if kind == 2 else bytes((flags,))), b""
        flags = flags if kind == 3 else 2 * (kind == 6)
        body = head + properties + rest
        yield bytes((kind << 4 | flags,)) + varint(len(body)) + body


def stream_of(data: bytes) -> bytes:
    if not data:
        return data
    form = data[0] % 3
    return data[1:] if not form else b"".join((framed if form == 1 else shaped)(data[1:]))


class Decoding:
    """A connection's worth of decoding, as mqtt.link does it; `error` is what ended it."""

    def __init__(self, codec: Any, protocol: Any) -> None:
        self._family = codec.MQTTProtocolError
        self._protocol = protocol
        protocol.encode_connect("a", 1, True, None, None, None, LIMIT)
        self.packets: list[Packet] = []
        self.error = ""

    def step(self, buf: memoryview, start: int, end: int) -> int:
        """Decode one packet; returns where the next one starts, 0 if there was none."""
        try:
            packet = self._protocol.decode(buf, start, end, LIMIT)
        except self._family as error:
            self.error = str(error) or "no text"
            assert len(self.error) < 200, self.error
            return 0
        if packet is None:
            return 0
        stop: int = packet[0]
        assert start + 2 <= stop <= start + LIMIT, packet
        self.packets.append(checked(packet))
        return stop

    def whole(self, stream: bytes) -> "Decoding":
        # There is always room in the buffer: a full one means something.
        buf, at = memoryview(stream + b"\xff" * (LIMIT + 1)), 0
        while (stop := self.step(buf, at, len(stream))) and not self.error:
            at = stop
        return self

    def cut(self, stream: bytes, size: int, chance: random.Random) -> "Decoding":
        """Through a buffer of that size, which is filled by reads of any length."""
        memory = bytearray(size)
        buf = memoryview(memory)
        start = end = skip = 0
        while not self.error:
            stop = self.step(buf, start, end)
            if stop:
                skip = max(0, stop - end)
                start = min(stop, end)
                if not skip:
                    continue
            if self.error or not stream:
                break
            stream = stream[skip:]
            skip = 0
            rest = end - start
            memory[:rest] = memory[start:end]
            start, end = 0, rest
            assert end < size, "no packet in a full buffer"
            got = stream[: chance.randint(1, size - end)]
            stream = stream[len(got) :]
            memory[end : end + len(got)] = got
            end += len(got)
        return self


def checked(packet: Packet) -> Packet:
    """What a client relies on; returns the packet without its position."""
    _, kind, *fields = packet
    assert kind in SERVER_KINDS
    if kind == 3:
        topic, payload, qos, retain, packet_id, properties = fields
        assert topic
        assert not set(topic) & set("+#\0")
        topic.encode()
        assert type(payload) is memoryview
        assert qos in (0, 1, 2)
        assert type(retain) is bool
        assert (0 < packet_id < 65536) if qos else packet_id == 0
        fields[1] = bytes(payload)
    elif kind == 2:
        session, code, properties = fields
        assert type(session) is bool
        assert not (session and code)
    elif kind == 14:
        code, properties = fields
    else:
        properties = None
        assert kind == 13 or (0 < fields[0] < 65536 and 0 <= fields[1] < 256)
    assert properties is None or type(properties) is dict
    if properties:
        assert all(type(name) is str and name.isidentifier() for name in properties)
        assert "topic_alias" not in properties or kind != 3
    return kind, *fields


def check(data: bytes, codec: Any, new: Any) -> None:
    stream = stream_of(data)
    chance = random.Random(len(data) << 8 | (data[-1] if data else 0))
    whole = Decoding(codec, new()).whole(stream)
    cut = Decoding(codec, new()).cut(stream, LIMIT, chance)
    # Which of two mistakes is named depends on what is received first.
    assert (cut.packets, not cut.error) == (whole.packets, not whole.error), (
        cut.error,
        whole.error,
    )
    small = Decoding(codec, new()).cut(stream, SMALL, chance)
    if not small.error:  # else it may have ended earlier, by what is too large for that buffer
        assert len(small.packets) >= len(whole.packets)
        assert not whole.error
    for found, expected in zip(small.packets, whole.packets, strict=False):
        if found[0] == 3:
            assert expected[2].startswith(found[2])
            found, expected = (*found[:2], *found[3:]), (*expected[:2], *expected[3:])
        assert found == expected


def seeds(decoder: str) -> Iterator[bytes]:
    test_mqtt_codec = importlib.import_module("test_mqtt_codec")
    test_mqtt_v5 = importlib.import_module("test_mqtt_v5")
    yield from (b"\0" + raw for raw, _ in test_mqtt_codec.DECODED.values())
    yield from (b"\0" + raw for raw, _ in test_mqtt_codec.REFUSED.values())
    if decoder == "v5":
        yield from (b"\0" + raw for raw, _ in test_mqtt_v5.SHORT.values())
        yield from (b"\0" + raw for raw, _ in test_mqtt_v5.REFUSED.values())
        for number, _, raw, _, kinds in test_mqtt_v5.PROPERTIES.values():
            for kind in kinds:
                yield b"\0" + test_mqtt_v5.packet(kind, bytes((number,)) + raw)


def fuzz(decoder: str, runs: int, seed: int) -> None:
    """Fuzz one decoder; libFuzzer ends the process."""
    atheris: Any = importlib.import_module("atheris")  # which is in build/fuzz/venv alone
    with atheris.instrument_imports(include=["mqtt"]):
        from mqtt import codec, v5
    corpus = HOME / f"corpus-{decoder}"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(seeds(decoder)):
        (corpus / f"seed-{number:04}").write_bytes(content)

    def new() -> Any:
        return v5.V5(topic_alias_maximum=4) if decoder == "v5" else codec.V311()

    arguments = [
        sys.argv[0], f"-runs={runs}", f"-max_len={MAX_INPUT}", f"-timeout={TIMEOUT_S}",
        f"-seed={seed}", "-rss_limit_mb=1024", "-print_final_stats=1",
        f"-artifact_prefix={HOME}/{decoder}-", str(corpus),
    ]  # fmt: skip
    atheris.Setup(arguments, lambda data: check(data, codec, new))
    atheris.Fuzz()


def summary(decoder: str, log: str, status: int, seconds: float) -> str:
    """A line of what libFuzzer has printed."""
    runs = re.findall(r"stat::number_of_executed_units: (\d+)", log) or re.findall(r"#(\d+)\t", log)
    coverage = re.findall(r"cov: (\d+) ft: (\d+)", log) or [("0", "0")]
    executed = int(runs[-1]) if runs else 0
    edges, features = coverage[-1]
    return (
        f"{decoder:5} {executed:>11,} inputs  {executed / seconds:>8,.0f}/s  {edges:>5} edges"
        f"  {features:>6} features  findings: {int(status != 0)}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs for each decoder")
    parser.add_argument("--seed", type=int, default=0, help="0: another one in every run")
    parser.add_argument("--decoder", choices=DECODERS, help="fuzz this one, in this process")
    options = parser.parse_args()
    if options.decoder:
        fuzz(options.decoder, options.runs, options.seed)
    HOME.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    command = [sys.executable, __file__, f"--runs={options.runs}", f"--seed={options.seed}"]
    running = {}
    for decoder in DECODERS:
        with (HOME / f"{decoder}.log").open("wb") as log:
            running[decoder] = subprocess.Popen(
                [*command, f"--decoder={decoder}"], stdout=log, stderr=subprocess.STDOUT
            )
    failed = False
    for decoder, process in running.items():
        status = process.wait()
        text = (HOME / f"{decoder}.log").read_text(errors="replace")
        print(summary(decoder, text, status, time.monotonic() - started))
        if status:
            failed = True
            print(text[-4000:])
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
