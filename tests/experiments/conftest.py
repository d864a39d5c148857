"""Recordings of a square that moves with the first state."""

import numpy as np
import pytest

from hwm.data.writers import RawShardWriter, write_dataset_metadata


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("recordings"), np.random.default_rng(0)
    for name, segments in (("train", 2), ("val", 2), ("val_unseen", 7)):
        folder = root / f"{name}_v2.0_raw"
        with RawShardWriter(folder, shard=0, height=64, width=64) as writer:
            for segment in range(segments):
                states = rng.normal(size=(80, 25)).astype(np.float32).cumsum(0) * 0.1
                frames = np.full((80, 64, 64, 3), 90, np.uint8)
                for frame, state in zip(frames, states):
                    x = int(np.clip(24 + 12 * state[0], 0, 48))
                    frame[16:32, x : x + 16] = 200
                writer.append(frames, states, segment)
        write_dataset_metadata(folder, num_shards=1, num_images=80 * segments)
    return root
