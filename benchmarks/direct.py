"""How many frames a second does `direct-tiny` predict, one at a time and many in a call?   python benchmarks/direct.py"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import compare, machine
from hwm.contracts import Sampling
from hwm.models.direct import Direct
from hwm.recipes import recipe
from hwm.sim.body.robot import skeleton


def main() -> None:
    """The built-in robot's skeleton, a mounting and samples; random weights, pictures and states: they cost as any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(machine())
    words = "CPU s one at a time | in one call | ratio, median (min - max) | frames a second of the clock, each way"
    print(f"{args.frames} frames: {words}")
    for side in (64, 128):
        config = replace(recipe("direct-tiny").model, grid=(side, side), skeleton=skeleton(), noised=0.25)
        model = Direct(config).eval()
        print(f"{side}x{side}, mean: {row(model, Sampling(0.0), args)}")
        print(f"{side}x{side}, sample of {config.steps} steps: {row(model, Sampling(1.0), args)}")


def row(model: Direct, sampling: Sampling, args: argparse.Namespace) -> str:
    """What one way to predict costs."""
    config = model.config
    context_BFHWC = torch.randint(256, (1, config.context_grids, *config.grid, 3), dtype=torch.uint8)
    states_BFA = torch.randn(1, config.context_grids + args.frames, config.state_dim)

    def predict(only: list[int] | None) -> None:
        model.predict(context_BFHWC, states_BFA, generator=torch.Generator().manual_seed(0), sampling=sampling, only=only)

    def each() -> None:
        for horizon in range(1, args.frames + 1):
            predict([horizon])

    def together() -> None:
        predict(None)

    compared, clock = compare(each, together, repeats=args.repeats), []
    for run in (each, together):
        start = time.perf_counter()
        run()
        clock.append(f"{args.frames / (time.perf_counter() - start):.1f}")
    return f"{compared} | {', '.join(clock)}"


if __name__ == "__main__":
    main()
