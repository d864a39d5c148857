"""How much faster does Flow-HWM train and sample than the plain model?   python benchmarks/flow.py

Both in alternation on the same weights: a training step, and one sample of each clip in 50 guided steps.  The plain
model makes 100 calls.  A row for each way that the context is seen; "context" is computed once (ours).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.naive_flow import NaiveFlow
from benchmarks.timing import compare, extra_memory, machine
from benchmarks.workload import precision
from hwm.contracts import Batch
from hwm.model_config import FlowConfig
from hwm.models.flow import FlowHWM

JOB = FlowConfig(num_layers=6, num_heads=8, width=256)
"""6 layers x 256, four weight sets in the first four blocks and all others, on 2 + 1 latents of 16 x 16 x 16."""

VARIANTS = {
    "base": JOB,
    "modality": dataclasses.replace(JOB, sharing="modality"),
    "full": dataclasses.replace(JOB, sharing="full"),
    "split": dataclasses.replace(JOB, attention="split", sharing="modality", unshared_blocks=0),
}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small job, to see that it runs")
    parser.add_argument("--variant", choices=list(VARIANTS), default="base")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    return parser.parse_args()


def build(config: FlowConfig, batch_size: int) -> tuple[NaiveFlow, FlowHWM, Batch]:
    """Both models with the same weights, gates open, and a batch."""
    torch.manual_seed(0)
    ours = FlowHWM(config)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    latents = torch.randn(batch_size, config.context_grids + config.future_grids, config.channels, *config.grid)
    return NaiveFlow(ours), ours, Batch(states_BFA=torch.randn(batch_size, 17, 25), latents_BTCHW=latents)


def measure_training(config: FlowConfig, args: argparse.Namespace) -> str:
    """Loss, gradients and AdamW update."""
    plain, ours, batch = build(config, 4 * args.batch)
    plain_adam = torch.optim.AdamW(plain.parameters(), lr=1e-4)
    ours_adam = torch.optim.AdamW(ours.parameter_groups(0.01), lr=1e-4, fused=True)
    generator = torch.Generator()

    def plain_step() -> None:
        plain.loss(batch, generator).backward()
        plain_adam.step()
        plain_adam.zero_grad()

    def ours_step() -> None:
        with precision(args):
            loss = ours.loss(batch, generator=generator)["loss"]
        loss.backward()
        ours_adam.step()
        ours_adam.zero_grad()

    row = compare(plain_step, ours_step, repeats=args.repeats)
    return f"{row} | {extra_memory(plain_step):.2f} | {extra_memory(ours_step):.2f}"


def measure_sampling(config: FlowConfig, args: argparse.Namespace) -> str:
    """All solver steps with guidance; with bfloat16 ours holds its weights in bfloat16."""
    plain, ours, batch = build(config, args.batch)
    if args.precision == "bfloat16":
        ours.bfloat16()
    assert batch.latents_BTCHW is not None
    context_BTCHW = batch.latents_BTCHW[:, : config.context_grids]

    def plain_run() -> torch.Tensor:
        return plain.generate(context_BTCHW, batch.states_BFA, torch.Generator().manual_seed(0))

    def ours_run() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        latents_BKTCHW = ours.predict(context_BTCHW, batch.states_BFA, generator=generator).latents_BKTCHW
        assert latents_BKTCHW is not None
        return latents_BKTCHW[:, 0]

    row = compare(plain_run, ours_run, repeats=args.repeats)
    difference = (plain_run() - ours_run()).abs().max().item()
    return f"{row} | {extra_memory(plain_run):.2f} | {extra_memory(ours_run):.2f} | {difference:.1e}"


def main() -> None:
    """Print a row of each measurement."""
    args = options()
    torch.set_num_threads(args.threads)
    config = VARIANTS[args.variant]
    if args.quick:
        config = dataclasses.replace(config, grid=(8, 8), num_layers=2, steps=4)
    print(machine())
    print(f"{args.variant}, ours {args.precision}; plain CPU s | ours CPU s | ratio (min - max) | extra GB plain | ours")
    for context_sees in ("all", "context"):
        seen = dataclasses.replace(config, context_sees=context_sees)
        print(f"training step of {4 * args.batch}, context sees {context_sees:8}: {measure_training(seen, args)}")
        sampling = f"{config.steps} guided steps of {args.batch}, context sees {context_sees:8}"
        print(f"{sampling}: {measure_sampling(seen, args)} largest difference")


if __name__ == "__main__":
    main()
