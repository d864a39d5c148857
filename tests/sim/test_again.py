"""A recording simulated again: the same moment, the same future, and another one where somebody commands it."""

import numpy as np
import pytest
from refusing import refused

from hwm.data.onex import open_dataset
from hwm.sim.again import Again, simulated


@pytest.fixture
def recorded(dataset):
    """A shard of it, and a frame inside its second segment."""
    shard = open_dataset(dataset / "train_v2.0_raw").shards[0]
    return shard, int(np.searchsorted(shard.segments, 1)) + 9 if shard.segments.max() else 9


def test_it_comes_to_the_same_moment_and_goes_on_as_recorded(dataset, recorded):
    shard, frame = recorded
    again = Again(dataset / "train_v2.0_raw")
    states, pictures = [again.begin(shard, frame)], [again.picture()]
    for _ in range(8):
        states.append(again.go_on())
        pictures.append(again.picture())
    again.close()
    assert np.array_equal(np.stack(states), shard.read_states(np.arange(frame, frame + 9)))
    coded = np.abs(np.stack(pictures).astype(int) - shard.read(frame, 9)).mean()
    assert coded < 4  # levels: the recording went through a video file


def test_commanded_it_goes_elsewhere_and_can_begin_anew(dataset, recorded):
    shard, frame = recorded
    again = Again(dataset / "train_v2.0_raw")
    row = again.begin(shard, frame)
    first, wanted = again.picture(), row.copy()
    wanted[20] -= 0.3  # the neck
    for _ in range(5):
        reached = again.follow(wanted)
    assert reached[20] < row[20] - 0.1 and np.abs(again.picture().astype(int) - first).mean() > 2
    assert np.array_equal(again.begin(shard, frame), row) and np.array_equal(again.picture(), first)
    again.close()


def test_other_data_are_refused_and_so_is_what_does_not_come_out_the_same(dataset, recorded, tmp_path):
    assert simulated(dataset / "train_v2.0_raw") and not simulated(tmp_path)
    refused("was not written by `hwm simulate`", Again, tmp_path)
    shard, frame = recorded
    refused("does not come out the same here", Again(dataset / "val_v2.0_raw").begin, shard, frame)
