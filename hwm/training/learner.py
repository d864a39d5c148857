"""One update of a model: gradients from micro-steps, then the optimiser and the moving average.

The loop takes a run's steps with it, the doctor its trial steps: what the one checks is what the other does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hwm.config import RunConfig
from hwm.contracts import Batch
from hwm.safe_load.weights import expect_same
from hwm.training.device import autocast, seed_of
from hwm.training.optim import Ema, load_optimizer_tensors, optimizer_of, optimizer_tensors
from hwm.training.parallel import Parallel
from hwm.training.processes import ALONE, Processes
from hwm.training.stored import Groups, Stored, is_share


class Learner:
    """A model with what changes as it learns; on several processes each makes one and calls it alike.

    config: `config.train` and `config.seed` are read.
    """

    def __init__(self, model: Any, config: RunConfig, *, device: torch.device, processes: Processes = ALONE) -> None:
        self.model, self.config, self.device, self.processes = model, config, device, processes
        self.parallel = Parallel(model.to(device), config.train, processes, device)
        self.optimizer = optimizer_of(model, config.train, device=device)
        self.ema = Ema(model, config.train.ema) if config.train.ema else None
        self._generator = torch.Generator(device)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The model as it is used: averaged weights if there are any, no dropout, no gradients."""
        self.model.eval()
        try:
            with self.ema.applied(self.model) if self.ema else nullcontext(), torch.no_grad():
                yield
        finally:
            self.model.train()

    def terms(self, batch: Batch, micro_step: int) -> dict[str, Tensor]:
        """The loss and its terms on a batch, with the random numbers of that micro-step."""
        torch.manual_seed(seed_of(self.config.seed, "dropout", micro_step))
        self._generator.manual_seed(seed_of(self.config.seed, "loss", micro_step))
        with autocast(self.device, self.config.train.precision):
            return self.parallel.loss(batch, generator=self._generator)

    def gradients(self, step: int, batch: Callable[[int], Batch], *, stop: object = False) -> dict[str, float] | None:
        """Gradients of update `step`, counted from 0, in the parameters: the mean over its `accumulate` micro-steps.

        batch: of micro-step i.  Returns the mean of every term and the global "grad_norm" before it is clipped; None
        where a stop was asked for between two micro-steps, and there are no gradients then.
        """
        accumulate, world = self.config.train.accumulate, self.processes.world
        sums: dict[str, Tensor] = {}
        turns = range(self.processes.rank, self.processes.rank + accumulate, world)
        for turn in turns:
            if turn >= world and self.processes.any(stop):
                self.optimizer.zero_grad()
                return None
            # Where turns do not come out even, the last one is taken again and counts nothing.
            counts = turn < accumulate
            micro_step = step * accumulate + min(turn, accumulate - 1)
            with self.parallel.micro_step(last=turn == turns[-1]):
                terms = self.terms(batch(micro_step).to(self.device), micro_step)
                # Gradients are averaged over the processes; this makes it the mean over the step's micro-steps.
                (terms["loss"] * (counts * world / accumulate)).backward()
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.detach().float() * (counts / accumulate)
        norm: Any = nn.utils.get_total_norm([p.grad for p in self.moved if p.grad is not None])
        self._norm = norm.full_tensor() if is_share(norm) else norm  # whole also where processes hold shares
        *terms_N, found = torch.stack([*sums.values(), self._norm]).tolist()
        return dict(zip(sums, self.processes.sum(terms_N))) | {"grad_norm": found}

    def validate(self, batches: Sequence[Batch], *, stop: object) -> dict[str, float] | None:
        """Mean of every score of `model.validate` over all clips, or None if a stop was asked for on the way.

        batches: read one at a time; processes share them, and all of them get the result, which is the same for any number.
        The arithmetic is float32 and the randomness of a batch the same each time, so that scores of different steps compare.
        Raises ValueError if there is no clip.
        """
        if not batches:
            raise ValueError("validation has no clips: set data.val to more data, or train.validate_every to 0")
        told: list[tuple[int, int, dict[str, float]]] = []
        for turn in range(-(-len(batches) // self.processes.world)):
            if self.processes.any(stop):
                return None
            number = turn * self.processes.world + self.processes.rank
            # Where batches do not come out even, some repeat the last, uncounted: shared models are computed by all or none.
            batch = batches[min(number, len(batches) - 1)].to(self.device)
            torch.manual_seed(seed_of(self.config.seed, "validation", number))
            self._generator.manual_seed(seed_of(self.config.seed, "validation samples", number))
            sums: dict[str, float] = {}
            for name, score_B in self.model.validate(batch, generator=self._generator).items():
                assert score_B.shape == (len(batch),), f"score {name!r}: expected one value per clip"
                sums[name] = score_B.float().sum().item()
            if number < len(batches):
                told.append((number, len(batch), sums))
        parts = sorted(part for mine in self.processes.gather(told) for part in mine)
        clips = sum(count for _, count, _ in parts)
        return {name: sum(sums[name] for _, _, sums in parts) / clips for name in parts[0][2]}

    def tensors(self) -> Groups:
        """All that a checkpoint holds of it."""
        groups = {"model": self.model.state_dict(), "optimizer": optimizer_tensors(self.model, self.optimizer)}
        return groups | ({"ema": self.ema.average} if self.ema else {})

    def load(self, stored: Stored, *, where: Path) -> None:
        """Put back what `tensors` gave.  where: its checkpoint, for the error.  Raises ValueError where it does not fit."""
        here = self.model.state_dict()
        expect_same(stored.sizes("model"), here, where=where / "model.safetensors")
        tensors = {name: torch.empty_like(tensor) for name, tensor in here.items()}
        stored.read_into("model", tensors)
        self.model.load_state_dict(tensors)  # rather than in place: a model may have something to say to what it is given
        load_optimizer_tensors(self.model, self.optimizer, stored, where=where / "optimizer.safetensors")
        if self.ema:
            self.ema.load(stored, where=where / "ema.safetensors")

    @property
    def moved(self) -> list[nn.Parameter]:
        """The parameters that have a gradient."""
        return [p for p in self.model.parameters() if p.grad is not None]

    def update(self, lr: float, *, number: int) -> None:
        """Clip the gradients, take the step and forget them.  number: of the update, counted from 1."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if self.config.train.clip_norm:
            nn.utils.clip_grads_with_norm_(self.moved, self.config.train.clip_norm, self._norm)
        self.optimizer.step()
        if self.ema:
            self.ema.update(self.model, number)
        self.optimizer.zero_grad()
