"""Tiny data in the real layouts, and `hwm` as a process of its own, for the fault tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from moving_square import write_moving
from tiny_training import CONFIG

from hwm.clock import COSMOS
from hwm.config import override, to_toml
from hwm.data.writers import TokenShardWriter, write_dataset_metadata, write_tokenizer_info
from hwm.model_config import FSQConfig
from hwm.tokenizers.open import new_tokenizer, save_tokenizer

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "hwm"]
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("RANK", "WORLD_SIZE", "SLURM_"))} | {
    "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"
}


def token_data(
    root: Path, *, shards: int = 2, segments: Sequence[int] = (70, 50), vocab_size: int = 32, side: int = 2,
    fingerprint: str = "tiny",
) -> Path:  # fmt: skip
    """A dataset of tokens, as it is for the model of tiny_training; each grid of a block continues the one before."""
    rng, grid = np.random.default_rng(0), (side, side)
    write_tokenizer_info(root, name="tiny", fingerprint=fingerprint, vocab_size=vocab_size, grid=grid, clock=COSMOS, config={})
    frames = sum(segments)
    blocks = COSMOS.stored_blocks(frames)
    for shard in range(shards):
        first = rng.integers(vocab_size, size=(blocks, 1, *grid))
        tokens = (first + np.arange(3)[:, None, None]) % vocab_size
        states = rng.normal(size=(frames, 25)).astype(np.float32)
        ids = np.repeat(np.arange(len(segments)), segments).astype(np.int32)
        TokenShardWriter(root, shard, vocab_size=vocab_size).write(tokens, states, ids)
    write_dataset_metadata(root, num_shards=shards, num_images=shards * frames)
    return root


def raw_data(root: Path, *, shards: int = 2, frames: int = 70) -> Path:
    """A raw dataset of a bright square that moves."""
    return write_moving(root, rng=np.random.default_rng(0), frames=frames, segments=2, shards=shards)


def tokenizer(folder: Path, *, seed: int = 0, **changes) -> Path:
    """A folder with an untrained tokenizer, of 200 words or of other `changes` of its configuration."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = FSQConfig(**{"levels": (8, 5, 5), "channels": 8, "depth": 1} | changes)
        return save_tokenizer(new_tokenizer(config, name=""), folder)


def train_command(place: Path, data: Path, *changes: str, out: str = "run") -> list[str]:
    """The command line that trains tiny_training's model on `data` in place/out; the configuration is a file in `place`."""
    config = place / f"{out}.toml"
    config.write_text(to_toml(override(CONFIG, list(changes))), encoding="utf-8")
    return [*COMMAND, "train", "--config", str(config), "--out", str(place / out), "--data", str(data), "--val", str(data)]


def alive(process: int | str) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def start(command: list[str], **options) -> subprocess.Popen[str]:
    """A process whose standard output and errors are read as one text."""
    options = {"env": ENVIRONMENT, "cwd": ROOT} | options
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
