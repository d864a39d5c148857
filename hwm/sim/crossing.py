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


def moving_textures(moves_NH: np.ndarray, *, grids: int, rng: np.random.Generator) -> np.ndarray:
    """Random textures, every row moved sideways by its number of places a grid, around the edge: ids (N, T, H, W)."""
    texture_NHW = rng.integers(IDS, size=(*moves_NH.shape, GRID[1]))
    column_NTHW = np.arange(GRID[1]) - moves_NH[:, None, :, None] * np.arange(grids)[:, None, None]
    return np.take_along_axis(texture_NHW[:, None].repeat(grids, 1), (column_NTHW % GRID[1]).astype(np.int64), 3)


def write_crossing(root: Path, *, crossings: Sequence[int], clips: int, seed: Sequence[int], apart: bool = False) -> Path:
    """Write a dataset of tokens in the v2.0 layout, a clip of two blocks a segment; one that is there stays.

    crossings: places that a texture crosses from grid to grid; each clip has one of them and goes left or right.
    apart: each row does so by itself.  States are noise, which tells nothing.
    """
    if (root / "metadata.json").is_file():
        return root
    rng = np.random.default_rng(seed)
    alike = (clips, GRID[0] if apart else 1)
    moves_NH = np.broadcast_to(rng.choice(crossings, alike) * rng.choice((-1, 1), alike), (clips, GRID[0]))
    tokens_NTHW = moving_textures(moves_NH, grids=BLOCKS * COSMOS.grids, rng=rng).reshape(-1, COSMOS.grids, *GRID)
    segments = np.repeat(np.arange(clips, dtype=np.int32), BLOCKS * COSMOS.block)
    states = rng.normal(size=(len(segments), 25)).astype(np.float32)
    TokenShardWriter(root, 0, vocab_size=IDS).write(tokens_NTHW, states, segments)
    about = {"crossings": list(map(int, crossings)), "apart": apart, "seed": list(seed)}
    write_tokenizer_info(
        root, name="moving textures", fingerprint="moving textures", vocab_size=IDS, grid=GRID, clock=COSMOS, config=about
    )
    write_dataset_metadata(root, num_shards=1, num_images=len(segments))
    return root
