import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwm.data.clips import _permutation, sample_indices


@given(st.integers(0, 2**40), st.integers(1, 60), st.integers(1, 5), st.integers(1, 3))
def test_an_epoch_never_repeats_a_clip(seed, num_clips, batch_size, world):
    steps = num_clips // (batch_size * world)
    for epoch in range(2):
        seen = [
            sample_indices(seed=seed, step=epoch * steps + s, batch_size=batch_size, num_clips=num_clips, rank=r, world=world)
            for s in range(steps)
            for r in range(world)
        ]
        flat = np.concatenate(seen) if seen else np.zeros(0, int)
        assert len(set(flat.tolist())) == len(flat) == steps * batch_size * world
        assert not len(flat) or (flat.min() >= 0 and flat.max() < num_clips)


def test_pure_function_of_seed_and_step():
    def batch(step, seed=3):
        return sample_indices(seed=seed, step=step, batch_size=4, num_clips=22)

    forward = [batch(step) for step in range(30)]
    _permutation.cache_clear()
    backward = [batch(step) for step in reversed(range(30))][::-1]
    np.testing.assert_array_equal(forward, backward)
    assert any((batch(s) != batch(s, seed=4)).any() for s in range(5))
    assert (forward[0] != forward[5]).any(), "the second epoch has an order of its own"
    assert forward[0].dtype == np.int64


def test_world_size_may_change():
    whole = sample_indices(seed=1, step=7, batch_size=12, num_clips=100)
    for world in (2, 3, 4):
        parts = [sample_indices(seed=1, step=7, batch_size=12 // world, num_clips=100, rank=r, world=world) for r in range(world)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_fewer_clips_than_a_batch():
    batch = sample_indices(seed=0, step=5, batch_size=8, num_clips=3)
    assert sorted(np.bincount(batch).tolist()) == [2, 3, 3]


@pytest.mark.parametrize("wrong", [{"num_clips": 0}, {"batch_size": 0}, {"rank": 2, "world": 2}, {"step": -1}])
def test_senseless_arguments(wrong):
    with pytest.raises(ValueError, match="sampling needs"):
        sample_indices(**({"seed": 0, "step": 0, "batch_size": 1, "num_clips": 1} | wrong))
