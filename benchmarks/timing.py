"""Fair comparison of two implementations in one process: CPU time, taken in alternation."""

from __future__ import annotations

import ctypes
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch


def compare(plain: Callable[[], object], ours: Callable[[], object], *, repeats: int) -> str:
    """One row "plain s | ours s | ratio (min - max)"; CPU seconds of this process, medians of alternated runs.

    The first run of each is not counted.  A ratio is that of two neighbouring runs, so that a slow moment of the
    machine falls on both.
    """
    plain(), ours()
    pairs = [(_cpu_seconds(plain), _cpu_seconds(ours)) for _ in range(repeats)]
    ratios = [a / b for a, b in pairs]
    plain_s, ours_s = (statistics.median(column) for column in zip(*pairs))
    return f"{plain_s:8.3f} | {ours_s:8.3f} | {statistics.median(ratios):6.2f} ({min(ratios):.2f} - {max(ratios):.2f})"


def _cpu_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def extra_memory(run: Callable[[], object]) -> float:
    """Largest resident memory during a run above that before it, in GB; Linux only, else nan."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return float("nan")
    # Hand back what earlier runs freed, or this one would find its memory already there.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    page = os.sysconf("SC_PAGE_SIZE")
    done, before = threading.Event(), int(statm.read_text().split()[1])
    peak = before

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, int(statm.read_text().split()[1]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return (peak - before) * page / 1e9


def machine() -> str:
    """Processor, what it computes with, threads, torch and date."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
        flags = next((line for line in lines if line.startswith("flags")), "").split()
        cpu += ", bfloat16 in hardware" if {"avx512_bf16", "amx_bf16"} & set(flags) else ", no bfloat16 in hardware"
    date = datetime.now(UTC).date()
    return f"{cpu}; {torch.get_num_threads()} thread(s); torch {torch.__version__}; {date}"
