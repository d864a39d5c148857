"""A complete training of a tiny ST-Transformer on made-up clips, for the tests and, as a script, for their kills.

    python tests/training/tiny_training.py OUT [key=value ...]      (also under torchrun)
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hwm.config import RunConfig, TrainConfig, override
from hwm.contracts import Batch
from hwm.model_config import STConfig
from hwm.models.st_transformer import STTransformer
from hwm.training import checkpoint
from hwm.training.identity import record
from hwm.training.learner import Learner
from hwm.training.loop import FitResult, _restore, fit
from hwm.training.processes import joined
from hwm.work.signals import stop_with_parent

MODEL = STConfig(vocab_size=32, grid=(2, 2), num_layers=1, num_heads=2, width=16, mlp_ratio=2, state_hidden=16, num_states=34)
CONFIG = RunConfig(
    model=MODEL,
    train=TrainConfig(
        steps=12, batch_size=2, accumulate=2, lr=1e-2, warmup_steps=3, ema=0.9, log_every=1, checkpoint_every=3,
        validate_every=4, threads=1, device="cpu",
    ),
)  # fmt: skip


def clips(name: int, count: int = 2) -> Batch:
    """Clips that are a pure function of their number; each grid continues the one before, so there is something to learn."""
    generator = torch.Generator().manual_seed(name)
    first = torch.randint(32, (count, 1, 2, 2), generator=generator)
    states = torch.randn(count, 34, 25, generator=generator)
    return Batch(states_BFA=states, tokens_BTHW=(first + torch.arange(6)[:, None, None]) % 32)


def build(config: RunConfig = CONFIG) -> STTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        assert isinstance(config.model, STConfig)
        return STTransformer(config.model)


VALIDATION = (clips(1_000_000, count=3), clips(1_000_001, count=1))


def run(out: Path, *changes: str, **options: Any) -> FitResult:
    """Train with dotted changes of CONFIG; options replace those of `fit`."""
    config = override(CONFIG, list(changes))
    options = {"train_batch": clips, "validation_batches": VALIDATION, "log": lambda line: None} | options
    return fit(options.pop("model", None) or build(config), config, out, **options)


def stopping_at(micro_step: int, number: int = signal.SIGTERM, *, source: Callable[[int], Batch] = clips) -> Any:
    """`source` that sends this process a signal when it is asked for that micro-step."""

    def train_batch(index: int) -> Batch:
        if index == micro_step:
            os.kill(os.getpid(), number)
        return source(index)

    return train_batch


def trace(out: Path) -> list[dict[str, Any]]:
    """The lines of the log without what is of the clock."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "clips_per_second", "crc32")} for line in lines]


def checkpoint_bytes(out: Path) -> dict[str, bytes]:
    """Every byte under checkpoints, by path."""
    folder = out / "checkpoints"
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def among_others(out: Path, *changes: str) -> FitResult:
    """Train as one of several processes, slowly enough to be disturbed."""

    def slow_clips(index: int) -> Batch:
        time.sleep(float(os.environ.get("SECONDS_A_BATCH", "0.005")))
        return clips(index)

    timeout = next((float(change.partition("=")[2]) for change in changes if change.startswith("train.timeout=")), 120.0)
    with joined(device="cpu", timeout=timeout) as processes:
        return run(out, *changes, train_batch=slow_clips, log=lambda line: print(line, flush=True), processes=processes)


def resaved(source: Path, target: Path, parallel: str) -> None:
    """Load the newest checkpoint of a run of three steps and save it again, as one of several processes."""
    torch.set_num_threads(1)
    config = override(CONFIG, ["train.steps=3", f"train.parallel={parallel}"])
    with joined(device="cpu", timeout=60) as processes:
        model = build()
        with torch.no_grad():  # what is not loaded shows
            for parameter in model.parameters():
                parameter.add_(1.0)
        learner = Learner(model, config, device=torch.device("cpu"), processes=processes)
        place = source / "checkpoints"
        position = _restore(place, learner, config=config, identity={}, say=lambda line: None, processes=processes)
        state = asdict(position) | record(config, {}) | {"best_step": 0}
        checkpoint.save(target / "checkpoints", state, learner.tensors(), keep=1, processes=processes)


if __name__ == "__main__":
    stop_with_parent()
    result = among_others(Path(sys.argv[1]), *sys.argv[2:])
    sys.stdout.flush()
    os._exit(128 + result.signal if result.signal else 0)
