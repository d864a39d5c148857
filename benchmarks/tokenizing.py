"""How fast is tokenizing against decoding alone, 512 x 512 H.264 to 256 x 256?   python benchmarks/tokenizing.py

Both are done by the same two worker processes, each with a video of its own; starting them is not counted.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import machine
from hwm.clock import COSMOS
from hwm.data import video
from hwm.data.dataset import Dataset
from hwm.data.onex import open_dataset
from hwm.data.quarantine import Rule
from hwm.data.writers import RawShardWriter, write_dataset_metadata
from hwm.tokenizers.shard_job import ShardEncoder, ShardJob, open_encoder
from hwm.work.signals import StopFlag
from hwm.work.workers import Tell, work_off

SIDE, SIZE, WORKERS = 512, 256, 2


def write(root: Path, *, frames: int) -> Dataset:
    """Moving patterns with a little noise, a shard for each worker."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / 40
    for shard in range(WORKERS):
        with RawShardWriter(root, shard=shard, height=SIDE, width=SIDE) as writer:
            for k in range(frames):
                wave = np.sin(x + 0.1 * k) * np.cos(y - 0.05 * k)
                picture = np.stack([wave, -wave, wave * wave], -1) * 100 + 128 + rng.normal(0, 3, (SIDE, SIDE, 1))
                writer.append(picture.clip(0, 255).astype(np.uint8)[None], np.zeros((1, 25), np.float32), 0)
    write_dataset_metadata(root, num_shards=WORKERS, num_images=WORKERS * frames)
    return open_dataset(root)


def prepare_decoding() -> Callable[[ShardJob, Tell], None]:
    """For a worker: decode and resize, keep nothing."""

    def run(job: ShardJob, tell: Tell) -> None:
        started = time.monotonic()
        for _ in video.iter_pictures(job.shard.video_path, size=SIZE):
            pass
        tell(time.monotonic() - started)

    return run


def prepare_tokenizing(tokenizer: str) -> Callable[[ShardJob, Tell], None]:
    """For a worker: what `hwm tokenize` does with a shard."""
    encode: ShardEncoder = open_encoder(tokenizer, False, "cpu")

    def run(job: ShardJob, tell: Tell) -> None:
        started, told = time.monotonic(), []
        encode(job, told.append)
        assert told[0].fault is None
        tell(time.monotonic() - started)

    return run


def main() -> None:
    """Alternated runs; frames a second of both workers together."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short video, to see that it runs")
    parser.add_argument("--tokenizer", default="fsq-8x8x8")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    frames = 68 if args.quick else 510
    with tempfile.TemporaryDirectory() as folder:
        dataset = write(Path(folder) / "raw", frames=frames)

        def speed(prepare: Callable[[], Callable[[ShardJob, Tell], None]], number: str) -> float:
            out, seconds = Path(folder) / number, []
            out.mkdir()
            jobs = [ShardJob(dataset.root, out, s, 0, Rule(COSMOS, 1, 0), SIZE, None, False) for s in dataset.shards]
            with StopFlag() as flag:
                work_off(jobs, prepare, workers=WORKERS, hear=seconds.append, flag=flag)
            return WORKERS * frames / max(seconds)

        print(machine())
        print(f"{WORKERS} workers, {frames} frames each: frames/s decoding | tokenizing | ratio")
        for k in range(1 if args.quick else args.repeats):
            decoding = speed(prepare_decoding, f"decoded {k}")
            tokenizing = speed(partial(prepare_tokenizing, args.tokenizer), f"tokens {k}")
            print(f"{decoding:8.0f} | {tokenizing:8.0f} | {tokenizing / decoding:.2f}", flush=True)


if __name__ == "__main__":
    main()
