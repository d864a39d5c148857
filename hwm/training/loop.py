"""The training loop: one function, top to bottom, the same for every model and every place it runs.

A run is a pure function of its configuration.  Batch, dropout and every other random number of a step come from
(seed, step), never from a generator that lives on; so a run that was stopped, killed or moved continues bit for bit
as if nothing had happened, and a checkpoint needs to hold no random state.

    OUT/config.toml   OUT/metrics.jsonl   OUT/checkpoints/step-N/   OUT/samples/step-N.png
"""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hwm.config import RunConfig
from hwm.contracts import Batch
from hwm.signals import StopFlag
from hwm.training import checkpoint
from hwm.training.device import autocast, choose_device, cpu_threads, own_randomness, seed_of
from hwm.training.ema import Ema
from hwm.training.metrics import MetricsLog
from hwm.training.optim import adamw, load_optimizer_tensors, lr_at, optimizer_tensors
from hwm.training.progress import TrainingProgress
from hwm.training.run_folder import claimed, config_hash, settle_config
from hwm.training.validation import evaluating, validate


@dataclass(frozen=True)
class FitResult:
    """How a training ended.

    step: updates done.  best: lowest validation score, None without validation.  seconds: training time of all
    sessions.  signal: the signal that stopped it early, None if it is complete; exit with 128 + signal.
    """

    step: int
    best: float | None
    seconds: float
    signal: int | None = None

    @property
    def stopped(self) -> bool:
        return self.signal is not None


@dataclass(frozen=True)
class Position:
    """Where a run stands: what a checkpoint stores beside the tensors."""

    step: int = 0
    """Updates done."""
    validated: int = 0
    """Step of the last finished validation."""
    best_step: int = 0
    best: float | None = None


def fit(
    model: Any,
    config: RunConfig,
    out: str | Path,
    *,
    train_batch: Callable[[int], Batch],
    validation_batches: Callable[[], Iterable[Batch]] | None = None,
    preview: Callable[[nn.Module, Path], None] | None = None,
    log: Callable[[str], None] | None = None,
) -> FitResult:
    """Train a model (nn.Module and contracts.WorldModel), or continue the run that `out` holds.

    config: `config.train` and `config.seed` are what the loop reads; the whole is stored with the run.
    train_batch: the batch of micro-step i, a pure function of i.  validation_batches: all validation clips, in order.
    preview: writes a picture of what the model predicts to the path it is given.
    log: receives plain progress lines; None: a bar on a terminal, printed lines elsewhere.

    Raises ValueError, always one line, if the folder is in use or holds a run with another configuration, no
    checkpoint in it is whole, the disk is full, or loss or gradient stop being finite.  The last checkpoint stays.
    """
    train, out = config.train, Path(out)
    rank, world = 0, 1  # One process.  All that follows counts clips by them already.
    if train.validate_every and validation_batches is None:
        raise ValueError("train.validate_every is set but there are no validation clips: set data.val, or set it to 0")
    if train.sample_every and preview is None:
        raise ValueError("train.sample_every is set but this run can draw no samples: set it to 0")

    device = choose_device(train.device)
    progress = TrainingProgress(train.steps, log=log)
    with claimed(out, say=progress.say), StopFlag() as stop, cpu_threads(train.threads), own_randomness(device):
        settle_config(out, config)
        model.to(device)
        optimizer = adamw(model, train, device=device)
        ema = Ema(model, train.ema) if train.ema else None

        # Continue from the newest whole checkpoint, if there is one.
        checkpoints = out / "checkpoints"
        checkpoint.clean(checkpoints)
        position = _restore(checkpoints, model, optimizer, ema, config=config, say=progress.say)
        saved = position
        tensorboard = out / "tensorboard" if train.tensorboard else None
        trace = out / "metrics.jsonl"
        metrics = MetricsLog(trace, step=position.step, validated=position.validated, tensorboard=tensorboard)
        generator = torch.Generator(device)
        start = time.monotonic() - metrics.seconds  # as if all sessions had been one
        clips, busy = 0, 0.0

        def due(every: int) -> bool:
            return bool(every and position.step and (position.step % every == 0 or position.step >= train.steps))

        model.train()
        with metrics, progress.running(start=position.step):
            while True:
                step, finished = position.step, position.step >= train.steps

                # First what is owed at this step; a run that was stopped in the middle of it pays it on its return.
                if validation_batches and due(train.validate_every) and position.validated < step and not stop:
                    with evaluating(model, ema):
                        scores = validate(model, validation_batches(), device=device, seed=config.seed, stop=stop)
                    if scores is not None:
                        seconds = time.monotonic() - start
                        metrics.write({"step": step, **{f"val/{k}": v for k, v in scores.items()}, "seconds": seconds})
                        position = _judge(position, scores, key=model.validation_key, say=progress.say)

                # A stop that comes later than here waits for the next time round: what is left unsaved is never left.
                ending = finished or bool(stop)
                if (due(train.checkpoint_every) or ending or position.best_step == step) and position != saved:
                    metrics.sync()
                    tensors = {"model": model.state_dict(), "optimizer": optimizer_tensors(model, optimizer)}
                    tensors |= {"ema": ema.average} if ema else {}
                    state = dataclasses.asdict(position) | {"config": config_hash(config)}
                    checkpoint.save(checkpoints, state, tensors, keep=train.keep_checkpoints)
                    saved = position

                if preview and due(train.sample_every) and not stop:
                    (out / "samples").mkdir(exist_ok=True)
                    with evaluating(model, ema):
                        preview(model, out / "samples" / f"step-{step}.png")

                if ending:
                    break

                # Then one update: `accumulate` micro-steps, each with randomness of its own number.
                began, lr = time.monotonic(), lr_at(step, train)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                sums: dict[str, torch.Tensor] = {}
                micro_steps = range(step * train.accumulate * world + rank, (step + 1) * train.accumulate * world, world)
                for micro_step in micro_steps:
                    torch.manual_seed(seed_of(config.seed, "dropout", micro_step))
                    generator.manual_seed(seed_of(config.seed, "loss", micro_step))
                    batch = train_batch(micro_step).to(device)
                    with autocast(device, train.precision):
                        terms = model.loss(batch, generator=generator)
                    (terms["loss"] / train.accumulate).backward()
                    for name, term in terms.items():
                        sums[name] = sums.get(name, 0) + term.detach().float() / train.accumulate
                    clips += len(batch) * world

                parameters = [p for p in model.parameters() if p.grad is not None]
                grad_norm = nn.utils.get_total_norm([p.grad for p in parameters])
                values = dict(zip([*sums, "grad_norm"], torch.stack([*sums.values(), grad_norm]).tolist()))
                _expect_finite(values, step=step + 1, micro_steps=micro_steps, kept=saved.step)
                if train.clip_norm:
                    nn.utils.clip_grads_with_norm_(parameters, train.clip_norm, grad_norm)
                optimizer.step()
                optimizer.zero_grad()
                if ema:
                    ema.update(model, step + 1)
                position = dataclasses.replace(position, step=step + 1)

                busy += time.monotonic() - began
                progress.advance(step + 1)
                if (step + 1) % train.log_every == 0 or step == 0:
                    pace = {"seconds": time.monotonic() - start, "clips_per_second": clips / busy}
                    metrics.write({"step": step + 1, **values, "lr": lr, **pace})
                    progress.show(step + 1, loss=values["loss"], lr=lr, clips_per_second=pace["clips_per_second"])
                    clips, busy = 0, 0.0

        if stop.signal:
            name = signal.Signals(stop.signal).name
            progress.say(f"{name}: stopped after step {position.step}, everything saved; run again to continue")
        return FitResult(position.step, position.best, time.monotonic() - start, stop.signal)


