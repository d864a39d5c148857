"""From raw video to shards of tokens or latents: one raw shard after the other, each written whole or not at all.

A shard that is finished is not made again, so a killed job continues where it was; several processes, or several
jobs with different `part`, share the shards.  With `phases` > 1 every raw shard is also cut from later first frames,
which multiplies the aligned clips that can be made of little data.

A continuous tokenizer by Wan's clock is for the sampling track: it encodes not blocks but sampling clips, each by itself
and one from every 8th frame (`every`), because shifted windows share no latents (reference wan 1, E.1).
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from hwm.clock import SAMPLING_FRAMES, SAMPLING_HOP, WAN, subsample
from hwm.contracts import LatentTokenizer, Tokenizer
from hwm.data.files import atomic_path, read_rows
from hwm.data.latents import write_statistics
from hwm.data.onex import RawDataset, RawShard, frame_size, open_dataset
from hwm.data.sidecar import clip_hop, latent_geometry, read_tokenizer_info
from hwm.data.windows import sampling_starts
from hwm.data.writers import (
    LatentShardWriter,
    TokenShardWriter,
    shard_finished,
    write_dataset_metadata,
    write_tokenizer_info,
)
from hwm.tokenizers.open import open_tokenizer

BATCH_BLOCKS = 8
"""Blocks or clips that are encoded at once."""
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
    every: int
    """0: blocks; otherwise sampling clips."""
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
    every: int = SAMPLING_HOP,
    workers: int = 1,
    part: tuple[int, int] = (0, 1),
    trust: bool = False,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Encode a raw dataset into tokens of the v2.0 layout, or into latents beside their statistics; return the folder.

    Which of the two follows from the tokenizer, and so does whether latents are of blocks or of sampling clips.

    size: side in pixels to which frames are resized first, 0 keeps them (Cosmos tokens of 1X: 256).
    phases: how many first frames, spread over the 17 of a block, every raw shard is cut from; 1 for sampling clips.
    every: sampling clips start at multiples of this frame number; must not be given for blocks.
    workers: processes.  part: (k, n) makes only every n-th shard, from the k-th, for jobs that share the work.
    progress: called with (shards done, shards in all).
    Raises ValueError when `out` holds what another tokenizer made, or other clips.
    """
    raw, out = Path(raw), Path(out)
    dataset = open_dataset(raw)
    if not isinstance(dataset, RawDataset):
        raise ValueError(f"{raw}: holds tokens or latents already; tokenizing needs a raw dataset (videos as .mp4)")
    if not 0 <= part[0] < part[1] or not 1 <= phases <= 17 or every < 1:
        expected = "part must be (k, n) with 0 <= k < n, phases 1..17 and every at least 1"
        raise ValueError(f"{expected}, got {part}, {phases} and {every}")
    encoder = open_tokenizer(tokenizer, trust=trust, device=device)
    if encodes_clips(encoder):
        if phases > 1:
            raise ValueError(f"{encoder.name} encodes sampling clips, which start everywhere already; leave phases at 1")
    elif every != SAMPLING_HOP:
        raise ValueError(f"{encoder.name} encodes blocks; `every` is for sampling clips: leave it at {SAMPLING_HOP}")
    else:
        every = 0
    _claim(out, encoder, dataset, size=size, phases=phases, every=every)
    flat = not (raw / "videos").is_dir() and phases == 1
    jobs = [
        _Job(raw, out, tokenizer, trust, size, shard, phase, phases, every, flat, device)
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


def encodes_clips(encoder: Tokenizer | LatentTokenizer) -> bool:
    """Whether `tokenize` makes sampling clips with it: continuous, by Wan's clock."""
    return isinstance(encoder, LatentTokenizer) and encoder.clock == WAN


def _claim(
    out: Path, encoder: Tokenizer | LatentTokenizer, dataset: RawDataset, *, size: int, phases: int, every: int
) -> None:
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
            every=every,
            **({"channels": encoder.channels} if isinstance(encoder, LatentTokenizer) else {"vocab_size": encoder.vocab_size}),
        )
    elif known.get("fingerprint") != fingerprint or tuple(known.get("grid", ())) != grid:
        raise ValueError(
            f"{out}/tokenizer.json: what lies here was made by tokenizer {known.get('name')} on grid {known.get('grid')}, "
            f"not by {encoder.name} on grid {list(grid)}; choose a new output folder"
        )
    elif known.get("phases", phases) != phases:
        raise ValueError(f"{out}/tokenizer.json: was cut from {known['phases']} phases, not {phases}; choose a new output folder")
    elif (hop := clip_hop(known, out)) != every:
        raise ValueError(f"{out}/tokenizer.json: its clips start every {hop} frames, not {every}; choose a new output folder")


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
    grids = _encode_clips(shard, encoder, job) if job.every else _encode_blocks(shard, encoder, job, first=first)
    writer: TokenShardWriter | LatentShardWriter
    if isinstance(encoder, LatentTokenizer):
        writer = LatentShardWriter(job.out, shard=job.target, flat=job.flat, clock=encoder.clock, every=job.every)
    else:
        writer = TokenShardWriter(
            job.out, shard=job.target, flat=job.flat, vocab_size=encoder.vocab_size, clock=encoder.clock
        )
    writer.write(grids, np.array(shard.states[first:]), np.array(shard.segments[first:]))


def _encode_blocks(shard: RawShard, encoder: Tokenizer | LatentTokenizer, job: _Job, *, first: int) -> np.ndarray:
    frames, block = shard.frames(job.size)[first:], encoder.clock.block
    grids = []
    for start in range(0, len(frames), BATCH_BLOCKS * block):
        piece = np.asarray(frames[start : start + BATCH_BLOCKS * block])
        missing = -len(piece) % block  # the last block is filled with its last frame, as no reader uses it
        piece = np.concatenate([piece, np.repeat(piece[-1:], missing, 0)])
        grids.append(_encode(piece.reshape(-1, block, *piece.shape[1:]), encoder, job))
    return np.concatenate(grids)


def _encode_clips(shard: RawShard, encoder: Tokenizer | LatentTokenizer, job: _Job) -> np.ndarray:
    assert isinstance(encoder, LatentTokenizer)
    starts = sampling_starts(np.asarray(shard.segments), every=job.every, path=shard.segments_path)
    if not len(starts):
        grid, _, _ = latent_geometry(read_tokenizer_info(job.out), job.out)
        return np.zeros((0, encoder.clock.grids, encoder.channels, *grid), np.float32)
    frames, latents = shard.frames(job.size), []
    for begin in range(0, len(starts), BATCH_BLOCKS):
        part = starts[begin : begin + BATCH_BLOCKS]
        piece = read_rows(frames, int(part[0]), int(part[-1]) + SAMPLING_FRAMES)
        clips = piece[(part - part[0])[:, None] + subsample(length=encoder.clock.block)]
        latents.append(_encode(clips, encoder, job))
    return np.concatenate(latents)


def _encode(video_BFHWC: np.ndarray, encoder: Tokenizer | LatentTokenizer, job: _Job) -> np.ndarray:
    dtype = np.float32 if isinstance(encoder, LatentTokenizer) else np.int32
    return encoder.encode(torch.from_numpy(video_BFHWC).to(job.device)).cpu().numpy().astype(dtype)
