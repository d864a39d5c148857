"""Recordings of a square that moves with the first state, and the tokens of them that most experiments learn from."""

import numpy as np
import pytest
from moving_square import write_moving

from hwm.prepare import encoded


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("recordings"), np.random.default_rng(0)
    for name, segments in (("train", 2), ("val", 2), ("val_unseen", 7)):
        write_moving(root / f"{name}_v2.0_raw", rng=rng, frames=80, segments=segments, side=64)
    encoded(root, root / "tokens", tokenizer="fsq-8x8x8")
    return root
