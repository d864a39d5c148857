"""Textures that move from place to place: their motion is known, and their files are of the usual layout."""

import numpy as np

from hwm.data.clips import Clips
from hwm.data.onex import open_dataset
from hwm.sim.crossing import GRID, IDS, moving_textures, write_crossing


def test_a_texture_moves_by_its_places_and_does_not_come_back_within_a_clip():
    moves = np.array([[0, 1, -3, 8], [0, 0, 0, 0]])
    tokens = moving_textures(moves, grids=6, rng=np.random.default_rng(0))
    assert tokens.shape == (2, 6, *GRID) and tokens.min() >= 0 and tokens.max() < IDS
    for move, row in zip(moves.flatten(), tokens.swapaxes(1, 2).reshape(8, 6, GRID[1])):
        assert all(np.array_equal(row[t + 1], np.roll(row[t], move)) for t in range(5))
        assert all(np.array_equal(row[0], row[t]) == (move == 0) for t in range(1, 6))


def test_the_files_are_a_dataset_of_one_clip_a_segment_that_is_written_once(tmp_path):
    options = {"crossings": (2, 5), "clips": 12, "seed": (0, 1)}
    dataset = open_dataset(write_crossing(tmp_path / "a", **options))
    assert not [finding for finding in dataset.check() if finding.level == "error"]
    clips = Clips(dataset, kind="block_pairs", overlap=True, num_states=34)
    assert len(clips) == 12 and dataset.sizes() == {"grid": GRID, "vocab_size": IDS}
    tokens = clips.batch(np.arange(12)).tokens_BTHW.numpy()
    moved = {next(m for m in range(-8, 9) if np.array_equal(np.roll(clip[0], m, axis=-1), clip[1])) for clip in tokens}
    assert moved == {-5, -2, 2, 5}
    apart = open_dataset(write_crossing(tmp_path / "apart", **options, apart=True))
    rows = Clips(apart, kind="block_pairs", overlap=True, num_states=34).batch(np.arange(12)).tokens_BTHW.numpy()
    assert {next(m for m in range(-8, 9) if np.array_equal(np.roll(a, m), b)) for c in rows for a, b in zip(*c[:2])} == moved
    assert any(not any(np.array_equal(np.roll(c[0], m, axis=-1), c[1]) for m in moved) for c in rows)
    before = (tmp_path / "a/metadata.json").stat().st_mtime_ns
    write_crossing(tmp_path / "a", **options)
    again = open_dataset(write_crossing(tmp_path / "b", **options))
    assert (tmp_path / "a/metadata.json").stat().st_mtime_ns == before and again.fingerprint == dataset.fingerprint
