"""Small datasets in the real layouts."""

import json
from pathlib import Path

import numpy as np
import pytest

from hwm.clock import COSMOS
from hwm.data import writers

VOCAB = 1000
GRID = (4, 4)


def segment_ids(lengths):
    return np.repeat(np.arange(len(lengths)), lengths).astype(np.int32)


def write_tokens(root: Path, shards=((60, 45), (17, 80, 12)), *, flat=False, seed=0):
    """A token dataset; every shard is a list of segment lengths. States hold the frame number in dimension 0."""
    rng = np.random.default_rng(seed)
    writers.write_tokenizer_info(
        root, name="t", fingerprint="f", vocab_size=VOCAB, grid=GRID, clock=COSMOS, config={"family": "fsq"}
    )
    for i, lengths in enumerate(shards):
        frames = sum(lengths)
        states = rng.normal(size=(frames, 25)).astype(np.float32)
        states[:, 0] = np.arange(frames)
        tokens = rng.integers(0, VOCAB, (COSMOS.stored_blocks(frames), 3, *GRID))
        writers.TokenShardWriter(root, i, flat=flat, vocab_size=VOCAB).write(tokens, states, segment_ids(lengths))
    writers.write_dataset_metadata(root, num_shards=len(shards), num_images=sum(map(sum, shards)))
    return root


def picture(number, side=32):
    """A flat grey picture whose brightness tells which frame it is, up to 40 frames apart."""
    return np.full((side, side, 3), 20 + 5 * (number % 40), np.uint8)


def write_raw(root: Path, shards=((40, 45), (30,)), *, flat=False, side=32):
    rng = np.random.default_rng(0)
    for i, lengths in enumerate(shards):
        done = 0
        with writers.RawShardWriter(root, shard=i, height=side, width=side, flat=flat) as writer:
            for segment, length in enumerate(lengths):
                frames = np.stack([picture(done + k, side) for k in range(length)])
                states = rng.normal(size=(length, 25)).astype(np.float32)
                states[:, 0] = np.arange(done, done + length)
                writer.append(frames, states, segment)
                done += length
    writers.write_dataset_metadata(root, num_shards=len(shards), num_images=sum(map(sum, shards)))
    return root


def write_legacy(root: Path, *, tokens_NHW, segments, actions):
    """A v1.1 dataset; actions by the names of their files, each (N, width)."""
    num_frames, height, width = tokens_NHW.shape
    (root / "actions").mkdir(parents=True)
    np.asarray(tokens_NHW, "<u4").tofile(root / "video.bin")
    np.asarray(segments, "<i4").tofile(root / "segment_ids.bin")
    for name, rows in actions.items():
        np.asarray(rows, "<f4").tofile(root / "actions" / f"{name}.bin")
    shape = {"s": height, "h": height, "w": width, "vocab_size": 2**18}
    (root / "metadata.json").write_text(json.dumps({"token_dtype": "uint32", **shape, "hz": 30, "num_images": num_frames}))
    return root


@pytest.fixture
def token_root(tmp_path):
    return write_tokens(tmp_path / "tokens")


@pytest.fixture
def raw_root(tmp_path):
    return write_raw(tmp_path / "raw")


@pytest.fixture(scope="session")
def make_tokens():
    return write_tokens


@pytest.fixture(scope="session")
def make_legacy():
    return write_legacy


@pytest.fixture(scope="session")
def make_raw():
    return write_raw
