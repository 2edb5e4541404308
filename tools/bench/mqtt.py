"""`make bench-mqtt`: what the MQTT client costs: a table, and build/bench-mqtt.json.

Each figure has its floor beside it, measured in the same run: what the same packets take with
nothing but a TLS socket.  docs/benchmarks.md says how each is measured.
"""

import os
from pathlib import Path

from bench import mqtt_figures
from bench.mqtt_figures import CORE, Heap, Peer, Start, Times
from bench.table import Notes, Progress, Row, words


def make_rows(times: Times, start: Start, code: dict[str, int], heap: Heap) -> list[Row]:
    """The table, under the names of build/bench-mqtt.json."""
    return [
        Row("qos0_per_s_over_floor", times.qos0.ratio, f"{times.qos0.bare:,.0f} writes/s",
            at_least=0.12),
        Row("qos1_sequential_over_floor", times.sequential.ratio,
            f"{times.sequential.bare:,.0f}/s", at_least=0.3),
        Row("qos1_window_over_floor", times.window.ratio, f"{times.window.bare:,.0f}/s",
            at_least=0.6),
        Row("receive_per_s_over_floor", times.receive.ratio, f"{times.receive.bare:,.0f}/s"),
        *_beside_umqtt(times),
        Row("rtt_ms", round(times.rtt, 3), f"bare {times.rtt_bare:.3f}"),
        Row("start_to_connack_ms", round(start.ours, 1), f"bare {start.bare:.1f}"),
        Row("core_mpy_bytes", sum(code.get(name, 0) for name in CORE), "–", at_most=8_192),
        Row("all_mpy_bytes", sum(code.values()), "–", at_most=18_432),
        Row("client_live_heap_words", words(heap.connected),
            f"bare TLS {words(heap.bare):,}", at_most=3_600),
        Row("smallest_heap_wk", heap.receive_wk, "–", at_most=24),
    ]  # fmt: skip


def _beside_umqtt(times: Times) -> list[Row]:
    if not times.receive_umqtt:
        return []
    ratio = round(times.receive.ours / times.receive_umqtt, 3)
    floor = f"umqtt {times.receive_umqtt:,.0f}/s"
    return [Row("receive_per_s_over_umqtt", ratio, floor, at_least=1.0)]


def make_notes(
    times: Times, code: dict[str, int], heap: Heap, peers: dict[str, Peer] | None = None
) -> Notes:
    """What stands behind the figures."""
    modules = ", ".join(f"{name} {size:,}" for name, size in code.items())
    return [
        f"A second: {times.qos0.ours:,.0f} at QoS 0, {times.sequential.ours:,.0f} one after "
        f"another at QoS 1, {times.window.ours:,.0f} with 20 on their way, "
        f"{times.receive.ours:,.0f} received.",
        f"QoS 0 over {times.qos0_coalesced:,.0f} writes/s without TCP_NODELAY, where many are one "
        f"segment: {times.qos0.ours / times.qos0_coalesced:.3f}.",
        f"Heap: {words(heap.connected - heap.bare):,} words are the client's own, the others are "
        f"asyncio's and TLS's. With the message of 4 KB published only, {heap.publish_wk} wK do.",
        f"Bytes of .mpy: {modules}.",
        *[
            f"{name}: {words(peer.connected):,} words live when connected, {peer.publish_wk} wK "
            f"to publish 4 KB, {peer.receive_wk} wK to have them back, {peer.mpy_bytes:,} bytes."
            for name, peer in (peers or {}).items()
        ],
    ]


def measure(folder: Path, progress: Progress) -> tuple[list[Row], Notes]:
    """Measure everything; rows of the table and notes to it."""
    peers = Path(os.environ["PEERS"]).absolute() if os.environ.get("PEERS") else None
    with mqtt_figures.Lab(folder.absolute(), peers=peers) as lab:
        code = mqtt_figures.measure_code(lab)
        progress("messages, by the clock")
        times = mqtt_figures.measure_times(lab)
        progress("start")
        start = mqtt_figures.measure_start(lab)
        progress("heap")
        heap = mqtt_figures.measure_heap(lab)
        progress("other clients" if lab.peers else "no other clients: PEERS is not given")
        others = mqtt_figures.measure_peers(lab)
    return make_rows(times, start, code, heap), make_notes(times, code, heap, others)
