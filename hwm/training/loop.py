"""The training loop: one function, top to bottom, the same for every model and every place it runs.

A run is a pure function of its configuration.  Batch, dropout and every other random number of a step come from
(seed, step), never from a generator that lives on; so a run that was stopped, killed or moved continues bit for bit
as if nothing had happened, and a checkpoint needs to hold no random state.

    OUT/config.toml   OUT/metrics.jsonl   OUT/checkpoints/step-N/   OUT/samples/step-N.png   OUT/DONE

Several processes (processes.joined) deal the micro-steps of a step out among themselves; what is learned does not depend
on their number.
"""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

import hwm
from hwm.config import RunConfig, TrainConfig
from hwm.contracts import Batch
from hwm.training import checkpoint
from hwm.training.device import choose_device, cpu_threads, own_randomness
from hwm.training.identity import Identity, expect_same, record
from hwm.training.learner import Learner
from hwm.training.optim import lr_at
from hwm.training.processes import ALONE, Processes, under_launcher
from hwm.training.run_folder import DONE, MetricsLog, mark_done, read_done, settle
from hwm.work.allowance import usable_cores
from hwm.work.claim import Kept, claimed
from hwm.work.files import write_picture
from hwm.work.progress import Counter, rate
from hwm.work.signals import StopFlag

SAVE_SECONDS = 600.0
"""Since the last checkpoint, after which there is another, however few steps were made: no kill costs more."""
LEAVING = 30.0
"""Seconds that a launcher's processes wait for one of the last attempt that is still saving."""


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


