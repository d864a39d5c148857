"""The whole line in minutes on a laptop: simulate, tokenize, train from scratch, evaluate in unseen rooms, report."""

from __future__ import annotations

import json
import time
from pathlib import Path

from hwm.apply import evaluate_run, predict_video
from hwm.config import RunConfig, override
from hwm.evaluate.protocols import Scoring
from hwm.evaluate.report import text_table
from hwm.evaluate.scores import Scores
from hwm.prepare import encoded, simulated
from hwm.recipes import recipe
from hwm.runs import train
from hwm.work.workers import usable_cores

MINUTES = 7.5
"""Robot time simulated for training: what two cores render in about two and a half minutes."""
VALIDATION_SHARE = 1 / 5
"""Robot time of each validation set, as a share of the training set's."""
PHASES = 4
"""First frames from which the training set is cut into blocks."""
CLIPS = 128


def run_demo(out: Path, *, minutes: float = 0.0, seed: int = 0, workers: int = 0, steps: int = 0, size: int = 64) -> int:
    """Run all stages in folder `out`, each where it was left, and print the table.  Returns the exit code."""
    started = time.monotonic()
    workers = workers or usable_cores()
    config = _config(out, seed=seed, steps=steps, size=size)

    _say(1, "simulating a humanoid at work in furnished rooms")
    minutes = minutes or MINUTES
    raw = simulated(
        out / "raw", minutes=minutes, val_minutes=minutes * VALIDATION_SHARE, size=size, seed=seed, workers=workers
    )

    _say(2, f"tokenizing with {config.tokenizer}")
    tokens = encoded(raw, out / "tokens", tokenizer=config.tokenizer, phases=PHASES, workers=workers)

    _say(3, "training st-demo from scratch")
    result = train(config, out / "run")
    if result.stopped:
        print("stopped and saved; the same command goes on from there")
        return 143

    _say(4, "evaluating in rooms never seen in training")
    video = raw / f"{tokens.test.name}_raw"
    scoring = Scoring(clips=CLIPS, seed=seed)
    scores = evaluate_run(out / "run", scoring, data=tokens.test, video=video, out=out, command="hwm demo")
    predict_video(out / "run", data=tokens.test, out=out / "rollout.mp4")
    _print_outcome(scores, out, seconds=time.monotonic() - started)
    return 0


def _config(out: Path, *, seed: int, steps: int, size: int) -> RunConfig:
    train_set, held_out = out / "tokens/train_v2.0", out / "tokens/val_v2.0"
    changes = [
        f"seed={seed}",
        f"model.grid=[{size // 8}, {size // 8}]",
        f"data.train={json.dumps(str(train_set))}",
        f"data.val={json.dumps(str(held_out))}",
    ]
    return override(recipe("st-demo"), changes + [f"train.steps={steps}"] * bool(steps))


def _say(number: int, what: str) -> None:
    print(f"\n[{number}/4] {what}", flush=True)


def _print_outcome(scores: Scores, out: Path, *, seconds: float) -> None:
    print()
    print(text_table(scores))
    print(f"\n{seconds / 60:.1f} minutes.  Report: {out / 'report.html'}   rollout: {out / 'rollout.mp4'}")
