"""The recipe against the machine, by arithmetic: settings that training would refuse, memory, disk."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from hwm.config import RunConfig, from_toml
from hwm.doctor.costs import WORKSPACE, RecipeCosts
from hwm.doctor.machine import free_memory
from hwm.doctor.place import existing
from hwm.doctor.units import size
from hwm.doctor.verdict import Verdict, fail, graded, ok
from hwm.model_config import FSQConfig
from hwm.training.device import choose_device
from hwm.training.run_folder import config_hash

SPARE = 0.9
"""Share of the free memory that arithmetic may claim before it is called tight."""


def settings(config: RunConfig, out: Path) -> Iterator[Verdict]:
    """Settings that `hwm train` would refuse, or that would keep nothing."""
    train, pictures = config.train, bool(config.tokenizer) or isinstance(config.model, FSQConfig)
    wrong: list[tuple[str, str]] = []
    if train.sample_every and not pictures:
        wrong.append(("pictures are asked for without a tokenizer", "--set tokenizer=NAME, or train.sample_every=0"))
    if config.data.train and train.validate_every and not config.data.val:
        wrong.append(("validation is asked for without held-out data", "give --val FOLDER, or --set train.validate_every=0"))
    if (out / "config.toml").is_file() and config_hash(from_toml(RunConfig, out / "config.toml")) != config_hash(config):
        wrong.append((f"{out} holds a run with other settings", "choose another folder with --out, or continue it as it is"))
    for found, remedy in wrong:
        yield fail("settings", found, remedy)
    if not wrong:
        sizes = f"{train.steps} steps of {train.batch_size} x {train.accumulate} clips"
        yield ok("settings", f"{config.recipe}: {sizes}, {train.precision}")


def device_memory(config: RunConfig) -> float:
    """Free bytes on the device that training would choose."""
    device = choose_device(config.train.device)
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()


def memory(costs: RecipeCosts, *, free: float, nproc: int = 1) -> Verdict:
    """Weights, gradients, optimiser and activations by arithmetic against `free` bytes of the device.

    On a CPU all processes share the memory; `free` is then that of all of them.
    """
    train, state = costs.config.train, costs.state
    on_cpu = choose_device(train.device).type == "cpu"
    each = free / nproc if on_cpu else free
    shares = nproc if train.parallel == "fsdp" else 1
    saved = WORKSPACE * state.total * (1 - 1 / shares)
    needed = costs.memory(train.batch_size) - saved
    activations = needed - WORKSPACE * state.total / shares
    found = f"{state.parameters / 1e6:.2f} M parameters; about {size(needed)} wanted"
    found += f" (state {size(state.total / shares)}, activations {size(activations)}), {size(each)} free"
    found += f" for each of {nproc} processes" if nproc > 1 else ""
    if needed <= SPARE * each:
        return ok("training memory", found)
    remedy = smaller(costs, each=SPARE * each + saved, nproc=nproc)
    return graded("training memory", found, remedy, fails=needed > each, warns=True)


def smaller(costs: RecipeCosts, *, each: float, nproc: int = 1) -> str:
    """How the recipe could fit into `each` bytes."""
    clips = costs.clips
    ways: list[str] = []
    batch = _divisor(clips, costs.largest(each))
    if batch:
        return f"--set train.batch_size={batch} train.accumulate={clips // batch} (the same {clips} clips a step)"
    recomputed = _divisor(clips, costs.largest(each, costs.checkpointed)) if costs.checkpointed else 0
    if recomputed and costs.step is not costs.checkpointed:
        return f"--set train.recompute=true train.batch_size={recomputed} train.accumulate={clips // recomputed}"
    if costs.memory(0) > each:
        enough = math.ceil(WORKSPACE * costs.state.total / (0.5 * each))
        ways.append(f'--set train.parallel="fsdp" on {max(enough, 2 * nproc)} GPUs like this')
    ways.append(f"a device with {size(1.1 * costs.memory(1))} free")
    ways.append("a smaller recipe of the family (`hwm recipes`)")
    return ", or ".join(ways)


def _divisor(clips: int, most: int) -> int:
    """The largest divisor of `clips` that is at most `most`; 0 if there is none."""
    return next((n for n in range(min(most, clips), 0, -1) if clips % n == 0), 0)


def checkpoint_bytes(costs: RecipeCosts) -> int:
    """Of one checkpoint: what is trained with moments and average; a frozen base is not stored again."""
    state = costs.state
    frozen = 0 if getattr(costs.config.model, "lora_rank", 0) else state.frozen_weights
    return state.trained_weights + state.moments + state.average + frozen


def disk(costs: RecipeCosts, out: Path, *, free: float | None = None) -> Verdict:
    """Checkpoints of the run against the free space at `out`: those kept, the best, and the one being written."""
    one, kept = checkpoint_bytes(costs), costs.config.train.keep_checkpoints + 2
    free = shutil.disk_usage(existing(out)).free if free is None else free
    found = f"{kept} checkpoints of {size(one)} are {size(one * kept)}, {size(free)} free"
    remedy = "free some space, choose another disk with --out, or --set train.keep_checkpoints=1"
    return graded("checkpoints' disk", found, remedy, fails=one * kept > free, warns=one * kept > free / 2)
