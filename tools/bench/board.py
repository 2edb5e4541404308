"""`make bench`: what Signet costs, measured: a table, and build/bench.json.

Each figure has its floor beside it: what the same work, or as many files, take with nothing of
ours in them. An aim that is missed is shown as missed; the exit code is 0 if all could be measured.
docs/benchmarks.md says how each is measured, and what it says about an ESP32.
"""

from pathlib import Path

from bench import board_figures
from bench.board_figures import Board, Heap, Size, Update
from bench.table import Notes, Progress, Row, words
from demo.stage import Stage
from demo.transcript import Transcript
from signet.board.virtual.board import FIRST_SEGMENT_LEN, on_a_chip


def make_rows(stage1: Size, board: Board, heap: Heap, update: Update) -> list[Row]:
    """The table, under the names of build/bench.json."""
    bare_us, real_us = board.verify
    size, download = list(board.downloads.items())[-1]
    above_idle = [words(peak - idle) for _, idle, peak in heap.updates]
    return [
        Row("boot_verify_ratio", round(real_us / bare_us, 3), f"bare {bare_us / 1000:.2f} ms",
            at_most=1.25),
        Row("stage1_mpy_bytes", stage1.total, f"empty {stage1.empty:,}", at_most=12_288),
        Row("agent_resident_mpy_bytes", board.resident.total, f"empty {board.resident.empty:,}",
            at_most=24_576),
        Row("agent_live_heap_words", words(heap.idle - heap.shims),
            f"shims {words(heap.shims):,}", at_most=8_704),
        Row("first_segment_bytes", on_a_chip(heap.idle - heap.shims), "estimate",
            at_most=FIRST_SEGMENT_LEN),
        Row("agent_names", heap.names[1] - heap.names[0], f"shims {heap.names[0]}", at_most=384),
        Row("largest_free_words", words(heap.largest), f"live {words(heap.idle):,}"),
        Row("update_heap_above_idle_words", max(above_idle),
            f"idle {words(heap.updates[0][1]):,}", at_most=3_072),
        Row("download_ratio", round(download.bare_us / download.real_us, 3),
            f"bare {(size - 4096) / download.bare_us:.1f} MB/s", at_least=0.8),
        Row("order_to_confirmed_s", round(update.confirmed_s, 3),
            f"{update.restarts} × {update.online_s:.2f} s start"),
    ]  # fmt: skip


def make_notes(board: Board, heap: Heap, update: Update) -> Notes:
    """What stands behind the figures."""
    peaks = ", ".join(
        f"{words(peak - idle):,} ({size // 1024} KB)" for size, idle, peak in heap.updates
    )
    downloads = "; ".join(
        f"{size // 1024} KB in {all_real / 1000:.1f} ms, bare {all_bare / 1000:.1f}; from the "
        f"first block on {real / 1000:.1f}, bare {bare / 1000:.1f}"
        for size, (bare, real, all_bare, all_real) in board.downloads.items()
    )
    modules = ", ".join(f"{name} {size:,}" for name, size in board.resident.modules.items())
    return [
        f"Heap of an update, words above idle, by image: {peaks}.",
        f"Agent idle, words: {words(heap.idle):,} in all, {words(heap.shims):,} of them the "
        "virtual board's own.",
        f"Download, by image: {downloads}.",
        f"Order to confirmed: {update.restarts} restarts included.",
        f"Resident, bytes of .mpy: {modules}.",
    ]


def measure(folder: Path, progress: Progress) -> tuple[list[Row], Notes]:
    """Measure everything; rows of the table and notes to it."""
    transcript = Transcript()
    transcript.console.quiet = True  # what the stage would tell about a demo
    with Stage(folder, transcript) as stage:
        progress("code")
        stage1 = board_figures.measure_stage1()
        board_figures.make_fleet(stage)
        progress("verification and download, on the board")
        board = board_figures.measure_board(stage)
        progress("updates, by the clock")
        update = board_figures.measure_update(stage)
        progress("heap, idle and during updates")
        heap = board_figures.measure_heap(stage)
    return make_rows(stage1, board, heap, update), make_notes(board, heap, update)
