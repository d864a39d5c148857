"""What do the engine and several processes cost, and give?   python benchmarks/processes.py

One training, Masked-HWM's tiny twin on made-up tokens, 32 clips a step in two micro-batches, computed in several ways; each
way is a job of its own.  The reference is a bare loop: loss, backward, AdamW, no checkpoints, no checks, one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import machine
from hwm.contracts import Batch
from hwm.model_config import MaskedConfig
from hwm.models.build import build_model
from hwm.recipes import recipe
from hwm.training.loop import fit
from hwm.training.processes import STALE_STORE, joined

STEPS, WINDOW = 40, 5
CONFIG = recipe("masked-hwm-base-tiny")
assert isinstance(CONFIG.model, MaskedConfig)
WAYS = {
    "bare loop, 1 thread": (0, 1, {}),
    "one process, 1 thread": (1, 1, {}),
    "one process, 2 threads": (1, 2, {}),
    "one process, 1 thread, recomputed": (1, 1, {"recompute": True}),
    "two processes of 1 thread, ddp": (2, 1, {"parallel": "ddp"}),
    "two processes of 1 thread, fsdp": (2, 1, {"parallel": "fsdp"}),
}


def clips(number: int) -> Batch:
    model, generator = CONFIG.model, torch.Generator().manual_seed(number)
    assert isinstance(model, MaskedConfig)
    shape = (16, model.context_grids + model.future_grids, *model.grid)
    tokens = torch.randint(model.vocab_size, shape, generator=generator)
    return Batch(torch.randn(16, model.num_states, 25, generator=generator), tokens_BTHW=tokens)


def bare(out: Path) -> None:
    """The reference; writes the same lines."""
    model = build_model(CONFIG).train()
    optimizer, generator = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True), torch.Generator().manual_seed(0)
    lines, began = [], time.monotonic()
    for step in range(STEPS):
        for micro_step in (2 * step, 2 * step + 1):
            (model.loss(clips(micro_step), generator=generator)["loss"] / 2).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % WINDOW == 0:
            lines.append({"clips_per_second": 32 * WINDOW / (time.monotonic() - began)})
            began = time.monotonic()
    (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def job(way: str, out: Path) -> None:
    """One of a way's processes."""
    count, threads, settings = WAYS[way]
    torch.set_num_threads(threads)
    if not count:
        bare(out)
    else:
        fields = {"steps": STEPS, "batch_size": 16, "accumulate": 2, "log_every": WINDOW, "validate_every": 0, "sample_every": 0}
        fields |= {"checkpoint_every": 0, "ema": 0.0, "threads": threads, "device": "cpu"}
        config = replace(CONFIG, train=replace(CONFIG.train, **fields, **settings))
        with joined(device="cpu", timeout=120) as processes:
            fit(build_model(config), config, out, train_batch=clips, log=lambda line: None, processes=processes)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    (out / f"peak-{os.environ.get('RANK', 0)}").write_text(str(peak))
    os._exit(0)


def run(way: str) -> tuple[float, float]:
    """Clips a second, median over windows after the first, and the largest process's peak memory in GB."""
    count = WAYS[way][0]
    with tempfile.TemporaryDirectory() as folder:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] if count > 1 else []
        environment = os.environ | {"OMP_NUM_THREADS": str(WAYS[way][1]), STALE_STORE: "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
        subprocess.run([sys.executable, *launcher, __file__, "--job", way, folder], env=environment, check=True)
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
        speed = statistics.median([line["clips_per_second"] for line in lines if "clips_per_second" in line][1:])
        return speed, max(float(path.read_text()) for path in Path(folder).glob("peak-*"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--job", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        return job(arguments.job[0], Path(arguments.job[1]))
    print(machine())
    found = {way: [run(way) for _ in range(arguments.repeats)] for way in WAYS}
    reference = statistics.median(speed for speed, _ in found["bare loop, 1 thread"])
    print(f"\n| way | clips/s | against the bare loop | peak GB a process |\n|{'---|' * 4}")
    for way, results in found.items():
        speeds = [speed for speed, _ in results]
        ratios = [speed / reference for speed in speeds]
        middle = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
        print(f"| {way} | {statistics.median(speeds):.1f} | {middle} | {max(peak for _, peak in results):.2f} |")
    return None


if __name__ == "__main__":
    main()
