"""What a prediction costs: parameters, predictions a second, peak memory (HWM paper Tables 1 and 2).

The paper's "samples per second" counts predicted latents, its memory is the GPU's peak during inference; batch size
and hardware are not printed there, so figures from here compare with each other only.
"""

import ctypes
import gc
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from hwm.evaluate.scores import Cost
from hwm.training.device import seconds_of
from hwm.work.progress import rate

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
ON_CUDA = "allocated on the GPU by this process, weights included"
ON_LINUX = "resident memory above what the process held before, weights not included"
COST_REPEATS = 3
"""Timed predictions, of which the median counts (ours)."""
UNKNOWN = "not measured: this system does not let a process reset its peak of resident memory"


@dataclass(frozen=True)
class Timed:
    """Something that is timed: the median of `repeats` runs, in seconds or as a rate.

    rate: predictions in one run, whose number a second is wanted; 0: seconds.  warm: whether a run that does not count precedes.
    """

    name: str
    run: Callable[[], object]
    repeats: int = COST_REPEATS
    rate: int = 0
    warm: bool = False

    def figure(self, device: torch.device) -> float:
        """The figure of all its runs."""
        median = statistics.median(seconds_of(self.run, device) for _ in range(self.repeats))
        return rate(self.rate, median) if self.rate else median


def measure_cost(model: nn.Module, timed: Sequence[Timed], *, device: torch.device | str, how: str) -> Cost:
    """Time of predictions, and the peak memory of the last of them.  how: in words."""
    device = torch.device(device)
    weights = list(model.parameters())
    for each in timed:
        if each.warm:
            each.run()
    last, figures = timed[-1], {each.name: each.figure(device) for each in timed[:-1]}
    peak, meaning = peak_memory(lambda: figures.update({last.name: last.figure(device)}), device=device)
    return Cost(
        parameters=sum(weight.numel() for weight in weights),
        weight_bytes=sum(weight.numel() * weight.element_size() for weight in weights), device=device.type, figures=figures,
        peak_bytes=peak, peak_meaning=meaning, how=how,
    )  # fmt: skip


def peak_memory(run: Callable[[], object], *, device: torch.device | str) -> tuple[int | None, str]:
    """Peak memory in bytes while `run` runs, and what is counted; None and the reason where that cannot be told."""
    device = torch.device(device)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device), ON_CUDA
    if device.type != "cpu":
        return None, UNKNOWN
    _give_back_free_memory()
    try:
        CLEAR_REFS.write_text("5")  # proc(5): resets the high-water mark of the resident set
        before = _resident("VmRSS")
    except (OSError, LookupError):
        return None, UNKNOWN
    run()
    return max(0, _resident("VmHWM") - before), ON_LINUX


def _resident(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise LookupError(name)
    return int(found[1]) * 1024


def _give_back_free_memory() -> None:
    """Let the C library return freed memory, which would otherwise serve the measured run unseen."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):
        return  # not glibc: the peak is then a lower bound
