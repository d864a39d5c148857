"""All index arithmetic between frames, latent steps and states, in one place.

A causal video tokenizer with temporal stride s gives the first frame a latent step of its own and every
following group of s frames one more: T = 1 + (F - 1) / s.  Cosmos (s=8) and Wan (s=4) share this rule.
The 1X token release restarts it every 17 frames: a *block* of 17 frames is 3 grids covering frames
0 | 1-8 | 9-16, and the frames of block b start at 17 b (reference: 1X dataset card; SYSTEMS.md section 0).
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Clock:
    """Clock of a causal tokenizer: `stride` frames per latent step after the first, restarted every `block` frames.

    `block` must be of the form 1 + n * stride.
    """

    stride: int = 8
    block: int = 17

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ValueError(f"temporal stride must be at least 1, got {self.stride}")
        if self.block < 1 or (self.block - 1) % self.stride:
            raise ValueError(f"a block must have 1 + n * {self.stride} frames, got {self.block}")

    @property
    def grids(self) -> int:
        """Latent steps of one block."""
        return 1 + (self.block - 1) // self.stride

    def num_grids(self, num_frames: int) -> int:
        """Latent steps of `num_frames` frames made of whole blocks, or of one shorter clip 1 + n * stride."""
        if num_frames > self.block:
            if num_frames % self.block:
                raise ValueError(f"{num_frames} frames are not whole blocks of {self.block}")
            return num_frames // self.block * self.grids
        if num_frames < 1 or (num_frames - 1) % self.stride:
            raise ValueError(f"a clip must have 1 + n * {self.stride} frames, got {num_frames}")
        return 1 + (num_frames - 1) // self.stride

    def num_frames(self, num_grids: int) -> int:
        """Frames covered by `num_grids` latent steps from the start of a block."""
        if num_grids < 0:
            raise ValueError(f"the number of grids cannot be negative, got {num_grids}")
        return self.span(num_grids - 1)[1] if num_grids else 0

    def span(self, grid: int) -> tuple[int, int]:
        """First frame and one past the last frame of latent step `grid`, counted from the start of block 0."""
        block, local = divmod(grid, self.grids)
        start = block * self.block + (0 if local == 0 else 1 + (local - 1) * self.stride)
        return start, start + (1 if local == 0 else self.stride)

    def grid_of(self, frame: int) -> int:
        """Latent step that covers `frame`."""
        block, local = divmod(frame, self.block)
        return block * self.grids + (0 if local == 0 else 1 + (local - 1) // self.stride)

    def num_blocks(self, num_frames: int) -> int:
        """Whole blocks in `num_frames` frames; a padded last block is not counted (reference A.3, rule 2)."""
        return num_frames // self.block

    def stored_blocks(self, num_frames: int) -> int:
        """Blocks that a token shard of `num_frames` frames holds on disk, the padded last one included."""
        return -(-num_frames // self.block)


COSMOS = Clock(stride=8, block=17)
WAN = Clock(stride=4, block=21)
EACH_FRAME = Clock(stride=1, block=1)
"""A grid a frame, as of the tokenizers of pictures in 1X's v1.1 release."""

LEGACY_STRIDE = 15
"""Frames from one that v1.1's evaluation looks at to the next: 2 Hz."""
LEGACY_FRAMES = 16
"""Of these frames a window of it has, of which the first is only seen."""

SAMPLING_FRAMES = 77
"""Frames of a sampling-track clip; frame 76 is scored."""
SAMPLING_CONTEXT = 17
"""Frames of it that are seen."""
SAMPLING_STEP = 4
"""Every how manieth of its frames Wan is given."""
SAMPLING_HOP = 8
"""Frames between the first frames of training clips (reference E.1)."""


def subsample(num_frames: int = SAMPLING_FRAMES, step: int = SAMPLING_STEP, length: int = 21) -> np.ndarray:
    """Frame indices of a temporally subsampled clip, the last one repeated up to `length`.

    For 77 frames by 4: 0, 4, ..., 76, 76 (21 indices; the first author's code repeats 76, reference F row 6).
    """
    indices = np.arange(0, num_frames, step, dtype=np.int64)
    if len(indices) > length:
        raise ValueError(f"{num_frames} frames by {step} are {len(indices)} frames, more than the {length} asked for")
    return np.concatenate([indices, np.full(length - len(indices), indices[-1])])
