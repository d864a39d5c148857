"""One model on one batch of clips, stepped as `training/loop.py` steps it: what the checks of a real step share."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hwm.config import RunConfig
from hwm.contracts import Batch
from hwm.data.clips import sample_indices
from hwm.model_config import FlowConfig, MaskedConfig, STConfig, WanConfig
from hwm.runs import Clips
from hwm.training.device import autocast, seed_of
from hwm.training.optim import adamw
from hwm.training.parallel import Parallel
from hwm.training.processes import ALONE

RANDOM_SIDE = 64
"""Of random video for a tokenizer whose configuration leaves the side to the data."""


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
        train = self.config.train
        self.parallel = Parallel(self.model.to(self.device).train(), train, ALONE, self.device)
        self.optimizer = adamw(self.model, train, device=self.device)
        self.batch = self.read(0).to(self.device)

    def read(self, number: int) -> Batch:
        """The batch of a micro-step, as training reads it, of fewer clips where memory or time demand it."""
        if self.source is None:
            return random_clips(self.config, self.clips, seed=number)
        chosen = sample_indices(seed=self.config.seed, step=number, batch_size=self.clips, num_clips=len(self.source))
        return self.source.batch(np.asarray(chosen))

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def terms(self, batch: Batch | None = None, *, number: int = 0) -> dict[str, Tensor]:
        """The loss and its terms on a batch, with the random numbers of that micro-step."""
        torch.manual_seed(seed_of(self.config.seed, "dropout", number))
        generator = torch.Generator(self.device).manual_seed(seed_of(self.config.seed, "loss", number))
        with autocast(self.device, self.config.train.precision):
            return self.parallel.loss(self.batch if batch is None else batch, generator=generator)

    def gradients(self) -> tuple[float, float]:
        """Loss and global gradient norm of micro-step 0; the gradients stay in the parameters."""
        self.optimizer.zero_grad()
        loss = self.terms()["loss"]
        loss.backward()
        return loss.item(), self.grad_norm(self.trained)

    def grad_norm(self, names: Any) -> float:
        """Norm of the gradients of parameters; those without any count as zero."""
        found = [p.grad for name, p in self.trained.items() if name in names and p.grad is not None]
        return nn.utils.get_total_norm(found).item() if found else 0.0

    def learn(self, steps: int) -> None:
        """Steps on the one batch with the same random numbers each, the learning rate rising to the recipe's."""
        train = self.config.train
        for i in range(steps):
            began = time.perf_counter()
            self.losses.append(self.gradients()[0])
            self.step_seconds.append(time.perf_counter() - began)
            began = time.perf_counter()
            for group in self.optimizer.param_groups:
                group["lr"] = train.lr * (i + 1) / steps if train.warmup_steps else train.lr
            parameters = [p for p in self.trained.values() if p.grad is not None]
            if train.clip_norm:
                nn.utils.clip_grad_norm_(parameters, train.clip_norm)
            self.optimizer.step()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.update_seconds.append(time.perf_counter() - began)
            self.alive |= {name for name, p in self.trained.items() if p.grad is not None and bool(p.grad.any())}

    @property
    def state_path(self) -> set[str]:
        """Names of the trained parameters that encode states; none in a tokenizer."""
        prefix = {STConfig: "states.", MaskedConfig: "actions.", FlowConfig: "network.actions.", WanConfig: "states."}
        start = prefix.get(type(self.config.model))
        return {name for name in self.trained if start is not None and name.startswith(start)}

    def with_other_states(self) -> Batch:
        """The batch with the states of its neighbour for every clip; a single clip gets its own backwards."""
        states = self.batch.states_BFA
        return replace(self.batch, states_BFA=states.roll(1, 0) if len(states) > 1 else states.flip(1))


def random_clips(config: RunConfig, clips: int, *, seed: int) -> Batch:
    """Clips of the model's sizes that mean nothing: uniform ids or bytes, normal latents and states."""
    generator = torch.Generator().manual_seed(seed_of(config.seed, "random clips", seed))
    return config.model.example(clips, generator=generator, image_size=config.data.image_size)
