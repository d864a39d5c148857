"""Clips for training and scoring: the pictures of a window of frames, in the dataset's kind, with their robot states."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwm.contracts import Batch
from hwm.data.dataset import Dataset, Shard
from hwm.data.onex import open_dataset
from hwm.data.quarantine import Rule
from hwm.data.windows import ClipIndex, Window, state_rows
from hwm.work.files import read_rows

FIELDS = {"tokens": "tokens_BTHW", "latents": "latents_BTCHW", "video": "video_BFHWC", "motion": "commands_BFA"}
"""Where a Batch holds the pictures of each kind, or commands in their place."""
ROWS = 65536
"""State rows that are compared at once."""


class Clips:
    """Clips of an open dataset of any kind, read on demand.

    kind, overlap, length, stride, every, aligned: see ClipIndex.build; stored clips keep their own `every`.
    num_states: state rows of a clip from its first frame on; 0 means one per frame.  Beyond the end of the segment
    its last row is repeated.
    kept: which frames or grids of a clip are given, in rising order; None: all.
    masks: of video, also give which pixels show the robot's body.
    Raises ValueError, with the remedy, when such clips cannot be cut from these data.
    """

    def __init__(
        self, dataset: Dataset, *, kind: Window, overlap: bool = True, aligned: bool = True, num_states: int = 0, length: int = 0,
        stride: int = 1, every: int = 1, kept: np.ndarray | None = None, masks: bool = False,
    ) -> None:  # fmt: skip
        dataset.expect_window(kind)
        self.dataset, self.kept, self.masks = dataset, kept, masks
        cut: dict[str, Any] = {"length": length, "stride": stride, "every": dataset.every or every, "aligned": aligned}
        self.index = ClipIndex.build(dataset, kind=kind, overlap=overlap, **cut)
        self.num_states = num_states or self.index.length

    def __len__(self) -> int:
        return len(self.index)

    @property
    def hz(self) -> float:
        """Frames of a clip in a second."""
        return self.dataset.hz / self.index.stride

    def batch(self, indices: np.ndarray) -> Batch:
        """The clips at `indices`: tokens_BTHW int64, latents_BTCHW float32 or video_BFHWC uint8 RGB, strided if they are,
        and states_BFA float32 (B, num_states, A), strided alike.

        Raises ValueError, naming the file, for ids outside the vocabulary and values that are not finite.
        """
        pictures, states, masks, stride = [], [], [], self.index.stride
        for i in np.asarray(indices):
            shard, start = self.dataset.shards[int(self.index.shard[i])], int(self.index.start[i])
            found = shard.read(start, self.index.length * stride)[::stride]
            pictures.append(found if self.kept is None else found[self.kept])
            if self.masks:
                shown = shard.read_masks(start, self.index.length * stride)[::stride]
                masks.append(shown if self.kept is None else shown[self.kept])
            states.append(shard.read_states(state_rows(shard.segments, start, self.num_states * stride)[::stride]))
        field = {FIELDS[self.dataset.kind]: torch.from_numpy(np.stack(pictures))}
        field |= {"masks_BFHW": torch.from_numpy(np.stack(masks))} if masks else {}
        return Batch(states_BFA=torch.from_numpy(np.stack(states)), **field)

    def segments(self) -> np.ndarray:
        """A number for the segment of every clip, int64 (N,), different in different shards."""
        ids = [int(self.dataset.shards[s].segments[f]) for s, f in zip(self.index.shard, self.index.start)]
        return self.index.shard.astype(np.int64) * 2**32 + np.array(ids)


    def beginnings(self, num_frames: int) -> np.ndarray | None:
        """A number for how every clip of video begins, int64 (N,): the same where all of the first frames and states are.

        None where no two clips begin alike, to the last bit, as those of recordings of one world never do.
        """
        if self.dataset.kind != "video":
            return None
        places = [(self.dataset.shards[s], int(f)) for s, f in zip(self.index.shard, self.index.start)]
        stride = self.index.stride
        rows = np.arange(num_frames) * stride
        begin = [hashlib.sha256(shard.read_states(first + rows).tobytes()).digest() for shard, first in places]
        often = Counter(begin)
        for i, (shard, first) in enumerate(places):
            if often[begin[i]] > 1:  # alike in states: are they in frames?
                begin[i] = hashlib.sha256(begin[i] + shard.read(first, num_frames * stride)[::stride].tobytes()).digest()
        numbers = {digest: number for number, digest in enumerate(dict.fromkeys(begin))}
        return np.array([numbers[digest] for digest in begin]) if len(numbers) < len(begin) else None


@dataclass(frozen=True)
class Recorded:
    """Recorded frames of encoded clips, by their numbers, from the raw dataset that they were made of."""

    clips: Clips
    sources: tuple[tuple[Any, int], ...]
    """Of every shard of the clips the raw one, and its frame with which they begin."""

    def __call__(self, numbers: np.ndarray) -> Tensor:
        """Frames, uint8 (B, F, H, W, 3)."""
        return self._of(numbers, "read")

    @property
    def masks(self) -> Callable[[np.ndarray], Tensor] | None:
        """What tells of the same frames which pixels show the robot's body, bool (B, F, H, W); None where the data do not."""
        if any(shard.masks_path is None for shard, _ in self.sources):
            return None
        return lambda numbers: self._of(numbers, "read_masks")

    def _of(self, numbers: np.ndarray, how: str) -> Tensor:
        index = self.clips.index
        places = [(*self.sources[index.shard[n]], int(index.start[n])) for n in numbers]
        return torch.from_numpy(np.stack([getattr(shard, how)(first + at, index.length) for shard, first, at in places]))


def recorded(clips: Clips, folder: str | Path, *, size: tuple[int, int]) -> Recorded:
    """The recorded frames of encoded clips.

    size: height and width of the frames in pixels.
    Raises ValueError for any other dataset, even one with as many frames.
    """
    raw: Any = open_dataset(folder)
    if raw.kind != "video":
        raise ValueError(f"{folder}: not a raw dataset")
    by_number = {shard.index: shard for shard in (raw if raw.grid == size else raw.resized(size[0])).shards}
    rule = Rule(clips.dataset.clock, (clips.dataset.tokenizer or {}).get("phases", 1), clips.dataset.every)
    sources = []
    for shard in clips.dataset.shards:
        index, first = rule.cut_from(shard.index)
        if fault := _difference(shard, by_number.get(index), first):
            told = f"not the video of {clips.dataset.root}: {fault} of shard {index}"
            raise ValueError(f"{folder}: {told}; give the raw dataset that it was made of")
        sources.append((by_number[index], first))
    return Recorded(clips, tuple(sources))


def _difference(shard: Shard, raw: Shard | None, first: int) -> str:
    """What tells an encoded shard from one made of `raw` from its frame `first` on; nothing where all is the same."""
    if raw is None:
        return "there is nothing"
    if raw.num_frames - first != shard.num_frames:
        return "another number of frames"
    for start in range(0, shard.num_frames, ROWS):
        stop = min(start + ROWS, shard.num_frames)
        for name in ("states", "segments"):
            here, there = read_rows(getattr(shard, name), start, stop), read_rows(getattr(raw, name), first + start, first + stop)
            if not np.array_equal(here, there):
                return f"other {name}"
    return "another video" if shard.source not in ("", raw.fingerprint) else ""


def sample_indices(*, seed: int, step: int, batch_size: int, num_clips: int, rank: int = 0, world: int = 1) -> np.ndarray:
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
