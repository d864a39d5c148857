"""The real size: 100 shards of 112 542 frames (reference A.3, F row 5), with sparse files in place of the tokens."""

import subprocess
import sys

import numpy as np
import pytest

from hwm.clock import COSMOS
from hwm.data import layout, writers
from hwm.data.clips import Clips
from hwm.data.onex import open_dataset
from hwm.data.windows import ClipIndex
from hwm.work.files import write_array, write_json

NUM_SHARDS, NUM_FRAMES, MEAN_SEGMENT = 100, 112542, 421


@pytest.fixture(scope="module")
def real_size(tmp_path_factory):
    root = tmp_path_factory.mktemp("scale")
    rng = np.random.default_rng(0)
    for i in range(NUM_SHARDS):
        segments = np.cumsum(rng.random(NUM_FRAMES) < 1 / MEAN_SEGMENT)
        write_array(layout.SEGMENTS.place(root, i, flat=False), segments, "<i4")
        tokens = COSMOS.stored_blocks(NUM_FRAMES) * 3 * 32 * 32 * 4
        for kind, size in ((layout.TOKENS, tokens), (layout.STATES, NUM_FRAMES * 100)):
            path = kind.place(root, i, flat=False)
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as file:
                file.truncate(size)
        write_json(layout.METADATA.place(root, i, flat=False), {"shard_num_frames": NUM_FRAMES, "shard_ind": i})
    writers.write_dataset_metadata(root, num_shards=NUM_SHARDS, num_images=NUM_SHARDS * NUM_FRAMES)
    assert (root / "metadata.json").stat().st_size == 68
    return root


def test_published_counts(real_size):
    dataset = open_dataset(real_size)
    assert sum(COSMOS.num_blocks(s.num_frames) for s in dataset.shards) == 662_000
    blocks = ClipIndex.build(dataset, kind="blocks", overlap=True)
    assert len(blocks) == pytest.approx(636_775, rel=0.002), "counted on the real training set"
    assert len(Clips(dataset, overlap=False, kind="block_pairs")) == pytest.approx(306_000, rel=0.005), "Revontuli report"
    assert len(Clips(dataset, overlap=True, kind="block_pairs")) == pytest.approx(611_000, rel=0.005)


MEASURE = """
import resource, sys, time
import torch
from hwm.data.clips import Clips, sample_indices
from hwm.data.onex import open_dataset
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
clips = Clips(open_dataset(sys.argv[1]), kind="block_pairs", overlap=False, num_states=64)
batch = clips.batch(sample_indices(seed=0, step=0, batch_size=160, num_clips=len(clips)))
print(time.process_time() - start, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, len(batch))
"""


@pytest.mark.fault("L4", "<= 1.5 s and <= 150 MB above torch")
def test_open_shuffle_first_batch(real_size, record_property):
    """Seconds of CPU and memory above the imports, in a process of its own."""
    output = subprocess.run([sys.executable, "-c", MEASURE, str(real_size)], capture_output=True, text=True, check=True)
    seconds, megabytes, clips = map(float, output.stdout.split())
    assert clips == 160
    assert seconds <= 1.5 and megabytes <= 150
    record_property("measured", f"{seconds:.2f} s of CPU, {megabytes:.0f} MB")
