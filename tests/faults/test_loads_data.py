"""Loads of data: memory of the tokenizer over the length of a video."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_line import tokenizer

from hwm.data.writers import RawShardWriter, write_dataset_metadata

ROOT = Path(__file__).resolve().parents[2]
MEASURE = """
import resource, sys
from hwm.tokenizers.encode import tokenize
for name in sys.argv[3:]:
    tokenize(f"{sys.argv[1]}/raw{name}", f"{sys.argv[1]}/out{name}", tokenizer=f"{sys.argv[1]}/coder", size=int(sys.argv[2]))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peaks(root, size, *names):
    """Largest resident memory of a process, in MB, after it has tokenized each of these."""
    command = [sys.executable, "-c", MEASURE, str(root), str(size), *map(str, names)]
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return [float(x) for x in subprocess.run(command, env=settings, capture_output=True, text=True, check=True).stdout.split()]


def record(root, *, seconds, side):
    """Flat pictures that change, quick to write, as long as asked."""
    with RawShardWriter(root, shard=0, height=side, width=side) as writer:
        for second in range(seconds):
            frames = np.empty((30, side, side, 3), np.uint8)
            frames[:] = (second * 30 + np.arange(30)).reshape(30, 1, 1, 1) % 256
            writer.append(frames, np.zeros((30, 25), np.float32), second // 60)
    write_dataset_metadata(root, num_shards=1, num_images=30 * seconds)
    return root


@pytest.mark.fault("L6", "memory does not grow with the length of the video")
@pytest.mark.parametrize("side, size, short, long", [
    (64, 32, 5, 50), pytest.param(512, 64, 60, 900, marks=[pytest.mark.full, pytest.mark.timeout(1200)])
])
def test_memory_does_not_grow_with_the_video(tmp_path, side, size, short, long, record_property):
    tokenizer(tmp_path / "coder", channels=4)
    for seconds in (short, long):
        record(tmp_path / f"raw{seconds}", seconds=seconds, side=side)
    first, second = peaks(tmp_path, size, short, long)
    assert second - first < 40, "states of an hour are 11 MB"
    record_property("measured", f"{side} x {side}: {first:.0f} MB for {short} s of video, {second:.0f} MB for {long} s")
