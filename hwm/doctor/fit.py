"""The recipe against the machine and the data: settings that training would refuse, memory, disk, and the clips.

Data: sound, fitting, enough, held-out data really held out, states that say something.
"""

import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hwm.clock import EACH_FRAME
from hwm.config import RunConfig
from hwm.data.clips import Clips
from hwm.data.dataset import Dataset
from hwm.data.describe import check, state_statistics
from hwm.data.onex import open_dataset
from hwm.doctor.costs import WORKSPACE, RecipeCosts
from hwm.doctor.machine import LEAST_FILES, open_files
from hwm.doctor.rebuild import rebuilding
from hwm.doctor.verdict import Verdict, count, fail, graded, ok, size, warn
from hwm.runs import Folders, open_clips
from hwm.tokenizers.open import open_tokenizer, own_names
from hwm.training.checkpoint import newest_state
from hwm.training.device import choose_device
from hwm.training.identity import expect_same, meaning_of
from hwm.training.run_folder import taken_up
from hwm.work.files import existing

SPARE = 0.9
"""Share of the free memory that arithmetic may claim before it is called tight."""
ROWS = 100_000
"""State rows read at a time."""
LEAKED, SUSPICIOUS = 0.5, 0.01
"""Shares of held-out state rows found in the training data that fail, and that are warned of."""
STILL = 1e-3
"""Standard deviation, in a state's own unit, below which it says nothing (as `robot.normalisation` takes it)."""
FAR = 20.0
"""Published standard deviations by which a mean may lie off, or factor between deviations, before units are doubted."""


def settings(config: RunConfig, out: Path) -> Iterator[Verdict]:
    """Settings that `hwm train` would refuse, or that would keep nothing."""
    train, pictures = config.train, bool(config.tokenizer) or config.model.kind == "video"
    wrong: list[tuple[str, str]] = []
    if train.sample_every and not pictures:
        remedy = "--set train.sample_every=0" + ("" if config.data.clip == "frames" else ", or tokenizer=NAME")
        yield warn("pictures", "are asked for without a tokenizer, and left out", remedy)
    if config.data.train and train.validate_every and not config.data.val:
        wrong.append(("validation is asked for without held-out data", "give --val FOLDER, or --set train.validate_every=0"))
    if (state := newest_state(out / "checkpoints")) is not None:
        try:
            expect_same(state, taken_up(config, out, prolong=True), {}, run=out)
        except ValueError as error:
            wrong.append((str(error), "choose another folder with --out, or continue it as it is"))
    for found, remedy in wrong:
        yield fail("settings", found, remedy)
    if not wrong:
        sizes = f"{train.steps} steps of {train.batch_size} x {train.accumulate} clips"
        yield ok("settings", f"{config.recipe}: {sizes}, {train.precision}")


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


@dataclass
class Given:
    """The clips that were opened so far."""

    train: Clips | None = None
    val: Clips | None = None


def sound(name: str, folder: str, *, quick: bool) -> Iterator[Verdict]:
    """Every byte of a dataset, or only names, counts and sizes of its files."""
    if quick:
        dataset = open_dataset(folder)
        yield ok(name, f"{folder}: {count(len(dataset.shards), 'shard')}, {dataset.num_frames} frames, not every byte read")
        return
    findings = check(folder).findings
    errors, warnings = ([f for f in findings if f.severity == kind] for kind in ("error", "warning"))
    remedy = "fetch or write these files again; `hwm data check` lists all"
    if errors:
        yield fail(name, f"{count(len(errors), 'error')}, the first in {errors[0].file}: {errors[0].message}", remedy)
    elif warnings:
        yield warn(name, f"{count(len(warnings), 'warning')}, the first in {warnings[0].file}: {warnings[0].message}", remedy)
    else:
        dataset = open_dataset(folder)
        yield ok(name, f"{folder}: {count(len(dataset.shards), 'shard')}, {dataset.num_frames} frames, every byte read")


def fits(config: RunConfig, given: Given, *, training: bool) -> Iterator[Verdict]:
    """Whether clips are of the model's kind and sizes, how many there are, and how often a run sees each."""
    folder: Folders
    folder, name = (config.data.train, "training clips") if training else (config.data.val, "held-out clips")
    like = {} if training or given.train is None else meaning_of(given.train.dataset)
    clips = open_clips(config, folder, training=training, identity=like)
    if not training:
        given.val = clips
        wanted = min(config.train.validate_clips, len(clips))
        yield ok(name, f"{len(clips)}, of which {wanted} are scored at a validation")
        return
    given.train = clips
    train, seen = config.train, config.train.batch_size * config.train.accumulate
    found = f"{len(clips)}; {train.steps} steps of {seen} see each {train.steps * seen / len(clips):.3g} times"
    few = f"a step repeats clips: use more data, or --set train.batch_size={max(1, len(clips) // train.accumulate)}"
    yield graded(name, found, few, warns=len(clips) < seen)
    if clips.dataset.kind == "video":
        yield decoding(clips.dataset)


def decoding(dataset: Dataset, *, free: float | None = None) -> Verdict:
    """Space for the decoded frames, which training reads instead of the video."""
    height, width = dataset.grid
    needed = 3 * height * width * dataset.num_frames
    free = shutil.disk_usage(existing(dataset.root)).free if free is None else free
    remedy = "make room beside the data, or --set data.image_size to less"
    return graded("decoded frames", f"{size(needed)} at {height}x{width}, {size(free)} free", remedy, fails=needed > free)


