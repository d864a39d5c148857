"""One real model on one batch of clips, stepped as training steps it: what only a real step can tell, and what it costs here."""

import math
import os
import resource
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hwm.config import RunConfig
from hwm.contracts import Batch
from hwm.data.clips import Clips, sample_indices
from hwm.doctor.costs import UTILISATION, RecipeCosts
from hwm.doctor.verdict import Verdict, fail, graded, ok, size, span
from hwm.training import checkpoint
from hwm.training.device import flop_rate, seconds_of, seed_of
from hwm.training.identity import record
from hwm.training.learner import Learner
from hwm.training.loop import Position
from hwm.work.allowance import usable_cores
from hwm.work.progress import rate

CUT_OFF = "the loss does not depend on the states: look at the way from the state encoder to the prediction"

PASSES = 14
"""About so many steps do the checks take."""
PATIENCE = 300.0
"""Seconds that they may take by arithmetic; larger batches are cut down."""
STARVED = 0.25
"""Share of a step's time spent in reading clips that is warned of."""
READ_SECONDS = 1.0


@dataclass
class Trial:
    """A model as `runs.prepared_model` gives it, its clips, and what its steps gave.

    clips: how many make a batch here, at most train.batch_size.  source: None draws random clips.
    losses, step_seconds, update_seconds: of every step of `learn`.  alive: parameters that have had a gradient.
    """

    config: RunConfig
    model: Any
    device: torch.device
    source: Clips | None
    clips: int
    losses: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    update_seconds: list[float] = field(default_factory=list)
    save_seconds: float = 0.0
    alive: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.model.to(self.device).train()
        one = replace(self.config, train=replace(self.config.train, accumulate=1))
        self.learner = Learner(self.model, one, device=self.device)
        self.batch = self.read(0).to(self.device)
        self.trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.state_path = {name for name, _ in self.model.state_parameters()} & self.trained.keys()
        self.idle = set(self.model.idle_parameters())

    def read(self, number: int) -> Batch:
        """The batch of a micro-step, as training reads it, of fewer clips where memory or time demand it."""
        if self.source is None:
            generator = torch.Generator().manual_seed(seed_of(self.config.seed, "random clips", number))
            return self.config.model.example(self.clips, generator=generator, image_size=self.config.data.image_size)
        chosen = sample_indices(seed=self.config.seed, step=number, batch_size=self.clips, num_clips=len(self.source))
        return self.source.batch(np.asarray(chosen))

    def terms(self, batch: Batch | None = None, *, number: int = 0) -> dict[str, Tensor]:
        """The loss and its terms on a batch, with the random numbers of that micro-step."""
        return self.learner.terms(self.batch if batch is None else batch, number)

    def gradients(self) -> tuple[float, float]:
        """Loss and global gradient norm of micro-step 0; the gradients stay in the parameters."""
        self.learner.optimizer.zero_grad()
        values = self.learner.gradients(0, lambda _: self.batch)
        assert values is not None
        return values["loss"], values["grad_norm"]

    def state_norm(self) -> float:
        """Norm of the gradients of what reads the states; parameters without any count as zero."""
        found = [p.grad for name, p in self.trained.items() if name in self.state_path and p.grad is not None]
        return nn.utils.get_total_norm(found).item() if found else 0.0

    def learn(self, steps: int) -> float:
        """Steps on the one batch with the same random numbers each, the learning rate rising to the recipe's.

        Returns the norm of the last gradients of what reads the states.
        """
        train, norm = self.config.train, 0.0
        for i in range(steps):
            lr = train.lr * (i + 1) / steps if train.warmup_steps else train.lr
            self.step_seconds.append(seconds_of(lambda: self.losses.append(self.gradients()[0]), self.device))
            self.alive |= {name for name, p in self.trained.items() if p.grad is not None and bool(p.grad.any())}
            norm = self.state_norm()
            self.update_seconds.append(seconds_of(partial(self.learner.update, lr, number=i + 1), self.device))
        return norm


def started(trial: Trial) -> Verdict:
    """The model is built and its clips are read."""
    trained = sum(p.numel() for p in trial.trained.values())
    kind = "random" if trial.source is None else "real"
    found = f"{type(trial.model).__name__} on {trial.device}, {trained / 1e6:.2f} M trained; {trial.clips} {kind} clips"
    cut = f", of {trial.config.train.batch_size} of the recipe" if trial.clips < trial.config.train.batch_size else ""
    return ok("model", found + cut)


def gradients(trial: Trial) -> Verdict:
    """The gradient of a first step: finite, and there for every parameter that is trained."""
    loss, norm = trial.gradients()
    bad = [name for name, p in trial.trained.items() if p.grad is not None and not bool(p.grad.isfinite().all())]
    if bad or not math.isfinite(norm):
        first = f"first {bad[0]}" if bad else f"norm {norm}"
        return fail("gradients", f"{len(bad)} not finite, {first}", "check the data's values, lower model.init_std, use float32")
    without = [name for name, p in trial.trained.items() if p.grad is None]
    missing = [name for name in without if name not in trial.idle]
    found = f"loss {loss:.4f}, norm {norm:.3g}, {len(trial.trained)} tensors"
    found += f", {len(without) - len(missing)} of them idle by design" if len(without) > len(missing) else ""
    if missing:
        remedy = "these take no part in the loss: use or freeze them"
        return fail("gradients", f"{found}; none for {len(missing)}, first {missing[0]}", remedy)
    return graded("gradients", found, "nothing is learned: the loss does not depend on the weights", fails=norm == 0)