@dataclass
class Fall:
    """Notices that training has become much slower than it was at first, as two threads do that fight for a core."""

    first: float = 0.0
    windows: int = 0
    slow: int = 0

    def deep(self, rate: float) -> bool:
        """Whether that many clips/s are, for the second time on end, less than a third of the best of the first five times."""
        self.windows += 1
        if self.windows <= 5:
            self.first = max(self.first, rate)
        self.slow = self.slow + 1 if rate < self.first / 3 else 0
        return self.slow == 2

    def text(self, rate: float) -> str:
        """What is said then."""
        load, cores, threads = os.getloadavg()[0], usable_cores(), torch.get_num_threads()
        told = f"WARNING: {rate:.3g} clips/s, at first {self.first:.3g}; the load is {load:.1f} on {cores} cores"
        remedy = f", or stop this and go on with --set train.threads={max(1, threads // 2)}" if threads > 1 else ""
        return f"{told}: end other programs{remedy}" if load > cores else f"{told}: see what else slows the machine down"


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
    model: Any, config: RunConfig, out: str | Path,
    *, train_batch: Callable[[int], Batch], validation_batches: Sequence[Batch] | None = None,
    preview: Callable[[nn.Module], Image.Image] | None = None, log: Callable[[str], None] | None = None,
    processes: Processes = ALONE, identity: Identity = {},  # noqa: B006
    settled: Callable[[], None] = lambda: None,
) -> FitResult:
    """Train a model (nn.Module and contracts.WorldModel), or continue the run that `out` holds.

    config: `config.train` and `config.seed` are what the loop reads; the whole is stored with the run.
    train_batch: the batch of micro-step i, a pure function of i.  validation_batches: all validation clips, in order.
    preview: draws a picture of what the model predicts; None where it cannot be seen, which is said where some were asked for.
    log: receives plain progress lines; None: a bar on a terminal, printed lines elsewhere.
    processes: those that train together, from `processes.joined`; all of them call `fit` alike and share the micro-steps.
    identity: what is learned from; a run that goes on must have the same.
    settled: called by the first process when the folder is this run's, before it learns.

    Raises ValueError, always one line, if the folder is in use or holds a run with another configuration, no
    checkpoint in it is whole, the disk is full, or loss or gradient stop being finite.  The last checkpoint stays.
    """
    train, out = config.train, Path(out)
    if train.validate_every and validation_batches is None:
        raise ValueError("there are no validation clips: give --val FOLDER (data.val), or --set train.validate_every=0")
    if done := processes.on_first(lambda: dataclasses.asdict(found) if (found := already_done(out, config, identity)) else None):
        return FitResult(**done)

    device = choose_device(train.device)
    progress = Counter("training", unit="step", log=log if processes.first else lambda line: None)
    computing = ExitStack()
    with held(out, processes, say=progress.say) as expect_there, StopFlag() as stop, computing:
        computing.enter_context(cpu_threads(train.threads))
        computing.enter_context(own_randomness(device))
        processes.on_first(lambda: settle(out, config, identity))
        processes.on_first(settled)
        if train.sample_every and preview is None:
            progress.say("no pictures are drawn while training: they take held-out data (--val) and a tokenizer (--tokenizer)")
        learner = Learner(model, config, device=device, processes=processes)

        # Continue from the newest whole checkpoint, if there is one.
        checkpoints = out / "checkpoints"
        position = _restore(checkpoints, learner, config=config, identity=identity, say=progress.say, processes=processes)
        saved, saved_at = position, time.monotonic()
        metrics = _open_metrics(out, train, position) if processes.first else None
        start = time.monotonic() - (metrics.seconds if metrics else 0.0)  # as if all sessions had been one
        clips, busy, fall = 0, 0.0, Fall()

        def due(every: int) -> bool:
            return bool(every and position.step and (position.step % every == 0 or position.step >= train.steps))

        def overdue() -> bool:
            """Whether the first process finds it long since the last checkpoint; asked now and then, for all must agree."""
            asked = processes.world == 1 or position.step % train.log_every == 0
            return asked and train.checkpoint_every > 0 and position != saved and processes.on_first(
                lambda: time.monotonic() - saved_at > SAVE_SECONDS
            )

        model.train()
        progress.start = position.step
        with metrics or nullcontext(), progress:
            while True:
                step, finished = position.step, position.step >= train.steps
                stop.saving = position != saved
                stopping = processes.any(stop)

                # First what is owed at this step; a run that was stopped in the middle of it pays it on its return.
                if validation_batches is not None and due(train.validate_every) and position.validated < step and not stopping:
                    with learner.evaluating():
                        scores = learner.validate(validation_batches, stop=stop)
                    if scores is not None:
                        if metrics:
                            seconds = time.monotonic() - start
                            metrics.write({"step": step, **{f"val/{k}": v for k, v in scores.items()}, "seconds": seconds})
                        position = _judge(position, scores, key=model.validation_key, say=progress.say)
                    stopping = processes.any(stop)

                # A stop that comes later than here waits for the next time round: what is left unsaved is never left.
                ending = finished or stopping
                if (due(train.checkpoint_every) or ending or position.best_step == step or overdue()) and position != saved:
                    expect_there()
                    if metrics:
                        metrics.sync()
                    state = dataclasses.asdict(position) | record(config, identity)
                    checkpoint.save(checkpoints, state, learner.tensors(), keep=train.keep_checkpoints, processes=processes)
                    saved, saved_at = position, time.monotonic()

                if preview and due(train.sample_every) and not stopping:
                    with learner.evaluating():
                        picture = preview(model)
                    if processes.first:
                        write_picture(out / "samples" / f"step-{step}.png", picture)

                if ending:
                    break

                # Then one update: `accumulate` micro-steps, each with randomness of its own number, dealt out in turns.
                began, lr = time.monotonic(), lr_at(step, train)
                values = learner.gradients(step, train_batch, stop=stop)
                if values is None:  # stopped between two micro-steps: the step is taken again, whole
                    continue
                _expect_finite(values, step=step, accumulate=train.accumulate, kept=saved.step)
                learner.update(lr, number=step + 1)
                position = dataclasses.replace(position, step=step + 1)
                processes.after_first_step()

                clips += train.batch_size * train.accumulate
                busy += time.monotonic() - began
                progress.move(step + 1, train.steps)
                if (step + 1) % train.log_every == 0 or step == 0:
                    expect_there()
                    pace = {"seconds": time.monotonic() - start, "clips_per_second": rate(clips, busy)}
                    if metrics:
                        metrics.write({"step": step + 1, **values, "lr": lr, **pace})
                    text = f"loss {values['loss']:.4f}  lr {lr:.2e}  {pace['clips_per_second']:.1f} clips/s"
                    progress.show(step + 1, train.steps, text)
                    if step and fall.deep(pace["clips_per_second"]):
                        progress.say(fall.text(pace["clips_per_second"]))
                    clips, busy = 0, 0.0

        signals = [number for number in processes.gather(stop.signal) if number]
        seconds = time.monotonic() - start
        if not stopping:
            expect_there()
            processes.on_first(lambda: mark_done(out, config, identity, step=position.step, best=position.best, seconds=seconds))
            return FitResult(position.step, position.best, seconds)
        progress.say(
            f"{signal.Signals(signals[0]).name}: stopped after step {position.step}, everything saved; run again to continue"
        )
        return FitResult(position.step, position.best, seconds, signals[0])


