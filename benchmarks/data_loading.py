"""How fast do token clips come from disk, against a loop over windows?   python benchmarks/data_loading.py"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import compare, extra_memory, machine
from hwm.clock import COSMOS
from hwm.contracts import Batch
from hwm.data import layout
from hwm.data.clips import Clips, sample_indices
from hwm.data.onex import open_dataset
from hwm.data.writers import TokenShardWriter, write_dataset_metadata, write_tokenizer_info

GRID, NUM_STATES, BATCH = (16, 16), 64, 16


class PlainClips:
    """Whole shards in memory, windows found one by one, clips gathered one by one."""

    def __init__(self, root: Path, num_shards: int) -> None:
        self.shards, self.windows = [], []
        for i in range(num_shards):
            segments = np.fromfile(layout.SEGMENTS.find(root, i), "<i4")
            states = np.fromfile(layout.STATES.find(root, i), "<f4").reshape(len(segments), 25)
            tokens = np.fromfile(layout.TOKENS.find(root, i), "<i4").reshape(-1, 3, *GRID)
            self.shards.append((tokens, states, segments))
            for start in range(0, len(segments) - 33, 17):
                if all(segments[start + k] == segments[start] for k in range(34)):
                    self.windows.append((i, start))

    def batch(self, indices: np.ndarray) -> Batch:
        """The same clips as Clips gives."""
        clips, rows = [], []
        for index in indices:
            shard, start = self.windows[index]
            tokens, states, segments = self.shards[shard]
            clips.append(torch.tensor(tokens[start // 17 : start // 17 + 2].reshape(6, *GRID)).long())
            picked, row = [], start
            for _ in range(NUM_STATES):
                picked.append(torch.tensor(states[row]))
                if row + 1 < len(segments) and segments[row + 1] == segments[start]:
                    row += 1
            rows.append(torch.stack(picked))
        return Batch(states_BFA=torch.stack(rows), tokens_BTHW=torch.stack(clips))


def write(root: Path, *, num_shards: int, frames: int) -> None:
    """Random tokens and states in segments of 100 to 1000 frames."""
    rng = np.random.default_rng(0)
    write_tokenizer_info(root, name="random", fingerprint="0", vocab_size=64000, grid=GRID, clock=COSMOS, config={})
    for i in range(num_shards):
        lengths = rng.integers(100, 1000, frames // 100)
        segments = np.repeat(np.arange(len(lengths)), lengths)[:frames].astype(np.int32)
        tokens = rng.integers(0, 64000, (COSMOS.stored_blocks(frames), 3, *GRID))
        TokenShardWriter(root, i).write(tokens, rng.normal(size=(frames, 25)).astype(np.float32), segments)
    write_dataset_metadata(root, num_shards=num_shards, num_images=num_shards * frames)


def main() -> None:
    """Open and first batch, then batches of random clips, in alternation with the plain loader."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small dataset, to see that it runs")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    num_shards, frames, batches = (2, 10_000, 5) if args.quick else (4, 100_000, 50)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root, num_shards=num_shards, frames=frames)

        def open_ours() -> Clips:
            return Clips(open_dataset(root), kind="block_pairs", num_states=NUM_STATES)

        def first_batch(clips: Clips | PlainClips, num_clips: int) -> Batch:
            return clips.batch(sample_indices(seed=0, step=0, batch_size=BATCH, num_clips=num_clips))

        ours, plain = open_ours(), PlainClips(root, num_shards)
        assert len(ours) == len(plain.windows)
        picks = [sample_indices(seed=0, step=s, batch_size=BATCH, num_clips=len(ours)) for s in range(batches)]
        for pick in picks:
            a, b = ours.batch(pick), plain.batch(pick)
            assert torch.equal(a.tokens_BTHW, b.tokens_BTHW) and torch.equal(a.states_BFA, b.states_BFA)

        def plain_open() -> Batch:
            clips = PlainClips(root, num_shards)
            return first_batch(clips, len(clips.windows))

        def ours_open() -> Batch:
            clips = open_ours()
            return first_batch(clips, len(clips))

        print(machine())
        print(f"{num_shards} shards of {frames} frames, {len(ours)} clips; equal batches")
        print("plain CPU s | ours CPU s | ratio, median (min - max)")
        print("open, index, first batch:", compare(plain_open, ours_open, repeats=args.repeats))
        print(
            f"{batches} batches of {BATCH}:",
            compare(lambda: [plain.batch(p) for p in picks], lambda: [ours.batch(p) for p in picks], repeats=args.repeats),
        )
        print(f"extra memory GB to open: plain {extra_memory(plain_open):.3f} | ours {extra_memory(ours_open):.3f}")


if __name__ == "__main__":
    main()