def repeated(trial: Trial) -> Verdict:
    """The same step twice: the same bits of loss, and of the gradient's norm."""
    first, second = trial.gradients(), trial.gradients()
    if first[0] != second[0]:
        remedy = "draw all random numbers from the generator that is given; a stopped run could not go on as if nothing had been"
        return fail("repeated step", f"loss {first[0]!r}, then {second[0]!r}", remedy)
    same = first[1] == second[1]
    found = "the same loss and gradient, bit for bit" if same else "the same loss, another gradient"
    return graded("repeated step", found, "a resumed run will be close to an unbroken one, not equal", warns=not same)


def learning(trial: Trial, *, steps: int) -> Iterator[Verdict]:
    """The loss falls on one batch; every trained parameter has had a gradient, those behind zero gates late."""
    before = trial.state_norm()
    after = trial.learn(steps)
    falls = f"{trial.losses[0]:.4f} to {trial.losses[-1]:.4f} in {steps} steps on one batch"
    yield graded("learning", falls, "lower train.lr", fails=not trial.losses[-1] < trial.losses[0])
    silent = trial.trained.keys() - trial.alive
    dead = sorted(silent - trial.idle)
    found = f"{len(trial.alive)} of {len(trial.trained)} tensors have had one"
    found += f", {len(silent) - len(dead)} are idle or late by design" if len(silent) > len(dead) else ""
    remedy = "these never learn: find what cuts them off, or freeze them"
    yield graded("gradient everywhere", found + (f"; not {dead[0]}" if dead else ""), remedy, fails=bool(dead))
    if trial.state_path:
        found = f"norm {before:.3g} at the first step, {after:.3g} after {steps}"
        found += " (zero gates: closed at first by design)" if before == 0 < after else ""
        yield graded("gradient of states", found, CUT_OFF, fails=not after > 0)


@torch.no_grad()
def states_used(trial: Trial) -> Verdict:
    """After those steps other states must give another loss, everything else being equal."""
    if (role := trial.config.model.role) not in ("world model", "twin"):
        return ok("states used", f"a {role} is told none")
    states_BFA = trial.batch.states_BFA  # of a clip's neighbour; a single clip gets its own backwards
    other = replace(trial.batch, states_BFA=states_BFA.roll(1, 0) if len(states_BFA) > 1 else states_BFA.flip(1))
    for number in range(4):  # a clip may lose its states to condition dropout
        own, wrong = (trial.terms(batch, number=number)["loss"].item() for batch in (None, other))
        if own != wrong:
            return ok("states used", f"loss {own:.5f}, with another clip's states {wrong:.5f} ({(wrong - own) / abs(own):+.2%})")
    return fail("states used", f"loss {own:.5f} with any states", CUT_OFF)


def round_trip(trial: Trial, folder: Path) -> Verdict:
    """A checkpoint saved, verified and read is the same bit for bit."""
    tensors, state = trial.learner.tensors(), asdict(Position(step=1)) | record(trial.config, {})
    began = time.monotonic()
    place = checkpoint.save(folder, state, tensors, keep=1)
    trial.save_seconds = time.monotonic() - began
    checkpoint.verify(place)
    stored = checkpoint.stored(place)
    back = {group: stored.read(group) for group in tensors}
    different = [
        f"{group}/{name}"
        for group, named in tensors.items()
        for name, tensor in named.items()
        if name not in back[group] or not torch.equal(back[group][name], tensor.detach().cpu())
    ]
    written = sum(file.stat().st_size for file in place.iterdir())
    found = f"{size(written)} saved in {span(trial.save_seconds)}"
    found += f"; {different[0]} came back changed" if different else ", bit for bit the same"
    return graded("checkpoint", found, "change the disk", fails=bool(different))


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


def measured(trial: Trial, costs: RecipeCosts, *, nproc: int = 1) -> Iterator[Verdict]:
    """Seconds a step, of reading its clips, hours of the whole recipe (an estimate), and memory at its peak."""
    train, scale = trial.config.train, trial.config.train.batch_size / trial.clips
    late = slice(min(2, len(trial.step_seconds) - 1), None)
    micro = scale * statistics.median(trial.step_seconds[late])
    update = statistics.median(trial.update_seconds[late])
    step = train.accumulate * micro + update
    guess = " (reckoned from fewer clips)" if scale > 1 else ""
    yield ok("time", f"{span(step)} a step{guess}, {rate(train.batch_size * train.accumulate, step):.3g} clips/s{_busy(trial)}")
    reading = 0.0
    if trial.source is not None:
        reading = scale * read_seconds(trial)
        share = reading * rate(1, reading + micro)
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


def _busy(trial: Trial) -> str:
    """A remark where other programs want the same cores, so that what is measured is too slow."""
    load, cores = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, usable_cores()
    crowded = trial.device.type == "cpu" and load > 1.5 * cores
    return f"; the machine is busy (load {load:.1f} on {cores} cores), idle it is faster" if crowded else ""


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
    few = Batch(**{name: value[:4] for name, value in vars(trial.batch).items() if value is not None})
    began = time.perf_counter()
    with trial.learner.evaluating():
        scores = trial.learner.validate([few], stop=False) or {}
    assert all(map(math.isfinite, scores.values())), scores
    return (time.perf_counter() - began) / len(few) * train.validate_clips


def peak_memory(trial: Trial, costs: RecipeCosts) -> Verdict:
    """The most that was held, beside what arithmetic expected."""
    expected = costs.memory(trial.clips)
    if trial.device.type == "cuda":
        found, most = torch.cuda.max_memory_allocated(trial.device), torch.cuda.get_device_properties(trial.device).total_memory
        text = f"{size(found)} on {trial.device}, {size(expected)} by arithmetic"
        return graded("peak memory", text, "lower train.batch_size", warns=found > 0.9 * most)
    held = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return ok("peak memory", f"{size(held)} of this process, libraries included; {size(expected)} by arithmetic for the training")