def files(given: Given) -> Verdict:
    """Files that stay open: pictures, states and segments of every shard are mapped."""
    shards = sum(len(clips.dataset.shards) for clips in (given.train, given.val) if clips is not None)
    return replace(open_files(needed=LEAST_FILES + 3 * shards), name="open shards")


def held_out(train: Dataset, val: Dataset) -> Verdict:
    """Whether state rows of the held-out data are also in the training data; rows at rest do not count."""
    remedy = "hold out other recordings: scores on seen ones say nothing"
    if val.root.resolve() in [root.resolve() for root in train.roots]:
        return fail("held-out data", "the same folder as the training data", remedy)
    seen, held = row_hashes(train), row_hashes(val)
    share = float(np.isin(held, seen).mean()) if len(held) else 0.0
    found = f"{share:.1%} of {len(held)} state rows are also in the training data"
    return graded("held-out data", found, remedy, fails=share > LEAKED, warns=share > SUSPICIOUS)


def row_hashes(dataset: Dataset) -> np.ndarray:
    """A 64-bit number for every state row that differs from the one before it, each number once."""
    factors = np.random.default_rng(0).integers(1, 2**63, dataset.robot.dim, dtype=np.uint64) * 2 + 1
    parts = []
    for shard in dataset.shards:
        for first in range(0, shard.num_frames, ROWS):
            rows = np.ascontiguousarray(shard.read_states(np.arange(first, min(first + ROWS, shard.num_frames))), np.float32)
            moving = np.concatenate([[True], (rows[1:] != rows[:-1]).any(1)])
            mixed = (rows.view(np.uint32).astype(np.uint64) + 1) * factors  # wraps
            parts.append(np.unique((mixed ^ (mixed >> np.uint64(29))).sum(1, dtype=np.uint64)[moving]))
    return np.unique(np.concatenate(parts))


def states(dataset: Dataset) -> Iterator[Verdict]:
    """Finite, moving, and in the units of the embodiment."""
    mean, std = state_statistics(dataset)
    robot = dataset.robot
    still = [name for name, s in zip(robot.names, std) if s < STILL]
    if len(still) == robot.dim:
        yield fail("states", "none of them ever changes", "record the robot's states beside its video")
        return
    usual, spread = np.array(robot.mean), np.maximum(np.array(robot.std), STILL)
    off = (np.abs(mean - usual) > FAR * spread) | (std > FAR * spread)
    strange = [f"{name} {m:.3g} +- {s:.3g}" for name, m, s, o in zip(robot.names, mean, std, off) if o]
    found = f"{robot.dim} of {robot.name}, all finite, {len(still)} that never change"
    found += f" ({', '.join(still[:3])})" if still else ""
    if strange:
        found += f"; far from {robot.name}'s usual: {', '.join(strange[:3])}"
        yield warn("states", found, "check their units and order, or describe the robot in robot.toml")
        return
    yield graded("states", found, "check the recording: a model learns nothing from these", warns=bool(still))


def tokenizer(config: RunConfig, dataset: Dataset) -> Iterator[Verdict]:
    """Whether the tokenizer that the run names made these tokens or latents."""
    if config.model.kind in ("video", "motion"):
        return
    made_by = dataset.tokenizer
    if not config.tokenizer and dataset.clock == EACH_FRAME:
        yield ok("tokenizer", "none, and none here decodes a grid a frame: trained on and scored in nats, without pictures")
    elif not config.tokenizer:
        known = (made_by or {}).get("name", "unknown")
        remedy = "--set tokenizer=NAME, for pictures and pixel scores"
        yield warn("tokenizer", f"the run names none; the data's is {known}", remedy)
    elif not made_by and config.tokenizer in own_names():
        found = f"{config.tokenizer} did not make the data: no {Path(dataset.root) / 'tokenizer.json'} says so"
        yield fail("tokenizer", found, "--set tokenizer=, which trains without pictures")
    elif not made_by:
        remedy = "make sure that it is the official Cosmos tokenizer that you decode with"
        yield warn("tokenizer", f"{Path(dataset.root) / 'tokenizer.json'} is absent: nothing says who made the data", remedy)
    else:
        coder = open_tokenizer(config.tokenizer)
        own, theirs = coder.fingerprint(), str(made_by.get("fingerprint"))
        same = own == theirs
        remedy = f"--set tokenizer= to the one that made the data ({made_by.get('name')}), or tokenize again with {coder.name}"
        found = f"{coder.name} ({own[:8]}) made the data"
        if not same:
            found = f"{coder.name} ({own[:8]}) did not make the data, {made_by.get('name')} ({theirs[:8]}) did"
        yield graded("tokenizer", found, remedy, fails=not same)


def rebuilt(config: RunConfig, video: str) -> Verdict:
    """How well the run's tokenizer, or the one that a tokenizer starts from, rebuilds the video that the data were made of."""
    is_tokenizer = config.model.role == "tokenizer"
    name = config.init if is_tokenizer else config.tokenizer
    if not name:
        missing, key = ("starts from no trained one", "init") if is_tokenizer else ("names no tokenizer", "tokenizer")
        raise ValueError(f"the run {missing}; leave --video away, or give one with --set {key}=NAME")
    return rebuilding(name, video, size=config.data.image_size)
