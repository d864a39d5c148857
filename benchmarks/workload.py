"""The job that the model benchmarks share, and both implementations with the same weights."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses

import torch

from benchmarks.naive_st import NaiveST
from hwm.contracts import Batch
from hwm.model_config import STConfig
from hwm.models.st_transformer import STTransformer

JOB = STConfig(
    vocab_size=64000, grid=(16, 16), num_layers=6, num_heads=8, width=256, state_hidden=1024, dropout=0.0
)
"""6 layers x 256 over 16x16 grids, 3 given and 3 predicted, all 64 000 words."""

QUICK = dataclasses.replace(JOB, vocab_size=8000, grid=(8, 8), num_layers=2)


def options(description: str) -> argparse.Namespace:
    """Options of a benchmark of the model."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a small job, to see that it runs")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--dropout", type=float, default=0.0, help="rate while training; 0 leaves both equal")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=2)
    return parser.parse_args()


def build(args: argparse.Namespace) -> tuple[NaiveST, STTransformer, Batch]:
    """The plain model, ours with the same weights, and a batch."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    config = dataclasses.replace(QUICK if args.quick else JOB, dropout=args.dropout)
    ours, plain = STTransformer(config), NaiveST(config)
    plain.load_state_dict(ours.state_dict(), strict=True)
    tokens = torch.randint(config.vocab_size, (args.batch, 6, *config.grid))
    return plain, ours, Batch(states_BFA=torch.randn(args.batch, config.num_states, 25), tokens_BTHW=tokens)


def precision(args: argparse.Namespace) -> contextlib.AbstractContextManager[object]:
    """Autocast where bfloat16 is asked for."""
    return torch.autocast("cpu", torch.bfloat16) if args.precision == "bfloat16" else contextlib.nullcontext()
