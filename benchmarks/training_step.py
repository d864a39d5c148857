"""How much faster is a training step than that of the plain model?   python benchmarks/training_step.py"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import compare, extra_memory, machine
from benchmarks.workload import build, options, precision


def main() -> None:
    """Loss, gradients and AdamW update of both, in alternation; with bfloat16 ours runs under autocast."""
    args = options(__doc__)
    plain, ours, batch = build(args)
    plain_adam = torch.optim.AdamW(plain.parameters(), lr=1e-4)
    ours_adam = torch.optim.AdamW(ours.parameter_groups(0.05), lr=1e-4, fused=True)
    generator = torch.Generator().manual_seed(0)

    def plain_step() -> None:
        plain.loss(batch.tokens_BTHW, batch.states_BFA).backward()
        plain_adam.step()
        plain_adam.zero_grad()

    def ours_step() -> None:
        with precision(args):
            loss = ours.loss(batch, generator=generator)["loss"]
        loss.backward()
        ours_adam.step()
        ours_adam.zero_grad()

    print(machine())
    print(f"training step, plain float32, ours {args.precision}: plain CPU s | ours CPU s | ratio, median (min - max)")
    print(compare(plain_step, ours_step, repeats=args.repeats))
    print(f"extra memory GB: plain {extra_memory(plain_step):.2f} | ours {extra_memory(ours_step):.2f}")


if __name__ == "__main__":
    main()
