"""Recordings in which everything is known: a bright square on grey that moves with the first state; and coarse noise."""

import numpy as np

from hwm.data.writers import RawShardWriter, write_dataset_metadata


def moving(rng, num_frames, *, side=32):
    """Frames of a square a quarter of the picture wide, and states (num_frames, 25) that wander."""
    states = rng.normal(size=(num_frames, 25)).astype(np.float32).cumsum(0) * 0.1
    frames, quarter = np.full((num_frames, side, side, 3), 90, np.uint8), side // 4
    for frame, state in zip(frames, states):
        x = int(np.clip(quarter * (1.5 + 0.75 * state[0]), 0, side - quarter))
        frame[quarter : 2 * quarter, x : x + quarter] = 200
    return frames, states


def write_moving(root, *, rng, frames, segments, shards=1, side=32):
    """A raw dataset of it; `frames` of every segment."""
    for shard in range(shards):
        with RawShardWriter(root, shard=shard, height=side, width=side) as writer:
            for segment in range(segments):
                writer.append(*moving(rng, frames, side=side), segment)
    write_dataset_metadata(root, num_shards=shards, num_images=shards * segments * frames)
    return root


def write_noise(root, shards, *, side, seed=0):
    """A raw dataset of pictures of 4x4 random colours and random states; every shard is a list of segment lengths."""
    rng = np.random.default_rng(seed)
    for shard, lengths in enumerate(shards):
        with RawShardWriter(root, shard=shard, height=side, width=side) as writer:
            for segment, length in enumerate(lengths):
                frames = rng.integers(0, 256, (length, 4, 4, 3), dtype=np.uint8).repeat(side // 4, 1).repeat(side // 4, 2)
                writer.append(frames, rng.normal(size=(length, 25)).astype(np.float32), segment)
    write_dataset_metadata(root, num_shards=len(shards), num_images=sum(map(sum, shards)))
    return root
