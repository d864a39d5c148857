"""A tiny recipe with its data, and the verdicts of single checks."""

from dataclasses import replace

import numpy as np
import torch

from hwm.clock import COSMOS
from hwm.config import DataConfig, RunConfig, TrainConfig
from hwm.data.writers import TokenShardWriter, write_dataset_metadata, write_tokenizer_info
from hwm.doctor.verdict import Examination
from hwm.model_config import STConfig, WanConfig
from hwm.robot import EVE

CPU = torch.device("cpu")
ST = STConfig(
    vocab_size=200, factors=(8, 5, 5), grid=(2, 2), num_layers=1, num_heads=2, width=16, mlp_ratio=2, state_hidden=16,
    num_states=34,
)  # fmt: skip
TRAIN = TrainConfig(
    steps=6, batch_size=8, lr=1e-2, validate_every=3, validate_clips=4, checkpoint_every=3, threads=1, device="cpu"
)  # fmt: skip
WAN = WanConfig(
    base="", channels=4, grid=(4, 4), num_layers=1, num_heads=2, head_width=12, mlp_width=32, time_width=16, text_width=8,
    text_rows=1, lora_rank=0, state_hidden=16,
)  # fmt: skip


def states_of(frames, seed):
    """Rows of states of the built-in robot's usual size, each different."""
    drawn = np.random.default_rng(seed).normal(size=(frames, 25))
    return (np.array(EVE.mean) + np.array(EVE.std) * drawn).astype(np.float32)


def write_tokens(root, seed, fingerprint, *, states=None, frames=170):
    """Two shards of random tokens, one segment each."""
    rng = np.random.default_rng(seed)
    for shard in range(2):
        rows = states_of(frames, 10 * seed + shard) if states is None else states
        tokens = rng.integers(200, size=(frames // 17, COSMOS.grids, 2, 2)).astype(np.int32)
        TokenShardWriter(root, shard).write(tokens, rows, np.full(frames, shard, np.int32))
    write_tokenizer_info(root, name="coder", fingerprint=fingerprint, vocab_size=200, grid=(2, 2), clock=COSMOS, config={})
    write_dataset_metadata(root, num_shards=2, num_images=2 * frames)
    return root


def config_of(home, **changes):
    given = DataConfig(train=str(home / "train"), val=str(home / "val"))
    return RunConfig(recipe="tiny", tokenizer=str(home / "coder"), model=ST, data=given, train=replace(TRAIN, **changes))


def asked(check, *arguments, **named):
    """The verdicts of one check as the page shows them, by name."""
    exam = Examination(lambda verdict: None)
    exam.ask("asked", check, *arguments, **named)
    return {verdict.name: verdict for verdict in exam.verdicts}


def the_one(verdicts, name, status):
    verdict = verdicts[name]
    assert verdict.status == status, verdict.line()
    assert bool(verdict.remedy) == (status != "ok") and "\n" not in verdict.line()
    return verdict
