"""How much faster is Masked-HWM than the plain model, in a training step and in prediction?   python benchmarks/masked.py"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.naive_masked import NaiveMasked
from benchmarks.timing import compare, extra_memory, machine
from hwm.contracts import Batch
from hwm.model_config import MaskedConfig
from hwm.models.masked import MaskedHWM

JOB = MaskedConfig(grid=(16, 16), num_layers=6, num_heads=8, width=256, unshared_blocks=1, dropout=0.0)
"""6 layers x 256 over 16x16 grids, 2 given and 1 predicted in 2 passes, all 64 000 words."""

QUICK = dataclasses.replace(JOB, vocab_size=8000, grid=(8, 8), num_layers=2)


def main() -> None:
    """Both with the same weights, in alternation; with bfloat16 ours trains under autocast and predicts in bfloat16."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small job, to see that it runs")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--sharing", choices=["stream", "modality", "full"], default="stream")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    config = dataclasses.replace(QUICK if args.quick else JOB, sharing=args.sharing)
    ours, plain = MaskedHWM(config), NaiveMasked(config)
    plain.load_state_dict(ours.state_dict(), strict=True)
    tokens_BTHW = torch.randint(config.vocab_size, (args.batch, 3, *config.grid))
    batch = Batch(states_BFA=torch.randn(args.batch, config.num_states, 25), tokens_BTHW=tokens_BTHW)
    low = args.precision == "bfloat16"
    head = "plain CPU s | ours CPU s | ratio, median (min - max)"

    plain_adam = torch.optim.AdamW(plain.parameters(), lr=1e-4)
    ours_adam = torch.optim.AdamW(ours.parameter_groups(0.05), lr=1e-4, fused=True)

    def plain_step() -> None:
        plain.loss(tokens_BTHW, batch.states_BFA, generator=torch.Generator().manual_seed(0)).backward()
        plain_adam.step()
        plain_adam.zero_grad()

    def ours_step() -> None:
        with torch.autocast("cpu", torch.bfloat16) if low else contextlib.nullcontext():
            loss = ours.loss(batch, generator=torch.Generator().manual_seed(0))["loss"]
        loss.backward()
        ours_adam.step()
        ours_adam.zero_grad()

    print(machine())
    print(f"training step, plain float32, ours {args.precision}: {head}")
    print(compare(plain_step, ours_step, repeats=args.repeats))
    print(f"extra memory GB: plain {extra_memory(plain_step):.2f} | ours {extra_memory(ours_step):.2f}")

    plain.load_state_dict(ours.state_dict(), strict=True)
    plain.eval(), ours.eval()
    if low:
        ours.bfloat16()
    context_BTHW = tokens_BTHW[:, :2]

    def plain_run() -> torch.Tensor:
        return plain.generate(context_BTHW, batch.states_BFA, generator=torch.Generator().manual_seed(0))

    def ours_run() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        tokens_BKTHW = ours.predict(context_BTHW, batch.states_BFA, generator=generator).tokens_BKTHW
        assert tokens_BKTHW is not None
        return tokens_BKTHW[:, 0]

    same = (plain_run() == ours_run()).float().mean().item()
    print(f"equal tokens: {same:.4f}")
    print(f"one grid in {config.steps} passes, plain float32, ours {args.precision}: {head}")
    print(compare(plain_run, ours_run, repeats=args.repeats))
    print(f"extra memory GB: plain {extra_memory(plain_run):.2f} | ours {extra_memory(ours_run):.2f}")


if __name__ == "__main__":
    main()
