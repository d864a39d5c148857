"""What comes with the package: small, whole, told of, and of use without anything else."""

import numpy as np
import pytest

import hwm
from hwm.publish.folder import CARD, WEIGHTS, read_published
from hwm.publish.trained import SHIPPED, located, shipped

WORLDS = ("hwm-sim", "hwm-g1")
MOST_BYTES = 16_000_000


@pytest.mark.parametrize("name", sorted(path.name for path in SHIPPED.iterdir()))
def test_what_is_shipped_is_small_whole_and_told_of(name):
    folder = located(name)
    assert name in shipped() and (folder / WEIGHTS).stat().st_size <= MOST_BYTES
    read_published(folder)  # compares every checksum
    told = (folder / CARD).read_text()
    assert "not said" not in told and "## Limits" in told and "hwm train" in told
    if name in WORLDS:
        assert "## Scores" not in told or "None lie with the run" not in told


@pytest.mark.parametrize("name", WORLDS)
def test_a_shipped_world_predicts_and_samples(name):
    world = hwm.load(name, device="cpu")
    frames = np.full((world.context_frames, *world.size, 3), 90, np.uint8)
    states = np.tile(world.model.neutral_state_A.numpy(), (world.context_frames + 3, 1))
    once = world.predict(frames, states, num_frames=3)
    drawn = world.predict(frames, states, num_frames=3, samples=2, seed=1)
    assert world.run.name == name and once.frames.shape == (1, 3, *world.size, 3) and len(world.states) == states.shape[1]
    assert drawn.frames.shape[0] == 2 and drawn.spread.max() > 0
