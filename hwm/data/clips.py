"""Clips for training and scoring: tokens, latents or video of a window with the robot states of its frames."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from hwm.contracts import Batch
from hwm.data.latents import LatentDataset
from hwm.data.legacy import LegacyTokenDataset
from hwm.data.onex import RawDataset, TokenDataset
from hwm.data.windows import ClipIndex, Window, state_rows
from hwm.work.files import expect_rows, read_rows

__all__ = ["ClipIndex", "LatentClips", "TokenClips", "VideoClips", "sample_indices"]

CACHE_CLIPS = "make them with `hwm tokenize RAW OUT` and a tokenizer by Wan's clock, such as continuous-4x8x8"


class TokenClips:
    """Token clips of an open dataset, read on demand.

    kind, overlap, length, stride: see ClipIndex.build; "frames" is for v1.1, whose every frame is a grid.
    num_states: state rows of a clip from its first frame on; 0 means one per frame.  Beyond the end of the segment
    its last row is repeated.
    """

    def __init__(
        self,
        dataset: TokenDataset | LegacyTokenDataset,
        *,
        kind: Window = "block_pairs",
        overlap: bool = True,
        num_states: int = 0,
        length: int = 0,
        stride: int = 1,
    ) -> None:
        if kind == "sampling":
            raise ValueError(f"{dataset.root}: holds tokens; sampling clips are cached as latents: {CACHE_CLIPS}")
        if (kind == "frames") != isinstance(dataset, LegacyTokenDataset):
            raise ValueError(f"{dataset.root}: v1.1 gives clips of kind 'frames', v2.0 tokens of blocks; got {kind!r}")
        self.dataset = dataset
        self.index = ClipIndex.build(dataset, kind=kind, overlap=overlap, length=length, stride=stride)
        self.num_states = num_states or self.index.length

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, indices: np.ndarray) -> Batch:
        """The clips at `indices`: tokens_BTHW int64 and states_BFA float32 (B, num_states, A).

        Raises ValueError, naming the file, for ids outside the vocabulary and states that are not finite.
        """
        tokens, states = [], []
        for i in np.asarray(indices):
            shard, start = self.dataset.shards[int(self.index.shard[i])], int(self.index.start[i])
            if isinstance(self.dataset, LegacyTokenDataset):
                tokens.append(self.dataset.shards[0].read_tokens(start, self.index.length, self.index.stride))
            else:
                block = self.dataset.clock.block
                tokens.append(shard.read_tokens(start // block, self.index.length // block))
            rows = state_rows(shard.segments, start, self.num_states * self.index.stride)[:: self.index.stride]
            states.append(shard.read_states(rows))
        return Batch(states_BFA=torch.from_numpy(np.stack(states)), tokens_BTHW=torch.from_numpy(np.stack(tokens)))


class LatentClips:
    """Clips of cached latents, read on demand.

    kind, overlap: see ClipIndex.build; "blocks" or "block_pairs" of latents of blocks, "sampling" of latents of sampling
    clips, of which those at the stored starts are given.  num_states: as in TokenClips.
    Raises ValueError, naming the folder, when the latents are of the other sort.
    """

    def __init__(
        self, dataset: LatentDataset, *, kind: Window = "blocks", overlap: bool = True, num_states: int = 0
    ) -> None:
        if dataset.every and kind != "sampling":
            remedy = "use clips of kind 'sampling', or tokenize with a tokenizer of blocks, such as continuous-8x8x8"
            raise ValueError(f"{dataset.root}: holds latents of sampling clips, not of blocks: {remedy}")
        if kind == "sampling" and not dataset.every:
            raise ValueError(f"{dataset.root}: holds latents of blocks, not of sampling clips: {CACHE_CLIPS}")
        if kind == "frames":
            raise ValueError(f"{dataset.root}: latents come in blocks; use clips of kind 'blocks' or 'block_pairs'")
        self.dataset = dataset
        for shard in dataset.shards:
            shard.check_starts()
        self.index = ClipIndex.build(dataset, kind=kind, overlap=overlap, every=max(1, dataset.every))
        self.num_states = num_states or self.index.length

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, indices: np.ndarray) -> Batch:
        """The clips at `indices`: latents_BTCHW float32 and states_BFA float32 (B, num_states, A).

        Raises ValueError, naming the file, for values that are not finite.
        """
        latents, states = [], []
        for i in np.asarray(indices):
            shard, start = self.dataset.shards[int(self.index.shard[i])], int(self.index.start[i])
            if self.dataset.every:
                latents.append(shard.read_row(int(np.searchsorted(expect_rows(shard.starts), start))))
            else:
                block = self.dataset.clock.block
                latents.append(shard.read_latents(start // block, self.index.length // block))
            states.append(shard.read_states(state_rows(shard.segments, start, self.num_states)))
        return Batch(states_BFA=torch.from_numpy(np.stack(states)), latents_BTCHW=torch.from_numpy(np.stack(latents)))


class VideoClips:
    """Video clips of a raw dataset, read from the decoded cache.

    kind, overlap, length, stride, aligned: see ClipIndex.build.  size: side in pixels of the area-resized frames, 0
    keeps the stored size.  num_states: as in TokenClips.
    kept: which frames of a clip are given, in rising order; None: all.
    """

    def __init__(
        self,
        dataset: RawDataset,
        *,
        kind: Window = "blocks",
        overlap: bool = True,
        aligned: bool = True,
        size: int = 0,
        num_states: int = 0,
        length: int = 0,
        stride: int = 1,
        every: int = 1,
        kept: np.ndarray | None = None,
    ) -> None:
        self.dataset, self.size, self.kept = dataset, size, kept
        self.index = ClipIndex.build(
            dataset, kind=kind, overlap=overlap, length=length, stride=stride, every=every, aligned=aligned
        )
        self.num_states = num_states or self.index.length
        self._frames: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, indices: np.ndarray) -> Batch:
        """The clips at `indices`: video_BFHWC uint8 RGB and states_BFA float32, strided like the frames."""
        video, states = [], []
        for i in np.asarray(indices):
            position, start = int(self.index.shard[i]), int(self.index.start[i])
            shard = self.dataset.shards[position]
            if position not in self._frames:
                self._frames[position] = shard.frames(self.size)
            stop = start + self.index.length * self.index.stride
            frames = read_rows(self._frames[position], start, stop)[:: self.index.stride]
            video.append(frames if self.kept is None else frames[self.kept])
            rows = state_rows(shard.segments, start, self.num_states * self.index.stride)[:: self.index.stride]
            states.append(shard.read_states(rows))
        return Batch(states_BFA=torch.from_numpy(np.stack(states)), video_BFHWC=torch.from_numpy(np.stack(video)))



# Which clips make up the batch of a step: a pure function of seed and step, so a resumed run sees the same data.


def sample_indices(
    *, seed: int, step: int, batch_size: int, num_clips: int, rank: int = 0, world: int = 1
) -> np.ndarray:
    """Clips of one rank's batch, int64 (batch_size,).

    An epoch is a fresh permutation of all clips, cut into global batches of batch_size * world; what does not fill
    the last one is left out and comes again in other epochs.  Within an epoch no clip repeats, on any rank, and a
    different world with the same global batch gets the same clips.  Fewer clips than one global batch are repeated
    within it.  step: 0 for the first batch.
    """
    if min(batch_size, num_clips, world) < 1 or not 0 <= rank < world or step < 0:
        raise ValueError(
            f"sampling needs positive sizes, 0 <= rank < world and step >= 0; got batch_size {batch_size}, "
            f"num_clips {num_clips}, rank {rank}, world {world}, step {step}"
        )
    size = batch_size * world
    epoch, batch = divmod(step, max(1, num_clips // size))
    first = batch * size + rank * batch_size
    return _permutation(seed, epoch, num_clips)[np.arange(first, first + batch_size) % num_clips].astype(np.int64)


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, num_clips: int) -> np.ndarray:
    order = np.random.default_rng([seed, epoch]).permutation(np.arange(num_clips, dtype=np.int32))
    order.flags.writeable = False
    return order
