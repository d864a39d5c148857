"""From raw video to shards of tokens or latents: one raw shard after the other, each written whole or not at all.

A shard that is finished is not made again, so a killed job continues where it was; several processes, or several
jobs with different `part`, share the shards.  With `phases` > 1 every raw shard is also cut from later first frames,
which multiplies the aligned clips that can be made of little data.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from hwm.contracts import LatentTokenizer, Tokenizer
from hwm.data.files import atomic_path
from hwm.data.latents import write_statistics
from hwm.data.onex import RawDataset, frame_size, open_dataset
from hwm.data.sidecar import read_tokenizer_info
from hwm.data.writers import (
    LatentShardWriter,
    TokenShardWriter,
    shard_finished,
    write_dataset_metadata,
    write_tokenizer_info,
)
from hwm.tokenizers.open import open_tokenizer

BATCH_BLOCKS = 8
ROBOT = "robot.toml"


@dataclass(frozen=True)
class _Job:
    raw: Path
    out: Path
    tokenizer: str
    trust: bool
    size: int
    shard: int
    """Position of the raw shard."""
    phase: int
    phases: int
    flat: bool
    device: str

    @property
    def target(self) -> int:
        """Index of the shard to write."""
        return self.shard * self.phases + self.phase


def tokenize(
    raw: str | Path,
    out: str | Path,
    *,
    tokenizer: str,
    size: int = 0,
    phases: int = 1,
    workers: int = 1,
    part: tuple[int, int] = (0, 1),
    trust: bool = False,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Encode a raw dataset into tokens of the v2.0 layout, or into latents beside their statistics; return the folder.

    Which of the two follows from the tokenizer.

    size: side in pixels to which frames are resized first, 0 keeps them (Cosmos tokens of 1X: 256).
    phases: how many first frames, spread over the 17 of a block, every raw shard is cut from.
    workers: processes.  part: (k, n) makes only every n-th shard, from the k-th, for jobs that share the work.
    progress: called with (shards done, shards in all).
    Raises ValueError when `out` holds what another tokenizer made.
    """
    raw, out = Path(raw), Path(out)
    dataset = open_dataset(raw)
    if not isinstance(dataset, RawDataset):
        raise ValueError(f"{raw}: holds tokens or latents already; tokenizing needs a raw dataset (videos as .mp4)")
    if not 0 <= part[0] < part[1] or phases < 1 or phases > 17:
        raise ValueError(f"part must be (k, n) with 0 <= k < n and phases 1..17, got {part} and {phases}")
    encoder = open_tokenizer(tokenizer, trust=trust, device=device)
    _claim(out, encoder, dataset, size=size, phases=phases)
    flat = not (raw / "videos").is_dir() and phases == 1
    jobs = [
        _Job(raw, out, tokenizer, trust, size, shard, phase, phases, flat, device)
        for shard in range(len(dataset.shards))
        for phase in range(phases)
    ]
    todo = [job for job in jobs[part[0] :: part[1]] if not shard_finished(out, job.target)]
    done = len(jobs[part[0] :: part[1]]) - len(todo)
    if workers > 1 and len(todo) > 1:
        # Spawned, not forked: a forked child of a process that has used torch threads can hang.
        with multiprocessing.get_context("spawn").Pool(min(workers, len(todo))) as pool:
            for count, _ in enumerate(pool.imap_unordered(_encode_shard, todo), done + 1):
                if progress:
                    progress(count, len(jobs))
    else:
        for count, job in enumerate(todo, done + 1):
            _encode_shard(job, encoder)
            if progress:
                progress(count, len(jobs))
    if all(shard_finished(out, job.target) for job in jobs):
        if isinstance(encoder, LatentTokenizer):
            write_statistics(out, channels=encoder.channels)
        frames = sum(s.num_frames - _offset(phase, phases) for s in dataset.shards for phase in range(phases))
        write_dataset_metadata(out, num_shards=len(jobs), num_images=frames, hz=dataset.hz)
    return out


def _claim(out: Path, encoder: Tokenizer | LatentTokenizer, dataset: RawDataset, *, size: int, phases: int) -> None:
    """Write tokenizer.json first, or check that the one there is of the same tokenizer."""
    height, width = (size, size) if size else frame_size(dataset)
    stride = encoder.spatial_stride
    if height % stride or width % stride:
        raise ValueError(f"{dataset.root}: frames of {height}x{width} do not divide by the tokenizer's stride {stride}; set size")
    grid, fingerprint = (height // stride, width // stride), encoder.fingerprint()
    known = read_tokenizer_info(out) if (out / "tokenizer.json").is_file() else None
    if known is None:
        config = asdict(encoder.config) if hasattr(encoder, "config") else {}
        out.mkdir(parents=True, exist_ok=True)
        if (dataset.root / ROBOT).is_file():  # another robot's states keep their meaning
            with atomic_path(out / ROBOT) as target:
                target.write_bytes((dataset.root / ROBOT).read_bytes())
        write_tokenizer_info(
            out,
            name=encoder.name,
            fingerprint=fingerprint,
            grid=grid,
            clock=encoder.clock,
            config=config,
            phases=phases,
            **({"channels": encoder.channels} if isinstance(encoder, LatentTokenizer) else {"vocab_size": encoder.vocab_size}),
        )
    elif known.get("fingerprint") != fingerprint or tuple(known.get("grid", ())) != grid:
        raise ValueError(
            f"{out}/tokenizer.json: what lies here was made by tokenizer {known.get('name')} on grid {known.get('grid')}, "
            f"not by {encoder.name} on grid {list(grid)}; choose a new output folder"
        )
    elif known.get("phases", phases) != phases:
        raise ValueError(f"{out}/tokenizer.json: was cut from {known['phases']} phases, not {phases}; choose a new output folder")


def _offset(phase: int, phases: int) -> int:
    return phase * 17 // phases


def _encode_shard(job: _Job, encoder: Tokenizer | LatentTokenizer | None = None) -> None:
    # One thread each: sums in another order round otherwise, and the bytes would depend on how the work was shared.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _write_shard(job, encoder)
    finally:
        torch.set_num_threads(before)


def _write_shard(job: _Job, encoder: Tokenizer | LatentTokenizer | None) -> None:
    encoder = encoder or open_tokenizer(job.tokenizer, trust=job.trust, device=job.device)
    dataset = open_dataset(job.raw)
    assert isinstance(dataset, RawDataset)
    shard, first = dataset.shards[job.shard], _offset(job.phase, job.phases)
    frames = shard.frames(job.size)[first:]
    dtype = np.float32 if isinstance(encoder, LatentTokenizer) else np.int32
    block = encoder.clock.block
    grids = []
    for start in range(0, len(frames), BATCH_BLOCKS * block):
        piece = np.asarray(frames[start : start + BATCH_BLOCKS * block])
        missing = -len(piece) % block  # the last block is filled with its last frame, as no reader uses it
        piece = np.concatenate([piece, np.repeat(piece[-1:], missing, 0)])
        blocks = torch.from_numpy(piece).unflatten(0, (-1, block))
        grids.append(encoder.encode(blocks.to(job.device)).cpu().numpy().astype(dtype))
    writer: TokenShardWriter | LatentShardWriter
    if isinstance(encoder, LatentTokenizer):
        writer = LatentShardWriter(job.out, shard=job.target, flat=job.flat, clock=encoder.clock)
    else:
        writer = TokenShardWriter(
            job.out, shard=job.target, flat=job.flat, vocab_size=encoder.vocab_size, clock=encoder.clock
        )
    writer.write(np.concatenate(grids), np.array(shard.states[first:]), np.array(shard.segments[first:]))
