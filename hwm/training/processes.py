"""The processes that train one model together, and the few words they exchange: yes or no, numbers, plain values.

A launcher (torchrun) starts them and tells each its number in the environment.  Gradients and weights travel elsewhere
(training/parallel.py); what is said here goes over the CPU, as tensors of bytes: no pickle, no device is waited for.
"""

import json
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

FIRST_STEP = 10
"""The first step compiles, allocates and reads cold files: it may take this many times longer than another."""
PATIENCE = 30
"""Waiting for what the first process alone does, such as writing a checkpoint, may take this many times longer."""
LOOPBACK = "127.0.0.1"
"""Where the processes of one machine meet."""
STALE_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
"""Set to 1 for the launcher: without it, restarted processes may read the addresses of dead ones and hang (pytorch#135712)."""


@dataclass(frozen=True)
class Processes:
    """This process, number `rank` of `world`, `local_rank` on its machine.  The default is one process alone.

    patient: the group for what may take long; None alone.  The calls below are made by all processes in the same order.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    timeout: float = 120.0
    patient: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and speaks."""
        return self.rank == 0

    def any(self, flag: object) -> bool:
        """Whether the flag is up in any process."""
        if self.world == 1:
            return bool(flag)
        told = torch.tensor(float(bool(flag)))
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return bool(told)

    def sum(self, values: list[float]) -> list[float]:
        """Sums over the processes, in float64."""
        if self.world == 1:
            return values
        told = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(told)
        return told.tolist()

    def gather(self, value: Any) -> list[Any]:
        """The plain value (as JSON takes it) of every process, by rank."""
        if self.world == 1:
            return [value]
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros((), dtype=torch.int64) for _ in range(self.world)]
        dist.all_gather(sizes, torch.tensor(len(data)), group=self.patient)
        longest = max(int(size) for size in sizes)
        told = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.world)]
        dist.all_gather(told, torch.cat([data, data.new_zeros(longest - len(data))]), group=self.patient)
        return [json.loads(bytes(part[: int(size)].tolist())) for part, size in zip(told, sizes)]  # noqa: TID251, our own message

    def on_first(self, work: Callable[[], Any]) -> Any:
        """What `work` gives (a plain value) when the first process does it, while the others wait.

        Its ValueError is raised in all of them, so that all end, each knowing why.
        """
        if self.world == 1:
            return work()
        answer: dict[str, Any] = {}
        if self.first:
            try:
                answer = {"value": work()}
            except ValueError as error:
                answer = {"error": str(error)}
        answer = self.gather(answer)[0]
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer["value"]

    def after_first_step(self) -> None:
        """From now on a process that is silent for `timeout` seconds is taken for dead."""
        if self.world > 1:
            _wait(self.timeout)


ALONE = Processes()


def under_launcher() -> bool:
    """Whether a launcher such as torchrun started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextmanager
def joined(*, device: str, timeout: float) -> Iterator[Processes]:
    """Join the processes that the launcher started beside this one; alone without a launcher.

    device: train.device.  timeout: seconds after which a silent process is taken for dead.
    Raises ValueError when there are fewer GPUs than processes, RuntimeError when these do not find each other.
    """
    world = int(os.environ["WORLD_SIZE"]) if under_launcher() else 1
    if world == 1:
        yield ALONE
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", 0))
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        if local_rank >= torch.cuda.device_count():
            found = f"process {local_rank} of this machine finds {torch.cuda.device_count()} GPUs"
            raise ValueError(f"{found}; start one process a GPU, or set train.device=cpu")
        torch.cuda.set_device(local_rank)
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        _stay_at_home()
    limit = timedelta(seconds=timeout)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=limit)
        patient = dist.new_group(backend="gloo", timeout=limit * PATIENCE)
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        # No mistake of the user, which would end the job: the launcher tries again.
        raise RuntimeError(f"process {rank} of {world} did not find the others within {timeout:.0f} s: {reason}") from None
    _wait(timeout * FIRST_STEP)
    with warnings.catch_warnings():
        # Every model is told that some of its weights may lie idle; FSDP warns of its own views.
        warnings.filterwarnings("ignore", message=".*find_unused_parameters=True was specified.*")
        warnings.filterwarnings("ignore", message=".*returned a view tensor.*")
        yield Processes(rank, world, local_rank, timeout, patient)
    # Only on success: where a process failed the others do not answer, and leaving at once is what tells them.
    dist.barrier(group=patient)
    dist.destroy_process_group()


def _stay_at_home() -> None:
    """On one machine processes talk over the loopback, also where nobody knows the machine's own name (no DNS)."""
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)
    try:
        socket.getaddrinfo(os.environ["MASTER_ADDR"], None)
    except OSError:
        os.environ["MASTER_ADDR"] = LOOPBACK


def _wait(seconds: float) -> None:
    # torch has no public name for it; without it the first step would need the same limit as all others.
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=seconds), dist.group.WORLD)