def already_done(out: Path, config: RunConfig, identity: Identity) -> FitResult | None:
    """How a run ended that is complete and whose last checkpoint is whole; None of any other."""
    done = read_done(out, config, identity)
    if done is None:
        return None
    try:
        checkpoint.verify(out / "checkpoints" / f"step-{done['step']}")
    except ValueError:
        return None  # the usual way reports it and trains again what was lost
    return FitResult(done["step"], done["best"], done["seconds"])


@contextmanager
def held(out: Path, processes: Processes, *, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """The run folder, for these processes: the first one locks it and clears what a killed one left.

    Yields what raises ValueError in all of them once the folder was removed.
    """
    kept: list[Kept] = []
    with ExitStack() as stack:

        def claim() -> None:
            kept.append(stack.enter_context(claimed(out, say=say, patience=LEAVING if under_launcher() else 0.0)))
            (out / DONE).unlink(missing_ok=True)
            checkpoint.clean(out / "checkpoints")

        processes.on_first(claim)
        yield lambda: processes.on_first(lambda: kept[0].expect_there())


def _open_metrics(out: Path, train: TrainConfig, position: Position) -> MetricsLog:
    tensorboard = out / "tensorboard" if train.tensorboard else None
    return MetricsLog(out / "metrics.jsonl", step=position.step, validated=position.validated, tensorboard=tensorboard)


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
    checkpoints: Path, learner: Learner,
    *, config: RunConfig, identity: Identity, say: Callable[[str], None], processes: Processes,
) -> Position:
    """Load the newest whole checkpoint into the learner; without one the run starts at step 0.

    It may have been written by any number of processes.
    """
    name = processes.on_first(lambda: folder.name if (folder := checkpoint.newest(checkpoints, say=say)) else None)
    since, steps = config.train.since, config.train.steps
    if name is None:
        if since:
            raise ValueError(f"train.since = {since}: there is no run of so many steps to prolong; leave train.since away")
        return Position()
    folder = checkpoints / name
    state, stored = checkpoint.load_state(folder), checkpoint.stored(folder)
    expect_same(state, config, identity, run=checkpoints.parent)
    if (version := state["identity"].get("hwm", hwm.__version__)) != hwm.__version__:
        say(f"{folder}: was trained by hwm {version}, this is {hwm.__version__}")
    learner.load(stored, where=folder)
    position = Position(state["step"], state["validated"], state["best_step"], state["best"])
    if position.step < since:
        raise ValueError(f"{folder}: is of before step {since}, from which the run was prolonged; complete it first with "
                         f"--set train.steps={since}")  # fmt: skip
    if position.step == since and since:
        rise = f"rises to {config.train.lr:g} and falls to 0 again"
        say(f"prolonged: the run was complete at step {since}; until step {steps} its learning rate {rise}")

    def settle_best() -> bool:
        kept = bool(position.best_step)
        try:
            if kept:
                checkpoint.verify(checkpoints / f"step-{position.best_step}")
        except ValueError as error:
            say(f"WARNING: {error}; the best checkpoint is lost, the next validation chooses a new one")
            kept = False
        checkpoint.point(checkpoints, dataclasses.asdict(position) | ({} if kept else {"best_step": 0}))
        return kept

    if not processes.on_first(settle_best):
        position = dataclasses.replace(position, best_step=0, best=None)
    say(f"continuing from {folder}")
    return position


def _expect_finite(values: dict[str, float], *, step: int, accumulate: int, kept: int) -> None:
    """Stop before a step, counted from 0, that would spoil the weights."""
    wrong = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        batches = ", ".join(map(str, range(step * accumulate, (step + 1) * accumulate)))
        kept_text = f"checkpoint step-{kept} is untouched" if kept else "no checkpoint was written yet"
        raise ValueError(
            f"step {step + 1} (batches {batches}): {', '.join(wrong)}; stopped, {kept_text}; lower train.lr or check the data"
        )