def _judge(position: Position, scores: dict[str, float], *, key: str, say: Callable[[str], None]) -> Position:
    """The position after a validation: best or not."""
    if key not in scores:
        raise ValueError(f"the model's validation_key {key!r} is none of its scores: {', '.join(scores)}")
    score = scores[key]
    better = math.isfinite(score) and (position.best is None or score < position.best)
    listed = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
    say(f"step {position.step}: validation  {listed}{f'  (best {key} so far)' if better else ''}")
    best_step, best = (position.step, score) if better else (position.best_step, position.best)
    return Position(step=position.step, validated=position.step, best_step=best_step, best=best)


def _restore(
    checkpoints: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: Ema | None,
    *,
    config: RunConfig,
    say: Callable[[str], None],
) -> Position:
    """Load the newest whole checkpoint into model, optimiser and average; without one the run starts at step 0."""
    folder = checkpoint.newest(checkpoints, say=say)
    if folder is None:
        return Position()
    state, tensors = checkpoint.load_state(folder), checkpoint.load_tensors(folder)
    if state.pop("config") != config_hash(config):
        raise ValueError(f"{folder}: was trained with another configuration than config.toml; choose another folder")
    checkpoint.expect_same(tensors["model"], model.state_dict(), where=folder / "model.safetensors")
    model.load_state_dict(tensors["model"])
    load_optimizer_tensors(model, optimizer, tensors["optimizer"])
    if ema:
        ema.load(tensors["ema"])
    position = Position(**state)
    if position.best_step:
        try:
            checkpoint.verify(checkpoints / f"step-{position.best_step}")
        except ValueError as error:
            say(f"WARNING: {error}; the best checkpoint is lost, the next validation chooses a new one")
            position = dataclasses.replace(position, best_step=0, best=None)
    checkpoint.point(checkpoints, dataclasses.asdict(position))
    say(f"continuing from {folder}")
    return position


def _expect_finite(values: dict[str, float], *, step: int, micro_steps: range, kept: int) -> None:
    """Stop before a step that would spoil the weights."""
    wrong = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        batches = ", ".join(map(str, micro_steps))
        kept_text = f"checkpoint step-{kept} is untouched" if kept else "no checkpoint was written yet"
        raise ValueError(
            f"step {step} (batches {batches}): {', '.join(wrong)}; stopped, {kept_text}; lower train.lr or check the data"
        )
