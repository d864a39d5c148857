"""Scenes whose motion is known to the token: textures that move a whole number of places from grid to grid (ours).

They stress a model that attends to places and to time apart: how far a texture moves is told by its past grids alone, and only
by holding one place of a grid against another place of the grid before.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hwm.clock import COSMOS
from hwm.data.writers import TokenShardWriter, write_dataset_metadata, write_tokenizer_info

GRID, IDS, BLOCKS = (4, 17), 64, 2
"""Height and width of a grid, ids of a place, blocks of a clip.  No number of grids but 17 brings a texture back to its place."""


def moving_textures(moves_N: np.ndarray, *, grids: int, rng: np.random.Generator) -> np.ndarray:
    """Random textures, each moved sideways by its number of places a grid, around the edge: ids (N, T, H, W)."""
    height, width = GRID
    texture_NHW = rng.integers(IDS, size=(len(moves_N), height, width))
    column_NTW = (np.arange(width) - np.multiply.outer(moves_N, np.arange(grids))[:, :, None]) % width
    shape = (len(moves_N), grids, height, width)
    return np.take_along_axis(np.broadcast_to(texture_NHW[:, None], shape), np.broadcast_to(column_NTW[:, :, None], shape), 3)


def write_crossing(root: Path, *, crossings: Sequence[int], clips: int, seed: Sequence[int]) -> Path:
    """Write a dataset of tokens in the v2.0 layout, a clip of two blocks a segment; one that is there stays.

    crossings: places that a texture crosses from grid to grid; each clip has one of them and goes left or right.  States are
    noise, which tells nothing.
    """
    if (root / "metadata.json").is_file():
        return root
    rng = np.random.default_rng(seed)
    moves_N = rng.choice(crossings, clips) * rng.choice((-1, 1), clips)
    tokens_NTHW = moving_textures(moves_N, grids=BLOCKS * COSMOS.grids, rng=rng).reshape(-1, COSMOS.grids, *GRID)
    segments = np.repeat(np.arange(clips, dtype=np.int32), BLOCKS * COSMOS.block)
    states = rng.normal(size=(len(segments), 25)).astype(np.float32)
    TokenShardWriter(root, 0, vocab_size=IDS).write(tokens_NTHW, states, segments)
    about = {"crossings": list(map(int, crossings)), "seed": list(seed)}
    write_tokenizer_info(
        root, name="moving textures", fingerprint="moving textures", vocab_size=IDS, grid=GRID, clock=COSMOS, config=about
    )
    write_dataset_metadata(root, num_shards=1, num_images=len(segments))
    return root
