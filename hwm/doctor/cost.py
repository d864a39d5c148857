"""What a recipe costs here: clips that a trial can afford, seconds a step, hours of the whole, memory at its peak."""

from __future__ import annotations

import math
import os
import resource
import statistics
import time
from collections.abc import Iterator

import torch

from hwm.config import RunConfig
from hwm.doctor.costs import UTILISATION, RecipeCosts
from hwm.doctor.machine import flop_rate
from hwm.doctor.trial import Trial
from hwm.doctor.units import size, span
from hwm.doctor.verdict import Verdict, graded, ok
from hwm.work.workers import usable_cores

PASSES = 14
"""About so many steps do the checks take."""
PATIENCE = 300.0
"""Seconds that they may take by arithmetic; larger batches are cut down."""
STARVED = 0.25
"""Share of a step's time spent in reading clips that is warned of."""
READ_SECONDS = 1.0


def affordable(config: RunConfig, costs: RecipeCosts, *, device: torch.device, quick: bool) -> int:
    """Clips of a trial's batch: the recipe's, or as many as can be stepped in minutes, but two.

    Raises ValueError where even two take too long.
    """
    dtype = torch.bfloat16 if costs.in_bfloat16 else torch.float32
    a_clip = costs.step.clip_flop / (UTILISATION * flop_rate(device, dtype))
    patience = PATIENCE / 3 if quick else PATIENCE
    clips = int(min(config.train.batch_size, patience / (PASSES * a_clip)))
    if clips < min(2, config.train.batch_size):
        whole = span(config.train.steps * costs.clips * a_clip)
        found = f"a clip would take about {span(a_clip)} a step here, the whole recipe {whole}"
        raise ValueError(f"{found}; train it on a faster device, or train a smaller recipe")
    return clips


def cost(trial: Trial, costs: RecipeCosts, *, nproc: int = 1) -> Iterator[Verdict]:
    """Seconds a step, of reading its clips, hours of the whole recipe (an estimate), and memory at its peak."""
    train, scale = trial.config.train, trial.config.train.batch_size / trial.clips
    late = slice(min(2, len(trial.step_seconds) - 1), None)
    micro = scale * statistics.median(trial.step_seconds[late])
    update = statistics.median(trial.update_seconds[late])
    step = train.accumulate * micro + update
    guess = " (reckoned from fewer clips)" if scale > 1 else ""
    yield ok("time", f"{span(step)} a step{guess}, {train.batch_size * train.accumulate / step:.3g} clips/s{busy(trial)}")
    reading = 0.0
    if trial.source is not None:
        reading = scale * read_seconds(trial)
        share = reading / (reading + micro)
        found = f"{span(reading)} for a batch, {share:.0%} of the time of a step"
        yield graded("reading", found, "the device waits for data: copy it to a local disk", warns=share > STARVED)
    validating = validation_seconds(trial)
    rounds = train.steps // train.validate_every if validating and train.validate_every else 0
    saves = train.steps // train.checkpoint_every if train.checkpoint_every else 1

    def hours(micro_steps: int) -> float:
        return train.steps * (micro_steps * (micro + reading) + update) + saves * trial.save_seconds

    whole = hours(train.accumulate) + rounds * validating
    found = f"about {span(whole)} for {train.steps} steps (an estimate)"
    yield ok("whole recipe", found + (f", {span(rounds * validating)} of it for {rounds} validations" if rounds else ""))
    if nproc > 1:
        shared = hours(math.ceil(train.accumulate / nproc)) + rounds * validating / nproc
        if trial.device.type == "cpu":
            found = f"about {span(whole)} still in {nproc} processes: they share these cores (an estimate)"
        else:
            found = f"about {span(shared)} in {nproc} processes, talk between them not counted (an estimate)"
        yield ok("many processes", found)
    yield peak_memory(trial, costs)


def busy(trial: Trial) -> str:
    """A remark where other programs want the same cores, so that what is measured is too slow."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    crowded = trial.device.type == "cpu" and load > 1.5 * usable_cores()
    return f"; the machine is busy (load {load:.1f} on {usable_cores()} cores), idle it is faster" if crowded else ""


def read_seconds(trial: Trial) -> float:
    """Median time of reading a batch that was not read before."""
    taken: list[float] = []
    while sum(taken) < READ_SECONDS and len(taken) < 20:
        began = time.perf_counter()
        trial.read(1 + len(taken))
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def validation_seconds(trial: Trial) -> float:
    """Time of one validation, reckoned from a few clips; 0 where there is none."""
    train = trial.config.train
    if not train.validate_every or (trial.source is not None and not trial.config.data.val):
        return 0.0
    few = trial.read(0).to(trial.device)
    count = min(4, len(few))
    few = type(few)(**{name: value[:count] for name, value in vars(few).items() if value is not None})
    began = time.perf_counter()
    trial.model.eval()
    with torch.no_grad():
        scores = trial.model.validate(few, generator=torch.Generator(trial.device).manual_seed(0))
    trial.model.train()
    assert all(len(score) == count and math.isfinite(score.sum().item()) for score in scores.values()), scores
    return (time.perf_counter() - began) / count * train.validate_clips


def peak_memory(trial: Trial, costs: RecipeCosts) -> Verdict:
    """The most that was held, beside what arithmetic expected."""
    expected = costs.memory(trial.clips)
    if trial.device.type == "cuda":
        found, most = torch.cuda.max_memory_allocated(trial.device), torch.cuda.get_device_properties(trial.device).total_memory
        text = f"{size(found)} on {trial.device}, {size(expected)} by arithmetic"
        return graded("peak memory", text, "lower train.batch_size", warns=found > 0.9 * most)
    held = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return ok("peak memory", f"{size(held)} of this process, libraries included; {size(expected)} by arithmetic for the training")
