"""Two processes that find each other over the loopback and add up a number, as those of a training run do.

As a module this file is one of the two: python -m hwm.doctor.loopback RANK PORT SECONDS
"""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from hwm.doctor.ending import children
from hwm.doctor.verdict import Verdict, fail, ok
from hwm.training.launch import environment

SECONDS = 60.0
"""Two imports of torch on a busy machine, and little else."""


def exchange(*, seconds: float = SECONDS) -> Verdict:
    """An all_reduce of two processes over gloo, within that many seconds."""
    remedy = "let processes reach 127.0.0.1: check the firewall, or export GLOO_SOCKET_IFNAME=lo"
    limit = timedelta(seconds=seconds)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=limit)
    commands = [[sys.executable, "-m", __name__, str(rank), str(store.port), str(seconds)] for rank in range(2)]
    with children(commands, env=environment(2), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as processes:
        try:
            answers = [process.communicate(timeout=seconds) for process in processes]
        except subprocess.TimeoutExpired:
            return fail("processes", f"two did not find each other within {seconds:g} s", remedy)
    sums = [out.decode().strip() for out, _ in answers]
    if sums != ["3.0", "3.0"]:
        lines = [line for _, wrong in answers for line in wrong.decode(errors="replace").strip().splitlines()]
        return fail("processes", f"two could not add up: {(lines or ['no message'])[-1][:200]}", remedy)
    return ok("processes", "two found each other over the loopback and added up (gloo)")


def _take_part(rank: int, port: int, seconds: float) -> None:
    limit = timedelta(seconds=seconds)
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=limit)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=limit)
    number = torch.tensor(rank + 1.0)
    dist.all_reduce(number)
    print(number.item(), flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    _take_part(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
