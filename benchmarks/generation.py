"""How much faster is predicting three grids than with the plain model?   python benchmarks/generation.py"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import compare, extra_memory, machine
from benchmarks.workload import build, options


def main() -> None:
    """Greedy autoregressive prediction of both, in alternation; with bfloat16 ours holds its weights in bfloat16."""
    args = options(__doc__)
    plain, ours, batch = build(args)
    plain.eval(), ours.eval()
    if args.precision == "bfloat16":
        ours.bfloat16()
    assert batch.tokens_BTHW is not None
    context_BTHW, generator = batch.tokens_BTHW[:, :3], torch.Generator().manual_seed(0)

    def plain_run() -> torch.Tensor:
        return plain.generate(context_BTHW, batch.states_BFA)

    def ours_run() -> torch.Tensor:
        tokens_BKTHW = ours.predict(context_BTHW, batch.states_BFA, generator=generator).tokens_BKTHW
        assert tokens_BKTHW is not None
        return tokens_BKTHW[:, 0]

    same = (plain_run() == ours_run()).float().mean().item()
    print(machine())
    print(f"equal tokens: {same:.4f}")
    print(f"three grids, plain float32, ours {args.precision}: plain CPU s | ours CPU s | ratio, median (min - max)")
    print(compare(plain_run, ours_run, repeats=args.repeats))
    print(f"extra memory GB: plain {extra_memory(plain_run):.2f} | ours {extra_memory(ours_run):.2f}")


if __name__ == "__main__":
    main()
