"""Tiny data in the real layouts, and `hwm` as a process of its own, for the fault tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from moving_square import write_moving
from tiny_training import CONFIG

from hwm.clock import COSMOS
from hwm.config import override, to_toml
from hwm.data.writers import TokenShardWriter, write_dataset_metadata, write_tokenizer_info
from hwm.model_config import FSQConfig
from hwm.tokenizers.autoencoder import FSQTokenizer
from hwm.tokenizers.open import save_tokenizer

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "hwm"]
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("RANK", "WORLD_SIZE", "SLURM_"))} | {
    "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"
}


def token_data(root: Path, *, shards: int = 2, segments: tuple[int, ...] = (70, 50)) -> Path:
    """A dataset of tokens for the model of tiny_training: 2 x 2 grids, 32 words; each grid continues the one before."""
    rng = np.random.default_rng(0)
    write_tokenizer_info(root, name="tiny", fingerprint="tiny", vocab_size=32, grid=(2, 2), clock=COSMOS, config={})
    frames = sum(segments)
    blocks = COSMOS.stored_blocks(frames)
    for shard in range(shards):
        first = rng.integers(32, size=(blocks, 1, 2, 2))
        tokens = (first + np.arange(3)[:, None, None]) % 32
        states = rng.normal(size=(frames, 25)).astype(np.float32)
        ids = np.repeat(np.arange(len(segments)), segments).astype(np.int32)
        TokenShardWriter(root, shard, vocab_size=32).write(tokens, states, ids)
    write_dataset_metadata(root, num_shards=shards, num_images=shards * frames)
    return root


def raw_data(root: Path, *, shards: int = 2, frames: int = 70) -> Path:
    """A raw dataset of a bright square that moves."""
    return write_moving(root, rng=np.random.default_rng(0), frames=frames, segments=2, shards=shards)


def tokenizer(folder: Path) -> Path:
    """A folder with an untrained tokenizer of 200 words."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return save_tokenizer(FSQTokenizer(FSQConfig(levels=(8, 5, 5), channels=8, depth=1)), folder)


def train_command(place: Path, data: Path, *changes: str, out: str = "run") -> list[str]:
    """The command line that trains tiny_training's model on `data` in place/out; the configuration is a file in `place`."""
    config = place / f"{out}.toml"
    config.write_text(to_toml(override(CONFIG, list(changes))), encoding="utf-8")
    return [*COMMAND, "train", "--config", str(config), "--out", str(place / out), "--data", str(data), "--val", str(data)]


def start(command: list[str], **options) -> subprocess.Popen[str]:
    """A process whose standard output and errors are read as one text."""
    options = {"env": ENVIRONMENT, "cwd": ROOT} | options
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
