"""How much faster does state-conditioned Wan train and sample than the plain way?   python benchmarks/wan.py

Both in alternation on the same weights: a training step, and a guided ensemble of 8 futures of one clip.  "tiny" has the
sizes of wan-tiny, "wide" blocks of 1024 on the 1536 tokens of frames of 512x512.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.naive_wan import NaiveWan
from benchmarks.timing import compare, extra_memory, machine
from hwm.contracts import Batch
from hwm.model_config import WanConfig
from hwm.models.wan.model import WanWorldModel

TINY = WanConfig(
    base="",
    lora_rank=0,
    channels=16,
    grid=(8, 8),
    num_layers=4,
    num_heads=4,
    head_width=24,
    mlp_width=384,
    time_width=64,
    text_width=16,
    text_rows=1,
    steps=10,
    guidance=1.5,
)
WIDE = dataclasses.replace(
    TINY, channels=48, grid=(32, 32), num_layers=2, num_heads=8, head_width=128, mlp_width=4096, text_rows=512, steps=2
)
SIZES = {"tiny": TINY, "wide": WIDE}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small job, to see that it runs")
    parser.add_argument("--size", choices=list(SIZES), default="tiny")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--members", type=int, default=8)
    return parser.parse_args()


def build(config: WanConfig, batch_size: int) -> tuple[NaiveWan, WanWorldModel, Batch]:
    """Both models with the same weights, states that act, and a batch."""
    torch.manual_seed(0)
    ours = WanWorldModel(config)
    torch.nn.init.normal_(ours.states.out.weight, std=0.02)
    latents = torch.randn(batch_size, config.context_grids + config.future_grids, config.channels, *config.grid)
    return NaiveWan(ours), ours, Batch(states_BFA=torch.randn(batch_size, 77, 25), latents_BTCHW=latents)


def measure_training(config: WanConfig, args: argparse.Namespace, batch_size: int) -> str:
    """Loss, gradients and AdamW update."""
    plain, ours, batch = build(config, batch_size)
    adams = [torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True) for model in (plain, ours)]
    generator = torch.Generator()

    def plain_step() -> None:
        plain.loss(batch, generator).backward()
        adams[0].step()
        adams[0].zero_grad()

    def ours_step() -> None:
        ours.loss(batch, generator=generator)["loss"].backward()
        adams[1].step()
        adams[1].zero_grad()

    row = compare(plain_step, ours_step, repeats=args.repeats)
    return f"{row} | {extra_memory(plain_step):.2f} | {extra_memory(ours_step):.2f}"


def measure_ensemble(config: WanConfig, args: argparse.Namespace) -> str:
    """All members of one clip, with guidance."""
    plain, ours, batch = build(config, 1)
    shape = (args.members, config.future_grids, config.channels, *config.grid)
    generators = [torch.Generator().manual_seed(k) for k in range(args.members)]

    def noise() -> torch.Tensor:
        return torch.stack([torch.randn(shape[1:], generator=g.manual_seed(k)) for k, g in enumerate(generators)])

    def plain_run() -> torch.Tensor:
        return plain.ensemble(batch, noise())

    def ours_run() -> torch.Tensor:
        fresh = [torch.Generator().manual_seed(k) for k in range(args.members)]
        assert batch.latents_BTCHW is not None
        context = batch.latents_BTCHW[:, : config.context_grids]
        latents = ours.predict(context, batch.states_BFA, generator=fresh, num_samples=args.members).latents_BKTCHW
        assert latents is not None
        return latents[0]

    row = compare(plain_run, ours_run, repeats=args.repeats)
    difference = (plain_run() - ours_run()).abs().max().item()
    return f"{row} | {extra_memory(plain_run):.2f} | {extra_memory(ours_run):.2f} | {difference:.1e}"


def main() -> None:
    """Print a row of each measurement."""
    args = options()
    torch.set_num_threads(args.threads)
    config = SIZES[args.size]
    if args.quick:
        config = dataclasses.replace(config, num_layers=1, steps=2, grid=(8, 8))
    batch_size = 16 if args.size == "tiny" else 1
    print(machine())
    print(f"{args.size}; plain CPU s | ours CPU s | ratio (min - max) | extra GB plain | ours")
    print(f"training step of {batch_size}: {measure_training(config, args, batch_size)}")
    print(f"{args.members} members, {config.steps} guided steps: {measure_ensemble(config, args)} largest difference")


if __name__ == "__main__":
    main()
